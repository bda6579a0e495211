"""The knee phantom: its growth plates, its two sides, and children whose age is not their bone age."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest

from engine.datasets.phantom import maturity
from engine.datasets.phantom.archive import write_archive
from engine.datasets.phantom.hand import FULL_SCALE, Pose, draw_bones
from engine.datasets.phantom.knee import build_knee, expose_knee, plate_gap_mm
from engine.datasets.phantom.visits import KNEES
from engine.datasets.phantom.visits import plan_knee as plan_visit
from engine.errors import UsageError


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "archive"
    counts = write_archive(KNEES, folder, count=10, seed=3, size=96, syntax="explicit")
    assert (counts["instances"], counts["visits"], counts["patients"]) == (20, 10, 8)
    return folder


def rows_of(archive: Path) -> list[dict[str, str]]:
    with (archive / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def pieces(name: str, months: float, sex: str) -> int:
    """Of how many parts a bone consists when it is drawn alone, 2 pixels a mm."""
    knee = build_knee(months, sex, np.random.default_rng(2))
    bone = next(bone for bone in knee.bones if bone.name == name)
    pose = Pose(
        rows=400,
        columns=400,
        pixels_per_mm=2.0,
        matrix_22=np.array([[2.0, 0.0], [0.0, -2.0]]),
        centre_mm=np.zeros(2),
        centre_px=np.array([200.0, 200.0]),
    )
    count, _ = cv2.connectedComponents((draw_bones([bone], pose) > 0.2).astype(np.uint8))
    return count - 1


@pytest.mark.parametrize("name", ["femur", "tibia", "fibula"])
@pytest.mark.parametrize(("months", "sex", "parts"), [(150, "M", 2), (130, "F", 2), (216, "F", 1)])
def test_growth_plates_are_open_in_the_child_and_closed_in_the_grown(
    name: str, months: float, sex: str, parts: int
) -> None:
    assert pieces(name, months, sex) == parts


def test_girls_are_ahead_of_boys_and_every_centre_grows_before_it_fuses() -> None:
    for centre in maturity.KNEE.values():
        assert centre.appears[1] < centre.appears[0]
        assert centre.full[1] < centre.full[0]
        for sex in (0, 1):
            if centre.fusing and centre.fused:
                assert centre.full[sex] <= centre.fusing[sex] < centre.fused[sex]


def test_a_growth_plate_narrows_with_age_and_is_gone_when_fused() -> None:
    gaps = [plate_gap_mm(size, fused, 1.0) for size, fused in ((0.3, 0), (0.8, 0), (1, 0), (1, 0.5), (1, 1))]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] == 0


def test_same_random_state_same_pixels_and_other_age_other_pixels() -> None:
    first = expose_knee(96, "M", "L", np.random.default_rng(3), 128)
    assert np.array_equal(first.stored_HW, expose_knee(96, "M", "L", np.random.default_rng(3), 128).stored_HW)
    other = expose_knee(108, "M", "L", np.random.default_rng(3), 128)
    assert not np.array_equal(first.stored_HW, other.stored_HW)
    assert first.stored_HW.dtype == np.uint16
    assert int(first.stored_HW.max()) <= FULL_SCALE


def test_the_fibula_is_on_the_right_of_a_left_knee() -> None:
    fibula = next(b for b in build_knee(150, "M", np.random.default_rng(0)).bones if b.name == "fibula")
    assert np.concatenate(fibula.parts)[:, 0].min() > 0
    left, right = (
        np.mean([expose_knee(150, "M", side, np.random.default_rng(seed), 64).stored_HW[44:60, 4:60]
                 for seed in range(40) if _is_wide(seed)], axis=0)
        for side in "LR"
    )  # fmt: skip
    assert left[:, 28:46].mean() > left[:, 10:28].mean()
    assert right[:, 10:28].mean() > right[:, 28:46].mean()


def _is_wide(seed: int) -> bool:
    """Whether the film of this seed has all of its 64 columns."""
    return expose_knee(150, "M", "L", np.random.default_rng(seed), 64).stored_HW.shape[1] >= 60


@pytest.mark.parametrize(("months", "sex", "side"), [(11, "M", "L"), (100, "O", "L"), (100, "M", "B")])
def test_what_the_phantom_does_not_know_is_refused(months: float, sex: str, side: str) -> None:
    with pytest.raises(UsageError):
        expose_knee(months, sex, side, np.random.default_rng(0), 64)


def test_bone_age_departs_from_chronological_age_with_heavy_tails() -> None:
    visits = [plan_visit(0, index) for index in range(2000)]
    apart = np.array([v.bone_age_months - v.chronological_age_months for v in visits])
    assert 10 < apart.std() < 15
    assert abs(apart.mean()) < 2
    assert 0.15 < (np.abs(apart) > 12).mean() < 0.35
    assert (np.abs(apart) > 40).mean() > 0.002  # a Gaussian of this sd has a third of that
    assert {v.side for v in visits} == {"L", "R"}


def test_knee_and_hand_of_a_pair_are_one_child_of_one_day(archive: Path) -> None:
    found = {str(data.SOPInstanceUID): data for data in map(pydicom.dcmread, archive.rglob("IM*"))}
    rows = {row["sop_instance_uid"]: row for row in rows_of(archive)}
    assert found.keys() == rows.keys()
    for uid, row in rows.items():
        other = rows[row["paired_sop_instance_uid"]]
        assert other["paired_sop_instance_uid"] == uid
        assert row["bone_age_months"] == other["bone_age_months"]
        assert {row["body_part"], other["body_part"]} == {"KNEE", "HAND"}
        assert found[uid].BodyPartExamined == row["body_part"]
        assert found[uid].PatientID == found[row["paired_sop_instance_uid"]].PatientID
        assert int(found[uid].PatientAge[:3]) == int(row["chronological_age_months"])
    assert {data.ImageLaterality for data in found.values() if data.BodyPartExamined == "KNEE"} == {"L", "R"}


def test_no_child_is_in_both_splits_and_the_same_request_gives_the_same_bytes(
    archive: Path, tmp_path: Path
) -> None:
    found = {
        str(data.SOPInstanceUID): str(data.PatientID) for data in map(pydicom.dcmread, archive.rglob("IM*"))
    }
    children: dict[str, set[str]] = {"train": set(), "test": set()}
    for row in rows_of(archive):
        children[row["split"]].add(found[row["sop_instance_uid"]])
    assert not children["train"] & children["test"]
    write_archive(KNEES, tmp_path / "again", count=3, seed=3, size=96, syntax="explicit")
    for path in (tmp_path / "again").rglob("IM*"):
        assert path.read_bytes() == (archive / path.relative_to(tmp_path / "again")).read_bytes()
