"""A region of an instance at full detail: pixels, geometry, flags, and the same through the ingest verb."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.dicom.frame import Frame
from engine.imaging.boxes import Box, Crop, whole_image, write_boxes
from engine.imaging.preprocess import View, apply_to_frame, cropped, erased
from engine.ingest.decode_process import Isolation
from engine.ingest.sample import Reading, reading_from_facts
from engine.ingest.shard import ReadSpec, read_shard
from engine.tasks.hand_age import HAND_AGE
from jobs.ingest import chosen_crop
from tests.fixtures import dicom_fixture
from tests.fixtures.prepared import prepare
from tests.fixtures.story import osteoray

SALT = b"0123456789abcdef"
RULE = replace(HAND_AGE.rule, view=View(size_HW=(32, 32)))


def boxes_table(folder: Path, uid: str, box: Box, *, ok: bool = True) -> Path:
    path = folder / "boxes.parquet"
    edges = {"left": box.left, "top": box.top, "right": box.right, "bottom": box.bottom}
    write_boxes(path, [{"sop_instance_uid": uid, "region": "carpals", **edges, "ok": ok, "run_sha256": "00"}])
    return path


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        (Box(left=4.5, top=9.5, right=11.5, bottom=19.5), (10, 20), (5, 12)),
        (Box(left=4.6, top=9.4, right=11.4, bottom=20.4), (10, 21), (5, 12)),
        (Box(left=-50, top=-50, right=3, bottom=3), (0, 4), (0, 4)),
        (Box(left=7.1, top=7.1, right=7.2, bottom=7.2), (8, 9), (8, 9)),
        (Box(left=100, top=100, right=200, bottom=200), (29, 30), (24, 25)),
    ],
)
def test_a_crop_holds_the_pixels_whose_centres_lie_in_the_box(box, rows, columns) -> None:
    values_HW = np.arange(30 * 25, dtype=np.uint16).reshape(30, 25)
    part, moved = cropped(Frame(values_HW, 1.0, 0.0, (30, 25)), box)
    assert np.array_equal(part.values_HW, values_HW[slice(*rows), slice(*columns)])
    assert part.original_HW == moved.network_HW == part.values_HW.shape
    assert moved.original_HW == (30, 25)
    assert moved.to_original(np.array([[0.0, 0.0]])).tolist() == [[columns[0], rows[0]]]


def test_a_crop_needs_all_pixels() -> None:
    half = Frame(np.zeros((15, 13), np.uint16), 1.0, 0.0, (30, 25), reduction=2)
    with pytest.raises(ValueError, match="full"):
        cropped(half, whole_image((30, 25)))


def test_erasing_changes_the_box_alone() -> None:
    values_HW = np.random.default_rng(0).integers(0, 4096, (30, 25)).astype(np.uint16)
    picture = Frame(values_HW, 1 / 4095, 0.0, (30, 25))
    blank = erased(picture, Box(left=4.5, top=9.5, right=11.5, bottom=19.5), 0.25)
    shown_HW = blank.display_HW
    is_in_HW = np.zeros((30, 25), bool)
    is_in_HW[10:20, 5:12] = True
    assert np.all(shown_HW[is_in_HW] == 0.25)
    assert np.array_equal(shown_HW[~is_in_HW], picture.display_HW[~is_in_HW])


def test_the_map_of_a_crop_leads_back_to_the_instance(tmp_path: Path) -> None:
    stored_HW = np.full((120, 90), 100, np.uint16)
    stored_HW[67:75, 27:35] = 4000  # one bright dot
    box = Box(left=9.5, top=49.5, right=49.5, bottom=99.5)
    crop = Crop(path=boxes_table(tmp_path, "1.2.3.4", box), region="carpals")
    seen = prepare(dicom_fixture.image(stored_HW), RULE, SALT, crop=crop)
    assert seen.columns["crop_ok"] is True
    row, column = (float(places.mean()) for places in np.nonzero(seen.image_HW > 127))
    found = seen.geometry.to_original(np.array([[column, row]], np.float64))
    assert np.abs(found - [[30.5, 70.5]]).max() < 1.6  # one pixel of the view is 50/32 of the instance
    assert (seen.geometry.original_HW, seen.geometry.network_HW) == ((120, 90), (32, 32))


def test_a_crop_is_the_same_as_a_picture_that_was_cut_before(tmp_path: Path) -> None:
    stored_HW = dicom_fixture.picture((120, 90))
    box = Box(left=9.5, top=49.5, right=49.5, bottom=99.5)
    crop = Crop(path=boxes_table(tmp_path, "1.2.3.4", box), region="carpals")
    seen = prepare(dicom_fixture.image(stored_HW), RULE, SALT, crop=crop)
    gain = 1 / 4095
    expected, _ = apply_to_frame(Frame(stored_HW[50:100, 10:50], gain, 0.0, (50, 40)), RULE.view)
    assert np.abs(seen.image_HW.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("uid", "ok"), [("9.9", True), ("1.2.3.4", False)])
def test_an_instance_without_a_box_is_seen_whole_and_flagged(tmp_path: Path, uid: str, ok: bool) -> None:
    data = dicom_fixture.image(dicom_fixture.picture((60, 45)))
    path = boxes_table(tmp_path, uid, Box(left=0, top=0, right=9, bottom=9), ok=ok)
    cut, whole = prepare(data, RULE, SALT, crop=Crop(path=path, region="carpals")), prepare(data, RULE, SALT)
    assert cut.columns["crop_ok"] is False
    assert "crop_ok" not in whole.columns
    assert np.array_equal(cut.image_HW, whole.image_HW)


def test_the_grey_of_an_erased_region_is_always_the_same(tmp_path: Path) -> None:
    data = dicom_fixture.image(dicom_fixture.picture((64, 64)))
    path = boxes_table(tmp_path, "1.2.3.4", Box(left=15.5, top=15.5, right=47.5, bottom=47.5))
    one, two = (prepare(data, RULE, SALT, crop=Crop(path=path, region="carpals", erase=True)) for _ in "ab")
    assert np.array_equal(one.image_HW, two.image_HW)
    assert len(np.unique(one.image_HW[8:24, 8:24])) == 1
    assert np.array_equal(one.geometry.matrix_33, prepare(data, RULE, SALT).geometry.matrix_33)


def test_what_the_reading_process_needs_to_know_travels_as_json(tmp_path: Path) -> None:
    crop = Crop(path=tmp_path / "boxes.parquet", region="hand", erase=True)
    reading = Reading(source="archive", rules=(RULE,), salt=SALT, crop=crop)
    assert reading_from_facts(reading.facts()) == reading


@pytest.mark.parametrize("isolation", [None, Isolation()])
def test_a_shard_of_crops_says_which_were_found(tmp_path: Path, isolation: Isolation | None) -> None:
    (tmp_path / "archive").mkdir()
    for number in range(2):
        data = dicom_fixture.image(dicom_fixture.picture((60, 45)), SOPInstanceUID=f"1.2.{number}")
        (tmp_path / "archive" / f"{number}.dcm").write_bytes(data)
    path = boxes_table(tmp_path, "1.2.1", Box(left=4.5, top=4.5, right=40.5, bottom=40.5))
    spec = ReadSpec(
        source=str(tmp_path / "archive"), folder=tmp_path / "out", rules=(RULE,), salt=SALT,
        crop=Crop(path=path, region="carpals"), isolation=isolation,
    )  # fmt: skip
    planned = [{"instance_index": n, "path": f"{n}.dcm", "shard": 0, "version": 1} for n in range(2)]
    samples = read_shard(planned, spec)["samples"]
    assert samples["crop_ok"].to_pylist() == [False, True]
    assert samples["original_to_network"][1].as_py()[0] == pytest.approx(32 / 36)


def test_a_table_and_a_region_go_together(tmp_path: Path) -> None:
    path = boxes_table(tmp_path, "1", whole_image((5, 5)))
    (tmp_path / "archive").mkdir()
    words = ["ingest", tmp_path / "archive", "--task", "hand-age", "--out", tmp_path / "out"]
    assert chosen_crop(None, "", erase=False) is None
    assert chosen_crop(path, "carpals", erase=True) == Crop(path=path, region="carpals", erase=True)
    for more in (["--crop", path], ["--region", "carpals"], ["--erase"]):
        ended = osteoray(*words, *more)
        assert ended.code == 2
        assert "go together" in ended.facts["message"]
    ended = osteoray(*words, "--crop", path, "--region", "carpal")
    assert ended.code == 2
    assert "did you mean 'carpals'" in ended.facts["message"]


def test_samples_of_whole_images_say_nothing_of_crops(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom_fixture.image(dicom_fixture.picture((60, 45))))
    spec = ReadSpec(source=str(tmp_path), folder=tmp_path / "out", rules=(RULE,), salt=SALT, isolation=None)
    samples = read_shard([{"instance_index": 0, "path": "a.dcm", "shard": 0, "version": 1}], spec)["samples"]
    pq.write_table(samples, tmp_path / "samples.parquet")
    assert samples["crop_ok"].null_count == 1
