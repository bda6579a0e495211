"""The whole path with the real command: what it writes, that its books balance, that it survives SIGKILL."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from engine.datasets.phantom.faults import FAULTS as KINDS
from engine.deploy.bundle import BUNDLE_NAME, SEAL, open_bundle, read_facts, sealed
from engine.deploy.engines import PREDICTORS
from engine.ingest.shard import ReadSpec
from engine.store.files import read_json, write_json
from jobs.__main__ import main
from jobs.running import running
from jobs.score import Request, run_score
from tests.fixtures.breaking_child import broken, isolation
from tests.fixtures.story import COUNT, FAULTS, QUICK, SHARD_SIZE, Story, column, osteoray

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]  # the story is told in the first test


def test_every_verb_ends_as_it_should(story: Story) -> None:
    codes = {name: ended.code for name, ended in story.ended.items()}
    assert codes == {
        "phantom": 0, "ingest": 3, "teacher": 0, "student": 0, "export": 0, "score": 3, "report": 0,
    }  # fmt: skip


@pytest.mark.parametrize("folder", ["samples", "scores"])
def test_books_balance(story: Story, folder: str) -> None:
    ended = osteoray("verify", story.root / folder)
    done = "samples" if folder == "samples" else "scored"
    assert ended.code == 0
    assert ended.facts[done] == COUNT
    assert ended.facts["planned"] == COUNT + FAULTS
    rejected = sum(ended.facts.get(end, 0) for end in ("filtered", "abstained", "quarantined"))
    assert ended.facts[done] + rejected == COUNT + FAULTS


@pytest.mark.parametrize("folder", ["samples", "scores"])
def test_faults_end_with_the_right_reason(story: Story, folder: str) -> None:
    rows = [
        (table, row["reason"])
        for table in ("quarantine", "filtered")
        for row in column(story.root / folder, table, ["reason"])
    ]
    assert Counter(rows) == Counter((fault.table, fault.reason) for fault in KINDS.values())


NO_GPU = "this needs 1 GPU(s) and the Ray cluster has 0"


@pytest.mark.parametrize("verb", ["score", "train", "record-teacher"])
def test_a_cluster_without_the_gpu_that_is_needed_is_refused(
    story: Story, tmp_path: Path, joined: None, verb: str
) -> None:
    words = {
        "score": (story.archive, "--model", story.bundle, "--engine", "cuda"),
        "train": ("demo-teacher", "--data", story.samples, "--workers", 1, "--gpu"),
        "record-teacher": (story.teacher, "--data", story.samples, "--gpu"),
    }
    ended = osteoray(verb, *words[verb], "--out", tmp_path / "out")
    assert (ended.code, ended.facts["error"]) == (1, "ORY-C01")
    assert NO_GPU in ended.facts["message"]


def test_serving_without_the_gpu_that_is_needed_is_refused(
    story: Story, tmp_path: Path, joined: None, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(story.bundle, bundle)
    facts = {name: fact for name, fact in read_facts(bundle).items() if name != SEAL}
    write_json(bundle / BUNDLE_NAME, sealed({**facts, "engine": "cuda"}))
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--model", str(bundle)])
    assert ended.value.code == 1
    assert NO_GPU in capsys.readouterr().err


def test_a_gpu_engine_is_refused_at_once_where_it_would_run_here(story: Story, tmp_path: Path) -> None:
    if PREDICTORS["cuda"].available():
        pytest.skip("this machine has a GPU")
    words = (story.archive, "--model", story.bundle, "--engine", "cuda", "--out", tmp_path / "out")
    ended = osteoray("score", *words)
    assert (ended.code, ended.facts["error"]) == (1, "ORY-D01")
    assert not (tmp_path / "out").exists()


def test_samples_read_without_ray(story: Story) -> None:
    frame = pl.read_parquet(story.samples / "shards" / "*" / "samples.parquet")
    assert frame.height == COUNT
    assert frame["image"].ext.storage().to_numpy().shape == (COUNT, 64 * 64)
    assert frame["bone_age_months"].is_between(1, 240).all()
    assert frame["sop_instance_uid"].n_unique() == COUNT


def test_student_learned_from_the_teacher_and_is_small(story: Story) -> None:
    run = read_json(story.student / "run.json")
    lines = [json.loads(line) for line in (story.student / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert {"term/kd/raw", "term/hint/weighted", "term/gradcam/raw", "val/error"} <= set(lines[0])
    assert run["teacher"]["backbone"] == "resnet10t"
    assert run["parameters"] <= 2_000_000
    assert list((story.student / "tensorboard").iterdir())


def test_bundle_holds_facts_and_no_adapter(story: Story) -> None:
    facts = read_json(story.bundle / "bundle.json")
    gates = facts["parity"]["gates"]
    assert list(gates) == ["months", "sd_months"]
    assert all(gate["departure"] <= gate["limit"] for gate in gates.values())
    assert facts["task"]["rule"]["view"]["size_HW"] == [64, 64]
    assert facts["research_use_only"] is True
    assert "Research use only" in (story.bundle / "card.md").read_text()


def test_report_is_one_self_contained_page(story: Story) -> None:
    page = (story.scores / "report.html").read_text()
    assert "Research use only" in page or "research use only" in page
    assert "data:image/png;base64," in page
    assert "<script" not in page
    assert 'src="http' not in page


def test_scoring_again_does_nothing(story: Story) -> None:
    before = {path: path.stat().st_mtime_ns for path in story.scores.glob("shards/*/*")}
    again = osteoray(
        "score", story.archive, "--model", story.bundle, "--out", story.scores, "--shard-size", SHARD_SIZE
    )
    assert again.code == 3
    assert again.facts["scored_this_run"] == 0
    assert {path: path.stat().st_mtime_ns for path in story.scores.glob("shards/*/*")} == before


def test_another_model_or_archive_is_refused(story: Story) -> None:
    ended = osteoray(
        "score", story.archive, "--model", story.bundle, "--out", story.scores, "--shard-size", 7
    )
    assert ended.code == 1
    assert ended.facts["error"] == "ORY-T01"


def test_killed_score_resumes_without_lost_or_double_rows(story: Story, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    words = ["score", story.archive, "--model", story.bundle, "--out", out, "--shard-size", "4"]
    kill_when(words, lambda: len(list(out.glob("shards/*/shard.json"))) >= 2)
    committed = {path.parent.name for path in out.glob("shards/*/shard.json")}
    assert 0 < len(committed) < 26
    resumed = osteoray(*words)
    assert resumed.code == 3
    assert resumed.facts["kept"] == 4 * len(committed)
    assert osteoray("verify", out).code == 0
    names = ["sop_instance_uid", "predicted_months", "sd_months"]
    by_uid = {row["sop_instance_uid"]: row for row in column(story.scores, "predictions", names)}
    rows = column(out, "predictions", names)
    assert len(rows) == COUNT
    assert {row["sop_instance_uid"]: row for row in rows} == by_uid


@pytest.mark.nightly
def test_what_is_read_first_to_know_the_time_left_is_scored_like_the_rest(
    story: Story, tmp_path: Path, joined: None
) -> None:
    scored = column(story.scores, "predictions", ["path", "sop_instance_uid", "predicted_months"])
    scored = [row for row in scored if (story.archive / row["path"]).is_file()]
    for number in range(700):
        folder = tmp_path / "archive" / str(number // 100)
        folder.mkdir(parents=True, exist_ok=True)
        os.link(story.archive / scored[number % len(scored)]["path"], folder / f"{number:03d}.dcm")
    out = tmp_path / "scores"
    words = ["score", tmp_path / "archive", "--model", story.bundle, "--out", out, "--shard-size", "100"]
    ended = subprocess.run(
        [sys.executable, "-m", "jobs", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0
    lines = [line for line in ended.stderr.splitlines() if line.startswith("score: ") and "left" in line]
    assert lines
    assert osteoray("verify", out).code == 0
    rows = column(out, "predictions", ["path", "sop_instance_uid", "predicted_months"])
    assert len({row["path"] for row in rows}) == len(rows) == 700
    months = {row["sop_instance_uid"]: row["predicted_months"] for row in scored}
    assert {row["sop_instance_uid"] for row in rows} == set(months)
    for row in rows:
        assert row["predicted_months"] == pytest.approx(months[row["sop_instance_uid"]], abs=1e-3)


def test_files_that_break_the_decoder_cost_their_rows_and_no_run(story: Story, tmp_path: Path) -> None:
    good = [path for path in sorted(story.archive.rglob("*.dcm")) if path.stat().st_size > 10_000][:8]
    for number, path in enumerate(good):
        way = {2: "segfault", 5: "balloon"}.get(number)
        data = path.read_bytes()
        (tmp_path / "archive").mkdir(exist_ok=True)
        (tmp_path / "archive" / f"{number}.dcm").write_bytes(broken(data, way) if way else data)
    bundle, out = open_bundle(story.bundle), tmp_path / "scores"
    spec = ReadSpec(
        source=str(tmp_path / "archive"),
        folder=out,
        rules=(bundle.rule,),
        salt=b"s" * 32,
        isolation=isolation(),
    )
    with running(out) as run:
        counts, _ = run_score(spec, (bundle,), run, Request(shard_size=4))
    assert counts["quarantined"] == 2
    assert counts["scored"] + counts["abstained"] + counts["filtered"] == 6
    rows = {row["path"]: row["reason"] for row in column(out, "quarantine", ["path", "reason"])}
    assert rows == {"2.dcm": "decoder_crash", "5.dcm": "decoder_memory"}
    assert osteoray("verify", out).code == 0


@pytest.mark.nightly  # its parts run always: tests/training/test_loop.py, test_train_ray.py
def test_killed_training_goes_on_from_its_checkpoint(story: Story, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["train", "demo-teacher", "--data", story.samples, "--out", out,
             "--set", "epochs=4", "--set", "batch_size=16"]  # fmt: skip
    metrics = out / "metrics.jsonl"
    kill_when(words, lambda: metrics.exists() and metrics.read_text().count("\n") >= 2)
    before = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert read_json(out / "run.json")["status"] == "running"
    assert osteoray(*words).code == 0
    after = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["epoch"] for line in after] == [1, 2, 3, 4]
    assert after[0] == before[0]  # the first epoch was kept, seconds included: it was not done again
    assert [line["step"] for line in after] == [before[0]["step"] * n for n in (1, 2, 3, 4)]


def test_lease_turns_a_second_starter_away(story: Story, tmp_path: Path) -> None:
    from engine.store import lease

    words = ["score", story.archive, "--model", story.bundle, "--out", tmp_path / "held"]
    with lease.hold(tmp_path / "held"):
        done = subprocess.run([*command(words)], capture_output=True, text=True, check=False)
    assert done.returncode == 75
    assert "ORY-R01" in done.stderr


def test_planted_damage_is_found(story: Story, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(story.scores, copy)
    victim = sorted(copy.glob("shards/*/predictions-*.parquet"))[1]
    pq.write_table(pq.read_table(victim).slice(1), victim)
    ended = osteoray("verify", copy)
    assert (ended.code, ended.facts["error"]) == (1, "ORY-T02")


def test_quick_recipe_changes_are_in_the_run(story: Story) -> None:
    assert "epochs=2" in QUICK
    assert read_json(story.teacher / "run.json")["recipe"]["schedule"]["epochs"] == 2


def command(words: list[object]) -> list[str]:
    return [sys.executable, "-m", "jobs", *(str(word) for word in words)]


def kill_when(words: list[object], ready: Callable[[], bool]) -> None:
    """Start the command in a process group of its own, and SIGKILL all of it once ``ready``."""
    environment = {**os.environ, "RAY_ADDRESS": ""}
    process = subprocess.Popen(
        command(words), start_new_session=True, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not ready():
        assert process.poll() is None, "the command ended before it could be killed"
        assert time.monotonic() < deadline, "the command never got that far"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
