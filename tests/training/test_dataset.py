"""An ingest folder as a training set: order, splits by patient, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.errors import TableError, TrainingError
from engine.ingest.samples_folder import data_facts
from engine.store import verification
from engine.store.files import read_json, write_json
from engine.store.labels import Label
from engine.tasks.hand_age import HAND_AGE
from engine.training.dataset import (
    SPLITS,
    TrainingSet,
    open_training_set,
    pack_images,
    require_no_duplicates_across_splits,
    splits_by_patient,
    truth_on_view,
)
from tests.fixtures.training_fixture import LABEL, LABELS, SIZE, Made, disc, disc_set, write_ingest

PATIENTS = 40


def cohort(patients: int = PATIENTS, *, test_from: int = 30) -> list[Made]:
    """Two visits of each patient, a year apart; the last patients are held out."""
    return [
        Made(
            patient=f"P{patient}",
            months=20.0 + patient * 4 + visit * 12,
            split="test" if patient >= test_from else "train",
            sex=("M", "F", None)[patient % 3],
        )
        for patient in range(patients)
        for visit in range(2)
    ]


def opened(folder: Path, cache: Path) -> TrainingSet:
    pack_images(folder, cache, LABELS)
    return open_training_set(folder, cache, HAND_AGE)


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Sequence[Made] = cohort()
    return write_ingest(tmp_path_factory.mktemp("cohort"), made)


def test_images_and_columns_have_one_order(ingested: Path, tmp_path: Path) -> None:
    verification.verify(ingested)
    data = opened(ingested, tmp_path)
    assert data.images_NVHW.shape == (80, 1, SIZE, SIZE)
    for made, months, image_VHW in zip(cohort(), data.truth[LABEL], data.images_NVHW, strict=True):
        assert months == made.months
        assert np.array_equal(image_VHW[0], disc(months))


def test_columns_say_who_and_which(ingested: Path, tmp_path: Path) -> None:
    data = opened(ingested, tmp_path)
    assert data.covariates_NQ[:6, 0].tolist() == [1, 1, -1, -1, 0, 0]
    assert data.patient_sex_N[:6].tolist() == ["M", "M", "F", "F", "", ""]
    assert len(set(data.uids_N)) == 80
    assert len(set(data.patients_N)) == PATIENTS
    assert (data.patients_N[::2] == data.patients_N[1::2]).all()


def test_the_given_test_split_is_kept_and_the_rest_divided_by_patient(ingested: Path, tmp_path: Path) -> None:
    data = opened(ingested, tmp_path)
    assert data.index_of("test").tolist() == list(range(60, 80))
    counts = {split: len(data.index_of(split)) for split in SPLITS}
    assert sum(counts.values()) == 80
    assert 0 < counts["val"] < counts["train"]
    by_split = [set(data.patients_N[data.index_of(split)]) for split in SPLITS]
    assert sum(map(len, by_split)) == len(set.union(*by_split))


def test_packing_again_changes_nothing(ingested: Path, tmp_path: Path) -> None:
    first = np.array(opened(ingested, tmp_path).images_NVHW)
    assert np.array_equal(opened(ingested, tmp_path).images_NVHW, first)


def test_samples_without_a_label_are_passed_over(tmp_path: Path) -> None:
    made = cohort()
    made[5] = Made(patient="P2", months=None, split="train")
    data = opened(write_ingest(tmp_path, made), tmp_path / "cache")
    known = [one.months for one in made if one.months is not None]
    assert data.truth[LABEL].tolist() == known
    assert all(np.array_equal(image[0], disc(m)) for image, m in zip(data.images_NVHW, known, strict=True))


def keys(count: int) -> np.ndarray:
    """Patient keys whose hash places go from 0 to 99 in turn."""
    return np.array([f"{index % 100:08x}" + f"{index:024x}" for index in range(count)])


def test_without_given_splits_the_hash_gives_fifteen_percent_test_and_ten_val() -> None:
    splits = splits_by_patient(keys(1000), [None] * 1000)
    assert {split: int((splits == split).sum()) for split in SPLITS} == {
        "train": 750,
        "val": 100,
        "test": 150,
    }


def test_with_given_splits_ten_percent_of_the_rest_is_val() -> None:
    given: list[str | None] = [*["test"] * 200, *["train"] * 800]
    splits = splits_by_patient(keys(1000), given)
    assert {split: int((splits == split).sum()) for split in SPLITS} == {"train": 720, "val": 80, "test": 200}


def test_a_patient_keeps_the_split_whoever_else_is_there() -> None:
    everyone = splits_by_patient(keys(300), [None] * 300)
    assert (splits_by_patient(keys(300)[100:], [None] * 200) == everyone[100:]).all()


def test_a_patient_on_both_sides_is_refused(tmp_path: Path) -> None:
    made = cohort()
    made[0] = Made(patient="P0", months=30.0, split="test")
    made[4] = Made(patient="P2", months=30.0, split="test")
    with pytest.raises(TrainingError, match=r"2 patient\(s\) are in two splits"):
        opened(write_ingest(tmp_path, made), tmp_path / "cache")


def test_a_validation_split_of_the_label_table_is_kept() -> None:
    patients = np.array([f"{n:08x}" for n in (1, 2, 3, 4)])
    assert splits_by_patient(patients, ["train", "val", None, "test"]).tolist() == [
        "train",
        "val",
        "train",
        "test",
    ]
    with pytest.raises(TrainingError, match=r"1 patient\(s\) are in two splits"):
        splits_by_patient(patients[[0, 0]], ["train", "val"])


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(TrainingError, match="the split 'holdout': known are train, val, test"):
        splits_by_patient(keys(3), ["train", "holdout", None])


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the test split is empty"):
        opened(write_ingest(tmp_path, cohort(test_from=PATIENTS)), tmp_path / "cache")


def test_labels_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    made = [*cohort(), Made(patient="P0", months=float("nan"), split="train")]
    with pytest.raises(TrainingError, match="no finite numbers"):
        opened(write_ingest(tmp_path, made), tmp_path / "cache")


def test_an_ingest_without_labels_is_refused(tmp_path: Path) -> None:
    folder = write_ingest(tmp_path, cohort(2), labelled=False)
    with pytest.raises(TrainingError, match="ingest with --labels"):
        pack_images(folder, tmp_path / "cache", LABELS)
    with pytest.raises(TrainingError, match="ingest with --labels"):
        open_training_set(folder, tmp_path / "cache", HAND_AGE)


def test_an_ingest_with_no_sample_labelled_is_refused(tmp_path: Path) -> None:
    folder = write_ingest(tmp_path, [Made(patient="P", months=None)] * 3)
    with pytest.raises(TrainingError, match="no labelled sample"):
        opened(folder, tmp_path / "cache")


def test_data_facts_tell_one_data_set_from_another(ingested: Path, tmp_path: Path) -> None:
    facts = data_facts(ingested)
    assert facts["counts"] == {"planned": 80, "samples": 80, "filtered": 0, "quarantined": 0}
    assert facts["rule"]["view"]["size_HW"] == [SIZE, SIZE]
    assert data_facts(ingested) == facts
    other = data_facts(write_ingest(tmp_path, cohort(3)))
    assert other["sha256"] != facts["sha256"]
    assert other["plan_sha256"] != facts["plan_sha256"]


@pytest.mark.parametrize("change", [{"complete": False}, {"kind": "score"}])
def test_what_is_no_finished_ingest_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    folder = write_ingest(tmp_path, cohort(2))
    write_json(folder / "manifest.json", {**read_json(folder / "manifest.json"), **change})
    with pytest.raises(TableError, match="no finished ingest"):
        data_facts(folder)


def test_the_same_pixels_in_two_splits_are_refused() -> None:
    data = disc_set(20)
    images = data.images_NVHW.copy()
    images[:, 0, 0, 0] = np.arange(20)  # discs of nearly the same age have the same pixels
    require_no_duplicates_across_splits(replace(data, images_NVHW=images))
    train, test = data.index_of("train")[0], data.index_of("test")[0]
    images[test] = images[train]
    with pytest.raises(TrainingError, match=r"1 image\(s\) lie in two splits"):
        require_no_duplicates_across_splits(replace(data, images_NVHW=images))
    images[[train, test]] = 0  # two black films are no leak
    require_no_duplicates_across_splits(replace(data, images_NVHW=images))
    images[data.index_of("train")[1]] = images[data.index_of("train")[2]]  # nor is a copy within a split
    require_no_duplicates_across_splits(replace(data, images_NVHW=images))


def test_points_and_boxes_lie_on_the_view() -> None:
    """A view of the original turned by 90 degrees and halved: (x, y) goes to (10 - y / 2, x / 2)."""
    apex, roi = Label(name="apex", kind="point"), Label(name="roi", kind="box")
    columns = {"apex_x": [4.0, None], "apex_y": [6.0, None]}
    columns |= {"roi_left": [2.0, 0.0], "roi_top": [4.0, None]}
    columns |= {"roi_right": [8.0, 1.0], "roi_bottom": [12.0, 1.0]}
    turned_33 = np.array([[0, -0.5, 10], [0.5, 0, 0], [0, 0, 1]])
    found = truth_on_view(Path("in"), pa.table(columns), (apex, roi), np.stack([turned_33] * 2))
    assert [found[name][0] for name in apex.columns] == [7.0, 2.0]
    assert [found[name][0] for name in roi.columns] == [4.0, 1.0, 8.0, 4.0]
    assert all(np.isnan(found[name][1]) for name in (*apex.columns, *roi.columns))
