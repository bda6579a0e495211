"""knee-age from a file to a training set: which films, which side, which labels, and a hand model's trunk."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.dicom.write import Facts, uid_from, write_instance
from engine.errors import BodyPartError, TrainingError
from engine.ingest.covariates import columns, names_of
from engine.ingest.instance import Instance
from engine.ingest.shard import ReadSpec
from engine.models.network import Head, Network, load_start, save_weights
from engine.store.files import write_json
from engine.store.labels import read_label_table
from engine.tasks import TASKS, task_named
from engine.tasks.ages.pseudo_labelling import pseudo_labels
from engine.tasks.hand_age import HAND_AGE
from engine.tasks.knee_age import KNEE_AGE
from engine.training.dataset import TrainingSet, open_training_set, pack_images
from engine.training.recipe import Inputs, Split, model_of
from engine.training.run_folder import RUN_NAME, WEIGHTS_NAME
from tests.fixtures.prepared import prepare
from tests.fixtures.story import osteoray
from tests.fixtures.training_fixture import (
    BACKBONE,
    SIZE,
    disc,
    ingest_here,
    net_facts,
    small_view,
    tiny_recipe,
)

torch.set_num_threads(1)
SALT = b"a salt for tests"
KNEE = small_view(KNEE_AGE)
RULE = replace(KNEE_AGE.rule, view=KNEE.rule.view)
CHILDREN = 40


def film(path: Path, *, part: str | None = "KNEE", side: str | None = None, **more: str) -> Path:
    """A disc, brighter at its left."""
    image_HW = disc(200)
    image_HW[:, : SIZE // 2] += 20
    uid = uid_from(str(path))
    facts = Facts(
        sop_instance_uid=uid, study_instance_uid=uid_from("s", uid), series_instance_uid=uid_from("r", uid),
        patient_id=more.get("patient", "p"), patient_sex="F", patient_age=more.get("age"),
        body_part_examined=part, image_laterality=side, bits_stored=8,
    )  # fmt: skip
    write_instance(path, image_HW, facts)
    return path


def seen(path: Path) -> Instance:
    return prepare(path.read_bytes(), RULE, SALT)


def test_the_rule_survives_its_facts() -> None:
    assert {task.name for task in TASKS.values()} >= {"hand-age", "knee-age"}
    assert names_of(task_named("knee-age").covariates) == ("sex", "chronological_age")


@pytest.mark.parametrize("part", ["KNEE", None, "LOWER EXTREMITY", "ROTULA"])
def test_what_states_no_other_part_is_taken(tmp_path: Path, part: str | None) -> None:
    assert seen(film(tmp_path / "a.dcm", part=part)).image_HW.shape == (SIZE, SIZE)


def test_a_film_of_another_part_is_filtered(tmp_path: Path) -> None:
    with pytest.raises(BodyPartError, match="body part"):
        seen(film(tmp_path / "hand.dcm", part="HAND"))
    with pytest.raises(BodyPartError):
        prepare(film(tmp_path / "knee.dcm").read_bytes(), HAND_AGE.rule, SALT)


def test_left_knees_are_mirrored_and_the_geometry_says_so(tmp_path: Path) -> None:
    left, right, unknown = (seen(film(tmp_path / f"{side}.dcm", side=side)) for side in ("L", "R", None))
    assert np.array_equal(right.image_HW, unknown.image_HW)
    assert np.array_equal(left.image_HW, right.image_HW[:, ::-1])
    point = np.array([[3.0, 5.0]])
    assert right.geometry.to_network(point).tolist() == [[3.0, 5.0]]
    assert left.geometry.to_network(point).tolist() == [[SIZE - 1 - 3.0, 5.0]]
    assert left.geometry.to_original(left.geometry.to_network(point)) == pytest.approx(point)


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Knees of forty children; a third read by experts, two thirds pseudo-labelled, a few with nothing."""
    root = tmp_path_factory.mktemp("knees")
    archive, out = root / "archive", root / "samples"
    archive.mkdir()
    names = ("sop_instance_uid", "bone_age_months", "split", "pseudo_mean_months", "pseudo_sd_months")
    with (root / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for index in range(CHILDREN):
            path = archive / f"{index:03d}.dcm"
            film(path, patient=f"P{index}", age="120M" if index % 2 else "")
            truth = 100 + index if index % 3 == 0 else ""
            mean, sd = (90 + index, index % 4) if index % 3 != 2 or index % 2 else ("", "")
            split = "test" if index >= 30 else "train"
            writer.writerow((uid_from(str(path)), truth, split, mean, sd))
    labels = read_label_table(root / "labels.csv", KNEE.labels)
    spec = ReadSpec(
        source=str(archive), folder=out, rules=(RULE,), salt=SALT, labels=labels,
        label_names=KNEE.label_columns,
    )  # fmt: skip
    return ingest_here(spec, {**KNEE.facts(), "rule": RULE.facts()}, 16)


NO_FOLDS = Split()


def opened(folder: Path, cache: Path, inputs: Inputs, split: Split = NO_FOLDS) -> TrainingSet:
    pack_images(folder, cache, KNEE.labels)
    return open_training_set(folder, cache, KNEE, inputs, split)


def test_labels_of_each_kind_reach_the_training_set(ingested: Path, tmp_path: Path) -> None:
    truth, pseudo, both = (
        opened(ingested, tmp_path / kind, Inputs(labels=kind))  # type: ignore[arg-type]
        for kind in ("truth", "pseudo", "both")
    )
    used = [int((kind.splits_N != "").sum()) for kind in (truth, pseudo, both)]
    assert used[0] == 14
    assert used[0] < used[1] <= used[2]
    assert "is_expert" not in truth.targets
    is_expert_N = pseudo.targets["is_expert"] > 0
    train = pseudo.splits_N != "test"
    assert not is_expert_N[train].any()
    learnt = train & (pseudo.splits_N != "")
    months_N, made_N = pseudo.targets["bin"], pseudo.truth["pseudo_mean_months"]
    assert np.array_equal(months_N[learnt], made_N[learnt])
    judged = (pseudo.splits_N == "test") & is_expert_N
    assert judged.any()
    assert (pseudo.truth["bone_age_months"][judged] - made_N[judged] == 10).all()
    experts = np.isin(both.uids_N, truth.uids_N[truth.splits_N != ""])
    assert np.array_equal(both.targets["is_expert"] > 0, experts)


def test_a_split_by_folds_passes_over_what_has_no_label(ingested: Path, tmp_path: Path) -> None:
    data = opened(ingested, tmp_path, Inputs(labels="truth"), Split(folds=3, fold=1))
    assert set(data.splits_N) == {"", "train", "val", "test"}
    assert np.isfinite(data.targets["bin"][data.index_of("train")]).all()
    assert np.isfinite(data.targets["bin"][data.index_of("val")]).all()


def test_age_is_told_and_kept_and_hidden_images_are_one_noise(ingested: Path, tmp_path: Path) -> None:
    data = opened(ingested, tmp_path, Inputs(labels="both", hide_image=True))
    assert (data.images_NVHW == data.images_NVHW[0]).all()
    assert data.images_NVHW[0].std() > 50
    known = np.isfinite(data.age_months_N)
    assert 0 < known.sum() < len(known)
    rows = [{"patient_sex": "F", "age_months": 120.0 if is_known else None} for is_known in known]
    assert np.array_equal(data.covariates_NQ, columns(rows, KNEE.covariates))


@pytest.mark.parametrize("head", ["distribution", "regression"])
def test_a_knee_model_starts_from_all_of_a_hand_model_and_an_age_without_effect(
    head: Head, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    hand = Network(net_facts(backbone=BACKBONE, head=head))
    torch.nn.init.ones_(hand.covariate_scale_shift.weight)
    save_weights(hand, tmp_path / "hand.safetensors")
    knee = Network(model_of(tiny_recipe(), KNEE.covariates, 1))
    own_head = knee.classify.weight.clone()
    load_start(knee, tmp_path / "hand.safetensors")
    for own, given in zip(knee.trunk.state_dict().values(), hand.trunk.state_dict().values(), strict=True):
        assert torch.equal(own, given)
    sex = 1.0 if head == "distribution" else 0.0
    assert knee.covariate_scale_shift.weight[:, 0].eq(sex).all()
    assert not knee.covariate_scale_shift.weight[:, 1:].any()
    kept = hand.classify.weight if head == "distribution" else own_head
    assert torch.equal(knee.classify.weight, kept)


def run(folder: Path, seed: int, view: dict[str, object]) -> Path:
    torch.manual_seed(seed)
    net = Network(net_facts(backbone=BACKBONE))
    with torch.no_grad():
        net.classify.weight.normal_(std=0.5)
    folder.mkdir()
    save_weights(net, folder / WEIGHTS_NAME)
    facts = {"status": "done", "task": "hand-age", "model": net.facts.facts()}
    facts |= {"data": {"rule": {"view": view}}}
    write_json(folder / RUN_NAME, facts)
    return folder


def test_several_runs_give_a_mean_and_a_spread(ingested: Path, tmp_path: Path) -> None:
    view = RULE.facts()["view"]
    runs = [run(tmp_path / str(seed), seed, view) for seed in range(3)]
    alone = [pseudo_labels([one], ingested) for one in runs]
    together = pseudo_labels(runs, ingested)
    assert len(together) == CHILDREN
    for uid, label in list(together.items())[:5]:
        means = [one[uid].mean_months for one in alone]
        assert label.mean_months == pytest.approx(np.mean(means), rel=1e-4)
        assert label.sd_months == pytest.approx(np.std(means, ddof=1), rel=1e-3, abs=1e-3)
        assert all(one[uid].sd_months == 0 for one in alone)
    turned = pseudo_labels(runs[:1], ingested, views=3)
    assert any(label.sd_months > 0 for label in turned.values())


def test_a_run_of_another_view_is_refused(ingested: Path, tmp_path: Path) -> None:
    other = {**RULE.facts()["view"], "size_HW": (32, 32)}
    with pytest.raises(TrainingError, match="another view"):
        pseudo_labels([run(tmp_path / "run", 0, other)], ingested)


def test_a_recipe_that_adds_to_a_network_wants_one(tmp_path: Path) -> None:
    ended = osteoray("train", "knee-with-age", "--data", tmp_path, "--out", tmp_path / "run")
    assert (ended.code, ended.facts["error"]) == (2, "ORY-U01")
    assert "--set weights=" in ended.facts["message"]
    assert not (tmp_path / "run").exists()
