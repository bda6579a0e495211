"""Boxes from maps: hand-drawn maps with a known answer, through a real Geometry."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import TableError, UnknownNameError, UsageError
from engine.imaging import geometry
from engine.imaging.boxes import Box, covered, cut, iou, read_boxes, whole_image, write_boxes
from engine.imaging.preprocess import View, apply
from engine.tasks.ages.attention_boxes import (
    RULES,
    BoxRule,
    Found,
    box_from_map,
    brought,
    coarse,
    masked,
    on_grid,
    regions,
)

GRID = (40, 40)
PLAIN = geometry.identity(GRID)


def blob(rows: slice, columns: slice, value: float = 1.0) -> np.ndarray:
    map_HW = np.zeros(GRID, np.float32)
    map_HW[rows, columns] = value
    return map_HW


def edges(box: Box) -> tuple[float, float, float, float]:
    return (box.left, box.top, box.right, box.bottom)


@pytest.mark.parametrize("finer", [2, 3])
def test_sharper_maps_of_the_same_attention_find_the_same_regions(finer: int) -> None:
    map_77 = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    fine_hw = np.kron(map_77, np.ones((finer, finer), np.float32))
    assert regions(coarse(fine_hw), PLAIN) == regions(map_77, PLAIN)
    assert np.array_equal(coarse(map_77[:4]), map_77[:4])


def test_the_box_holds_whole_pixels() -> None:
    found = box_from_map(blob(slice(10, 20), slice(5, 12)), BoxRule(tau=0.5), PLAIN)
    assert found.ok
    assert edges(found.box) == (4.5, 9.5, 11.5, 19.5)


def test_the_component_with_most_attention_wins_or_all_are_taken() -> None:
    map_HW = blob(slice(2, 12), slice(2, 12), 0.3) + blob(slice(20, 26), slice(30, 36), 1.0)
    largest = box_from_map(map_HW, BoxRule(tau=0.2), PLAIN)
    union = box_from_map(map_HW, BoxRule(tau=0.2, mode="union"), PLAIN)
    assert edges(largest.box) == (29.5, 19.5, 35.5, 25.5)  # 36 at 1.0 against 100 at 0.3
    assert edges(union.box) == (1.5, 1.5, 35.5, 25.5)


def test_padding_and_square() -> None:
    map_HW = blob(slice(10, 20), slice(10, 14))
    padded = box_from_map(map_HW, BoxRule(tau=0.5, pad=0.5), PLAIN)
    square = box_from_map(map_HW, BoxRule(tau=0.5, square=True), PLAIN)
    assert edges(padded.box) == (7.5, 4.5, 15.5, 24.5)
    assert edges(square.box) == (6.5, 9.5, 16.5, 19.5)


@pytest.mark.parametrize("value", [0.0, -3.0, float("nan"), float("-inf")])
def test_an_empty_map_gives_the_whole_image_flagged(value: float) -> None:
    found = box_from_map(np.full((7, 7), value, np.float32), BoxRule(tau=0.3), PLAIN)
    assert not found.ok
    assert found.box == whole_image(GRID)


def test_a_speck_is_not_believed() -> None:
    found = box_from_map(blob(slice(3, 4), slice(3, 4)), BoxRule(tau=0.5, min_share=0.01), PLAIN)
    assert not found.ok
    assert found.box == whole_image(GRID)


def test_a_box_passes_through_the_view_of_its_image() -> None:
    image_HW = np.zeros((300, 200), np.float32)
    image_HW[120:180, 40:100] = 1.0
    seen_HW, view = apply(image_HW, View(size_HW=(64, 64)))
    found = box_from_map(seen_HW.astype(np.float32), BoxRule(tau=0.5), view)
    assert iou(found.box, Box(left=39.5, top=119.5, right=99.5, bottom=179.5)) > 0.85


def test_a_coarse_map_is_laid_over_the_whole_view() -> None:
    map_hw = np.zeros((4, 4), np.float32)
    map_hw[1, 2] = 1.0
    found = box_from_map(map_hw, BoxRule(tau=0.5), PLAIN)  # half the peak: from cell centre to cell centre
    assert iou(found.box, Box(left=19.5, top=9.5, right=29.5, bottom=19.5)) > 0.8


def test_masking_takes_the_box_out_of_the_map() -> None:
    map_HW = blob(slice(10, 20), slice(5, 12)) + blob(slice(25, 35), slice(20, 30), 0.5)
    found = box_from_map(map_HW, BoxRule(tau=0.6), PLAIN)
    rest_HW = masked(map_HW, found, PLAIN)
    assert rest_HW[10:20, 5:12].max() == 0
    assert rest_HW[25:35, 20:30].min() == 0.5
    assert map_HW[10:20, 5:12].min() == 1.0  # the map given is left as it was


def test_the_chain_finds_carpals_then_what_remains() -> None:
    carpals, metacarpals = blob(slice(28, 36), slice(12, 28)), blob(slice(12, 26), slice(10, 30), 0.35)
    found = regions(carpals + metacarpals, PLAIN)
    assert set(found) == set(RULES)
    assert covered(Box(left=11.5, top=27.5, right=27.5, bottom=35.5), found["carpals"].box) == 1.0
    assert iou(found["metacarpals"].box, Box(left=9.5, top=11.5, right=29.5, bottom=25.5)) > 0.8
    assert covered(found["carpals"].box, found["hand"].box) > 0.99


def test_where_nothing_remains_the_whole_image_is_given() -> None:
    found = regions(blob(slice(10, 30), slice(10, 30)), PLAIN)
    assert found["carpals"].ok
    assert not found["metacarpals"].ok
    assert found["metacarpals"].box == whole_image(GRID)


def test_a_map_keeps_its_values_on_its_own_grid() -> None:
    map_HW = np.random.default_rng(0).random(GRID).astype(np.float32)
    assert np.array_equal(on_grid(map_HW, GRID), map_HW)


def test_overlaps_by_hand() -> None:
    one, other = Box(left=0, top=0, right=4, bottom=4), Box(left=2, top=0, right=6, bottom=4)
    assert iou(one, other) == pytest.approx(8 / 24)
    assert covered(one, other) == 0.5
    assert iou(one, Box(left=5, top=5, right=6, bottom=6)) == 0.0
    assert cut(Box(left=-9, top=1, right=3, bottom=99), (10, 10)) == Box(
        left=-0.5, top=1, right=3, bottom=9.5
    )


@pytest.mark.parametrize("wrong", [{"tau": 1.5}, {"tau": 0.5, "pad": -1.0}, {"tau": 0.5, "min_share": 1.0}])
def test_senseless_rules_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        BoxRule(**wrong)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="largest"):
        BoxRule(tau=0.5, mode="largst")


def test_boxes_survive_their_table(tmp_path) -> None:
    box = Box(left=1.5, top=2.5, right=30.25, bottom=40.5)
    row = {"sop_instance_uid": "1.2.3", "region": "carpals", "ok": True, "run_sha256": "00"}
    lost = {**row, "sop_instance_uid": "1.2.4", "ok": False}
    path = tmp_path / "boxes.parquet"
    facts = {"left": box.left, "top": box.top, "right": box.right, "bottom": box.bottom}
    write_boxes(path, [{**row, **facts}, {**lost, **facts}])
    assert read_boxes(path, "carpals") == {"1.2.3": box}
    with pytest.raises(UnknownNameError, match="carpals"):
        read_boxes(path, "carpal")
    with pytest.raises(TableError, match="osteoray regions"):
        read_boxes(tmp_path / "none.parquet", "carpals")


def test_what_was_found_in_a_frame_comes_to_each_image_upright() -> None:
    found = Found(box=Box(left=10.0, top=20.0, right=30.0, bottom=28.0), ok=True)
    quarter_33 = np.array([[0.0, -1.0, 39.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert edges(brought(found, PLAIN).box) == pytest.approx((10.0, 20.0, 30.0, 28.0))
    turned = brought(found, geometry.Geometry(quarter_33, GRID, GRID))
    assert turned.ok
    # (x, y) of the image lies at (39 - y, x) of the frame: the middle (20, 24) comes from (24, 19).
    assert edges(turned.box) == pytest.approx((20.0, 9.0, 28.0, 29.0))


def test_what_lies_off_the_image_or_was_not_found_is_the_whole_image_flagged() -> None:
    away_33 = np.array([[1.0, 0.0, 100.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    found = Found(box=Box(left=10.0, top=20.0, right=30.0, bottom=28.0), ok=True)
    for one, frame in (
        (found, geometry.Geometry(away_33, GRID, GRID)),
        (Found(box=found.box, ok=False), PLAIN),
    ):
        assert brought(one, frame) == Found(box=whole_image(GRID), ok=False)
