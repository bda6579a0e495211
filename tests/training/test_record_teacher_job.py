"""``record-teacher`` and ``train --teacher CACHE`` with the real commands: resumed, refused, learnt from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from engine.distillation.teacher_cache import open_cache
from engine.evaluation.held_out import HeldOut, write_held_out
from engine.ingest.samples_folder import data_facts
from engine.models.network import Network, save_weights
from engine.store.files import read_json, write_json
from engine.tasks import task_named
from engine.tasks.ages.accuracy import PREDICTED, errors
from engine.tasks.ages.answer import AGE
from engine.tasks.ages.learning import AGE_LEARNING
from engine.training.dataset import open_training_set, pack_images
from engine.training.evaluate import answered, recorded_test_split
from engine.training.run_folder import EVALUATION_NAME, RUN_NAME, WEIGHTS_NAME
from jobs.__main__ import main
from tests.fixtures.judged_fixture import CALIBRATION
from tests.fixtures.training_fixture import BACKBONE, LABELS, Made, net_facts, tiny_recipe, write_ingest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

torch.set_num_threads(1)


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, dict[str, Any]]:
    """Exit code and last line of a verb."""
    with pytest.raises(SystemExit) as end:
        main([*map(str, words), "--json"])
    line: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return int(end.value.code or 0), line


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = [
        Made(patient=f"P{index}", months=5.0 + 6 * index, split="test" if index % 5 == 0 else "train")
        for index in range(39)
    ]
    return write_ingest(tmp_path_factory.mktemp("discs"), made, shard_size=20)


def finished(folder: Path, data: Path, seed: int) -> Path:
    """A run as `osteoray train` leaves it; its network has learnt nothing."""
    folder.mkdir(parents=True)
    facts = net_facts(backbone=BACKBONE)
    torch.manual_seed(seed)
    save_weights(Network(facts), folder / WEIGHTS_NAME)
    line = {"folder": str(data), **data_facts(data)}
    write_json(
        folder / RUN_NAME,
        {
            "status": "done", "task": "hand-age", "model": facts.facts(), "data": line,
            "recipe": tiny_recipe().facts(),
        },
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def teachers(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("teachers")
    return finished(root / "a", data, 1), finished(root / "b", data, 2)


@pytest.fixture(scope="module")
def cache(
    data: Path, teachers: tuple[Path, Path], ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out: Path = tmp_path_factory.mktemp("cache") / "cache"
    with pytest.raises(SystemExit) as end:
        main(["record-teacher", str(teachers[0]), "--data", str(data), "--out", str(out)])
    assert not end.value.code
    return out


def test_a_cache_goes_on_where_it_was_stopped(
    cache: Path, data: Path, teachers: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = tmp_path / "half"
    shutil.copytree(cache, half)
    manifest = read_json(half / "manifest.json")
    write_json(half / "manifest.json", {**manifest, "complete": False})
    (half / "shards" / "00001.arrow").unlink()
    kept = (half / "shards" / "00000.arrow").stat().st_mtime_ns
    code, line = run(capsys, "record-teacher", teachers[0], "--data", data, "--out", half)
    assert (code, line["recorded"]) == (0, 39)
    assert (half / "shards" / "00000.arrow").stat().st_mtime_ns == kept
    assert read_json(half / "manifest.json")["shards"] == manifest["shards"]  # to the digest


def test_an_ensemble_gives_logits_only(
    data: Path, teachers: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = run(capsys, "record-teacher", *teachers, "--data", data, "--out", tmp_path / "both")
    assert (code, line["outputs"]) == (0, "logits")
    table = pa.ipc.open_file(tmp_path / "both" / "shards" / "00000.arrow").read_all()
    assert table.column_names[3:] == ["logits"]
    words = ("--data", data, "--out", tmp_path / "maps", "--outputs", "logits,features")
    code, line = run(capsys, "record-teacher", *teachers, *words)
    assert (code, line["error"]) == (2, "ORY-U01")
    assert not (tmp_path / "maps").exists()


def test_passes_are_part_of_a_cache_and_its_error_is_that_of_what_was_recorded(
    cache: Path, data: Path, teachers: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = tmp_path / "packed"
    samples.mkdir()
    pack_images(data, samples, LABELS)
    tested = open_training_set(data, samples, task_named("hand-age"))

    def said(folder: Path) -> HeldOut:
        raw = recorded_test_split(open_cache(folder), tested, AGE_LEARNING)
        return answered(raw, AGE, AGE_LEARNING, CALIBRATION.facts())

    held = said(cache)
    run_folder = finished(tmp_path / "judged", data, 1)
    facts = read_json(run_folder / RUN_NAME)
    write_json(run_folder / RUN_NAME, {**facts, "calibration": CALIBRATION.facts()})
    write_held_out(held, run_folder / EVALUATION_NAME)
    words = (
        "record-teacher",
        run_folder,
        "--data",
        data,
        "--out",
        tmp_path / "looked",
        "--outputs",
        "logits",
    )
    code, line = run(capsys, *words, "--passes", "4")
    assert (code, line["recorded"], line["test_instances"]) == (0, 39, len(held.uids_N))
    looked = said(tmp_path / "looked")
    assert not (looked.predicted[PREDICTED] == held.predicted[PREDICTED]).any()
    assert line["test_mae_months"] == pytest.approx(abs(errors(looked)).mean(), abs=0.006)
    code, line = run(capsys, *words)
    assert (code, line["error"]) == (1, "ORY-T01")


def test_verify_finds_a_changed_shard_of_a_cache(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(cache, copy)
    assert run(capsys, "verify", copy) == (
        0, {
            "verb": "verify", "exit_code": 0, "warnings": [], "folder": str(copy), "recorded": 39,
            "ledger": "balances",
        }
    )  # fmt: skip
    shard = copy / "shards" / "00001.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    code, line = run(capsys, "verify", copy)
    assert code == 1
    assert str(shard) in line["message"]


def test_other_teachers_do_not_go_on_with_a_cache(
    cache: Path, data: Path, teachers: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("record-teacher", "teach"):  # as it was called before
        code, line = run(capsys, verb, teachers[1], "--data", data, "--out", cache)
        assert (code, line["error"]) == (1, "ORY-T01")


STUDENT = (
    "train", "demo-student", "--set", f"backbone={BACKBONE}", "--set", "epochs=2", "--workers", "1",
)  # fmt: skip


def test_a_student_learns_from_a_cache_and_is_held_against_it(
    cache: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = run(capsys, *STUDENT, "--data", data, "--teacher", cache, "--out", tmp_path / "run")
    assert code == 0, line
    facts = read_json(tmp_path / "run" / RUN_NAME)
    assert facts["teacher"]["recorded"]
    assert facts["teacher"]["backbone"] == BACKBONE
    assert facts["evaluation"]["fidelity"]["mean"] >= 0


def test_a_cache_that_does_not_fit_is_refused_before_any_training(
    cache: Path, data: Path, teachers: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*STUDENT, "--data", data, "--out", tmp_path / "run", "--teacher", cache)
    code, line = run(capsys, *words, "--set", "distill.cat=1")
    assert (code, line["error"]) == (1, "ORY-L02")
    assert "the term cat needs dense" in line["message"]
    weights = teachers[0] / WEIGHTS_NAME
    before = weights.read_bytes()
    try:
        weights.write_bytes((teachers[1] / WEIGHTS_NAME).read_bytes())
        code, line = run(capsys, *words)
    finally:
        weights.write_bytes(before)
    assert (code, line["error"]) == (1, "ORY-L02")
    assert "record it again" in line["message"]
    assert not (tmp_path / "run" / RUN_NAME).exists()


def test_an_instance_that_is_not_in_the_cache_is_refused(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [
        Made(patient=f"P{index}", months=5.0 + 6 * index, split="test" if index % 5 == 0 else "train")
        for index in range(39)
    ]
    strange = write_ingest(tmp_path, made)
    words = ("--data", strange, "--teacher", cache, "--out", tmp_path / "run")
    code, line = run(capsys, *STUDENT, *words)
    assert (code, line["error"]) == (1, "ORY-L02")
    assert "lacks 28 of 28" in line["message"]
