"""Slices in the order of the patient, and every fault that is planted among them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from engine.dicom.columns import columns as columns_of
from engine.dicom.header import TAGS
from engine.dicom.parse import Limits, parse
from engine.imaging.slice_order import (
    DUPLICATE,
    GANTRY_TILT,
    GAP,
    LOCALIZER,
    MIXED_ORIENTATION,
    NO_POSITION,
    UNEVEN_SPACING,
    Finding,
    Slice,
    order_slices,
)

SPINE = Path(__file__).resolve().parents[3] / "shared" / "data" / "ct_lidc0314_spine" / "series"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def stack(heights_mm: Sequence[float]) -> list[Slice]:
    return [Slice(position_mm=(-200.0, -180.0, z), orientation=AXIAL) for z in heights_mm]


def test_slices_are_sorted_along_the_normal() -> None:
    found = order_slices(stack([4, 0, 6, 2]))
    assert (found.order, found.spacing_mm, found.findings) == ((1, 3, 0, 2), 2.0, ())


def test_the_normal_is_row_cross_column() -> None:
    """Coronal slices, columns going down: row x column points from front to back, which is +y."""
    slices = [Slice(position_mm=(0.0, y, 0.0), orientation=CORONAL) for y in (9.0, 3.0, 6.0)]
    assert order_slices(slices).order == (1, 2, 0)


@pytest.mark.parametrize(
    ("heights", "order", "finding"),
    [
        ([0, 2, 4, 10, 12], (0, 1, 2, 3, 4), Finding(GAP, (2, 3), 6.0)),
        ([0, 2, 4, 2, 6, 2], (0, 1, 2, 4), Finding(DUPLICATE, (3, 5))),
        ([6, 2.005, 4, 2, 0], (4, 1, 2, 0), Finding(DUPLICATE, (3,))),
        ([0, 2, 4.5, 6.5, 8.5], (0, 1, 2, 3, 4), Finding(UNEVEN_SPACING, (0, 1, 2, 3, 4), 0.5)),
    ],
)
def test_faults_of_position_are_named(heights: list[float], order: tuple[int, ...], finding: Finding) -> None:
    found = order_slices(stack(heights))
    assert found.order == order
    assert found.spacing_mm == pytest.approx(2.0, abs=0.01)
    assert found.findings == (finding,)


def test_scouts_strangers_and_slices_without_a_place_are_left_out() -> None:
    slices = stack([0, 2, 4, 6, 8])
    slices[1] = replace(slices[1], is_localizer=True)
    slices.append(Slice(position_mm=None, orientation=AXIAL))
    slices.append(Slice(position_mm=(0.0, 0.0, 1.0), orientation=CORONAL))
    slices.append(Slice(position_mm=(0.0, 0.0, 1.0), orientation=(1.0, 0.0, 0.0, 1.0, 0.0, 0.0)))
    found = order_slices(slices)
    assert found.order == (0, 2, 3, 4)
    assert {finding.code: finding.slices for finding in found.findings if finding.code != GAP} == {
        LOCALIZER: (1,),
        NO_POSITION: (5, 7),
        MIXED_ORIENTATION: (6,),
    }


def test_a_tilted_gantry_is_seen_in_the_positions() -> None:
    """Each slice 2 mm further along its normal lies 2 mm x tan(15 degrees) aside."""
    aside = 2 * math.tan(math.radians(15))
    slices = [Slice(position_mm=(0.0, n * aside, 2.0 * n), orientation=AXIAL) for n in range(5)]
    found = order_slices(slices)
    assert found.codes == {GANTRY_TILT}
    assert found.findings[0].size == pytest.approx(15.0)
    assert found.spacing_mm == pytest.approx(2.0)


@pytest.mark.parametrize("slices", [[], [Slice(position_mm=None, orientation=None)], stack([3])])
def test_fewer_than_two_slices_have_no_spacing(slices: list[Slice]) -> None:
    assert order_slices(slices).spacing_mm is None


def spine() -> list[Slice]:
    found = []
    for path in sorted(SPINE.iterdir()):
        header = parse(path.read_bytes(), TAGS, Limits()).header
        columns = columns_of(header, "1.2.840.10008.1.2.1", b"s" * 32)
        found.append(
            Slice(
                position_mm=tuple(columns["image_position_patient"]),
                orientation=tuple(columns["image_orientation_patient"]),
                is_localizer=columns["is_localizer"],
            )
        )
    return found


@pytest.mark.skipif(not SPINE.exists(), reason="the folder shared/data is not beside the checkout")
def test_a_real_series_whose_file_names_are_not_in_order() -> None:
    slices = spine()
    found = order_slices(slices)
    assert sorted(found.order) == list(range(40))
    assert found.order != tuple(range(40))
    heights = [place[2] for n in found.order if (place := slices[n].position_mm) is not None]
    assert heights == sorted(heights)
    assert found.spacing_mm == pytest.approx(2.0, abs=0.01)
    assert found.findings == ()
    without_one = [one for n, one in enumerate(slices) if n != found.order[20]]
    assert order_slices(without_one).codes == {GAP}
    assert order_slices([*slices, slices[7]]).codes == {DUPLICATE}
