"""The hand phantom: its rule, its drawing, its archive and the faults in it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from engine.datasets.phantom import maturity
from engine.datasets.phantom.archive import split_of, write_archive
from engine.datasets.phantom.bones import build_hand
from engine.datasets.phantom.faults import FAULTS
from engine.datasets.phantom.hand import FULL_SCALE, Pose, draw_bones, draw_hand, expose
from engine.datasets.phantom.visits import HANDS
from engine.datasets.phantom.visits import plan_hand as plan_visit
from engine.dicom.write import ENCODERS, SECONDARY_CAPTURE
from engine.errors import UnknownNameError, UsageError
from jobs.__main__ import command_line


def carpal_count(months: float, sex: str) -> int:
    """How many of the eight carpal bones show at this bone age."""
    return sum(maturity.extent(centre, months, sex) > 0 for centre in maturity.CARPALS.values())


def _dicom_files(folder: Path) -> Iterator[tuple[Path, pydicom.Dataset]]:
    for path in sorted(folder.rglob("IM*")):
        yield path, pydicom.dcmread(path)


def _labels(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "labels.csv").open(newline="") as file:
        return {row["sop_instance_uid"]: row for row in csv.DictReader(file)}


def _bytes_by_path(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _upright(reach_mm: float) -> Pose:
    """An unturned view of 256 x 256 pixels that holds the whole hand."""
    scale = 180 / reach_mm
    return Pose(
        rows=256,
        columns=256,
        pixels_per_mm=scale,
        matrix_22=np.array([[scale, 0.0], [0.0, -scale]]),
        centre_mm=np.array([0.0, 0.35]) * reach_mm,
        centre_px=np.array([128.0, 128.0]),
    )


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "archive"
    write_archive(HANDS, folder, count=40, seed=7, size=96, syntax="mixed")
    return folder


# --- the rule


@pytest.mark.parametrize(
    ("months", "sex", "count"),
    [
        (12, "M", 2),
        (12, "F", 2),
        (24, "M", 2),
        (24, "F", 3),
        (48, "M", 4),
        (48, "F", 5),
        (96, "M", 7),
        (108, "F", 8),
        (120, "M", 8),
    ],
)
def test_carpal_count_follows_the_table(months: float, sex: str, count: int) -> None:
    assert carpal_count(months, sex) == count


def test_extent_and_fusion_by_hand() -> None:
    centre = maturity.Centre((20, 10), (120, 110), (160, 140), (180, 160))
    assert maturity.extent(centre, 19, "M") == 0
    assert maturity.extent(centre, 20, "M") == pytest.approx(0.2)
    assert maturity.extent(centre, 60, "F") == pytest.approx(0.2 + 0.8 * 0.5**0.6)
    assert maturity.extent(centre, 216, "M") == 1
    assert maturity.fusion(centre, 160, "M") == 0
    assert maturity.fusion(centre, 150, "F") == pytest.approx(0.5)
    assert maturity.fusion(centre, 200, "F") == 1


def test_every_centre_appears_grows_and_fuses_in_that_order_and_girls_are_first() -> None:
    for centre in [*maturity.CARPALS.values(), *maturity.EPIPHYSES.values(), maturity.SESAMOID]:
        for sex in (0, 1):
            ages = [centre.appears, centre.full, centre.fusing or (300, 300), centre.fused or (301, 301)]
            assert [a[sex] for a in ages] == sorted(a[sex] for a in ages)
        assert centre.appears[1] < centre.appears[0]
        assert centre.full[1] < centre.full[0]


def test_growth_plates_close_from_the_finger_tips_to_the_radius() -> None:
    order = [maturity.EPIPHYSES[name].fused for name in ("distal", "middle", "proximal", "radius")]
    assert all(ages is not None for ages in order)
    assert order == sorted(order)  # type: ignore[type-var]  # no None, see the line above
    assert order[-1] == max(c.fused for c in maturity.EPIPHYSES.values() if c.fused)


def test_bones_lengthen_with_age() -> None:
    for sex in maturity.SEXES:
        lengths = [maturity.length_fraction(months, sex) for months in range(12, 217, 12)]
        assert lengths == sorted(lengths)
    assert maturity.length_fraction(216, "F") < maturity.length_fraction(216, "M") == 1.0


# --- the drawing


def test_same_random_state_same_pixels_and_other_age_other_pixels() -> None:
    first = draw_hand(96, "M", np.random.default_rng(3), 128)
    assert np.array_equal(first, draw_hand(96, "M", np.random.default_rng(3), 128))
    assert not np.array_equal(first, draw_hand(108, "M", np.random.default_rng(3), 128))
    assert first.dtype == np.uint16
    assert first.shape[0] == 128
    assert 0.8 * 128 - 1 <= first.shape[1] <= 128
    assert int(first.max()) <= FULL_SCALE


def test_carpals_drawn_are_those_of_the_table() -> None:
    # The lag of a single centre has an sd of 2.5 months: ages here are far from every appearance.
    for months, sex in [(18, "M"), (56, "M"), (90, "M"), (140, "M"), (42, "F"), (75, "F"), (130, "F")]:
        names = {bone.name for bone in build_hand(months, sex, np.random.default_rng(0)).bones}
        assert len(names & set(maturity.CARPALS)) == carpal_count(months, sex)


def test_bone_in_the_wrist_grows_with_age() -> None:
    areas = []
    for months in (18, 48, 72, 96, 132, 180):
        hand = build_hand(months, "M", np.random.default_rng(5))
        wrist = [bone for bone in hand.bones if bone.name in maturity.CARPALS]
        drawn_HW = draw_bones(wrist, _upright(hand.reach_mm))
        areas.append(int((drawn_HW > 0.2).sum()))
    assert areas == sorted(areas)
    assert areas[-1] > 8 * areas[0]


def test_growth_plate_of_the_radius_is_open_at_12_years_and_closed_at_18() -> None:
    parts = {}
    for months in (144, 216):
        hand = build_hand(months, "M", np.random.default_rng(1))
        radius = next(bone for bone in hand.bones if bone.name == "radius")
        drawn_HW = draw_bones([radius], _upright(hand.reach_mm))
        labels, _ = cv2.connectedComponents((drawn_HW > 0.2).astype(np.uint8))
        parts[months] = labels - 1
    assert parts == {144: 2, 216: 1}


def test_size_in_the_picture_hardly_tells_the_age() -> None:
    def share_of_rows(months: float, seed: int) -> float:
        film = expose(months, "M", np.random.default_rng(seed), 64)
        hand = build_hand(months, "M", np.random.default_rng(seed))
        return hand.reach_mm / film.spacing_mm / 64

    young = [share_of_rows(24, seed) for seed in range(20)]
    grown = [share_of_rows(200, seed) for seed in range(20)]
    assert max(young) > float(np.median(grown))
    assert min(grown) < float(np.median(young))


@pytest.mark.parametrize(("months", "sex"), [(11, "M"), (217, "F"), (100, "O"), (float("nan"), "F")])
def test_what_the_phantom_does_not_know_is_refused(months: float, sex: str) -> None:
    with pytest.raises(UsageError):
        draw_hand(months, sex, np.random.default_rng(0), 64)


# --- the archive


def test_labels_join_to_the_uids_in_the_files(archive: Path) -> None:
    labels = _labels(archive)
    files = list(_dicom_files(archive))
    assert len(files) == len(labels) == 40
    assert {str(data.SOPInstanceUID) for _, data in files} == set(labels)
    assert all(12 <= float(row["bone_age_months"]) <= 216 for row in labels.values())
    assert {row["split"] for row in labels.values()} == {"train", "test"}


def test_header_says_what_a_hand_radiograph_says(archive: Path) -> None:
    for path, data in _dicom_files(archive):
        assert (data.Modality, data.BodyPartExamined, data.ViewPosition) == ("DX", "HAND", "PA"), path
        assert data.ImageLaterality == "L"
        assert data.PatientSex in {"M", "F"}
        assert data.PatientAge.endswith("M")
        assert len(data.PatientAge) == 4
        assert (data.BitsAllocated, data.BitsStored, data.HighBit) == (16, 12, 11)
        assert data.Rows == 96
        assert 0.3 < float(data.ImagerPixelSpacing[0]) < 4.0
    names = {path.suffix for path, _ in _dicom_files(archive)}
    assert names == {"", ".dcm"}


def test_mixed_takes_every_syntax_in_turn(archive: Path) -> None:
    used = [str(data.file_meta.TransferSyntaxUID) for _, data in _dicom_files(archive)]
    wanted = ("explicit", "jpeg-ls", "jpeg-lossless", "jpeg-2000")
    assert {uid: used.count(uid) for uid in used} == {ENCODERS[n].transfer_syntax_uid: 10 for n in wanted}


def test_inverted_films_are_inverted(tmp_path: Path) -> None:
    write_archive(HANDS, tmp_path / "a", count=40, seed=1, size=64, syntax="explicit")
    kinds: dict[str, list[bool]] = {}
    for _, data in _dicom_files(tmp_path / "a"):
        stored_HW = data.pixel_array
        middle = float(np.median(stored_HW[24:40, 20:36]))
        corner = float(np.median([stored_HW[12:16, 16:20], stored_HW[12:16, -20:-16]]))
        kinds.setdefault(data.PhotometricInterpretation, []).append(middle > corner)
    assert set(kinds) == {"MONOCHROME1", "MONOCHROME2"}
    assert np.mean(kinds["MONOCHROME2"]) > 0.9
    assert np.mean(kinds["MONOCHROME1"]) < 0.1
    assert len(kinds["MONOCHROME1"]) < len(kinds["MONOCHROME2"]) / 2


def test_same_seed_same_bytes_and_a_larger_archive_begins_with_the_smaller(tmp_path: Path) -> None:
    write_archive(HANDS, tmp_path / "a", count=6, seed=4, size=64, syntax="mixed", faults=True)
    write_archive(HANDS, tmp_path / "b", count=6, seed=4, size=64, syntax="mixed", faults=True)
    write_archive(HANDS, tmp_path / "c", count=9, seed=4, size=64, syntax="mixed")
    write_archive(HANDS, tmp_path / "d", count=6, seed=5, size=64, syntax="mixed")
    small, again, large, other = (_bytes_by_path(tmp_path / name) for name in "abcd")
    assert small == again
    instances = {path: data for path, data in large.items() if path != "labels.csv"}
    assert sum(small.get(path) == data for path, data in instances.items()) == 6
    assert not set(small) & set(other) - {"labels.csv"}


def test_no_patient_is_in_both_splits_and_some_come_twice(archive: Path) -> None:
    labels = _labels(archive)
    splits: dict[str, list[str]] = {}
    for _, data in _dicom_files(archive):
        splits.setdefault(str(data.PatientID), []).append(labels[str(data.SOPInstanceUID)]["split"])
    assert all(len(set(seen)) == 1 for seen in splits.values())
    assert sum(len(seen) == 2 for seen in splits.values()) == 8
    assert len(splits) == 32


def test_second_visit_is_the_same_child_at_another_age() -> None:
    for block in range(20):
        first, second = plan_visit(0, 5 * block), plan_visit(0, 5 * block + 4)
        assert (first.patient, first.sex) == (second.patient, second.sex)
        assert 12 <= abs(first.bone_age_months - second.bone_age_months) <= 30.1
        assert 12 <= second.bone_age_months <= 216


def test_ages_are_even_and_deviate_from_chronological_age_by_ten_months() -> None:
    visits = [plan_visit(0, index) for index in range(1000)]
    ages = np.array([visit.bone_age_months for visit in visits])
    counts, _ = np.histogram(ages, bins=6, range=(12, 216))
    assert counts.min() > 0.7 * 1000 / 6
    deviation = ages - np.array([visit.chronological_age_months for visit in visits])
    assert 8.5 < float(np.std(deviation)) < 11.5
    assert abs(float(np.mean(deviation))) < 1.5


def test_a_fifth_of_the_patients_is_held_out() -> None:
    held_out = np.mean([split_of(f"phantom-0-{patient:06d}") == "test" for patient in range(2000)])
    assert 0.17 < held_out < 0.24


def test_faults_come_on_top_and_are_what_they_should_be(tmp_path: Path) -> None:
    counts = write_archive(HANDS, tmp_path / "a", count=3, size=64, syntax="explicit", faults=True)
    assert counts["instances"] == len(_labels(tmp_path / "a")) == 3
    folder = next((tmp_path / "a").rglob("hand.jpg")).parent
    assert {path.name for path in folder.iterdir()} == set(FAULTS)
    assert counts["faults"] == len(FAULTS) >= 25
    assert (folder / "empty").stat().st_size == 0
    assert (folder / "README.txt").read_text().startswith("Films")
    assert (folder / "hand.jpg").read_bytes()[:3] == b"\xff\xd8\xff"
    photo = pydicom.dcmread(folder / "photo")
    assert (photo.SOPClassUID, photo.PhotometricInterpretation) == (SECONDARY_CAPTURE, "RGB")
    assert photo.pixel_array.shape == (480, 360, 3)
    assert (photo.pixel_array[..., 0] != photo.pixel_array[..., 1]).any()
    truncated = pydicom.dcmread(folder / "truncated.dcm")
    with pytest.raises(ValueError, match="less than expected"):
        _ = truncated.pixel_array


@pytest.mark.parametrize("options", [{"count": 0}, {"count": 1, "size": 8}, {"count": 1, "seed": -1}])
def test_numbers_out_of_range_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        write_archive(HANDS, tmp_path / "a", **options)  # type: ignore[arg-type]  # every option here is a number
    assert not (tmp_path / "a").exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="not empty"):
        write_archive(HANDS, tmp_path, count=1, size=64)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_unknown_syntax_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'jpeg-ls'"):
        write_archive(HANDS, tmp_path / "a", count=1, syntax="jpegls")


def test_progress_is_told(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    write_archive(
        HANDS, tmp_path / "a", count=3, size=64, on_progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_many_instances_on_several_processes_give_the_same_bytes_as_few(tmp_path: Path) -> None:
    write_archive(HANDS, tmp_path / "few", count=10, seed=2, size=64, syntax="explicit")
    write_archive(HANDS, tmp_path / "many", count=130, seed=2, size=64, syntax="explicit")
    few, many = _bytes_by_path(tmp_path / "few"), _bytes_by_path(tmp_path / "many")
    assert len(many) == 131
    assert all(many[path] == data for path, data in few.items() if path != "labels.csv")
    assert list(_labels(tmp_path / "many"))[:10] == list(_labels(tmp_path / "few"))


# --- the command


def test_command_writes_and_ends_with_json(tmp_path: Path) -> None:
    words = ["phantom", "--count", "2", "--size", "64", "--out", str(tmp_path / "a"), "--faults", "--json"]
    result = CliRunner().invoke(command_line(words), words)
    assert result.exit_code == 0, result.output
    last = json.loads(result.stdout.splitlines()[-1])
    assert (last["verb"], last["instances"], last["faults"]) == ("phantom", 2, len(FAULTS))
    assert (tmp_path / "a" / "labels.csv").is_file()


def test_command_refuses_a_task_without_phantom(tmp_path: Path) -> None:
    words = ["phantom", "--count", "2", "--out", str(tmp_path / "a"), "--task", "hand-aeg"]
    result = CliRunner().invoke(command_line(words), words)
    assert isinstance(result.exception, UnknownNameError)
    assert "did you mean 'hand-age'" in str(result.exception)
