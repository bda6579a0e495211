"""The slices of a series become one sample: put in order, resampled to a fixed number of images, stacked.

Legend: N slices in order, S images of the sample, H, W of its view.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.errors import FilteredError, InstanceError, NotASliceError, PartOfSeriesError
from engine.imaging.slice_order import (
    DUPLICATE,
    LOCALIZER,
    MIXED_ORIENTATION,
    NO_POSITION,
    Slice,
    order_slices,
)
from engine.ingest.sample import Outcome, Row, Sample

SLICE_UIDS = "slice_uids"
"""Column of a series' sample on its way: SOP instance UIDs of its slices, in order."""
_NO_SERIES = "no_series"
_NO_SLICE = {
    LOCALIZER: "a localizer lies in no stack of slices",
    NO_POSITION: "ImagePositionPatient or ImageOrientationPatient is missing or has no sense",
    MIXED_ORIENTATION: "most slices of the series lie in another plane",
    DUPLICATE: "another slice of the series lies in the same place",
    _NO_SERIES: "SeriesInstanceUID is missing",
}


def in_series(outcomes: Sequence[Outcome], count: int) -> list[Outcome]:
    """What one rule makes of some instances, with one sample of ``count`` images for each of their series.

    The sample has the columns of the first slice in order, and stands in its place. The other slices of the
    stack are there as PartOfSeriesError, what lies in no stack as NotASliceError; errors stay as they are.
    """
    ended = list(outcomes)
    series: dict[str | None, dict[int, Sample]] = defaultdict(dict)
    for place, outcome in enumerate(outcomes):
        if not isinstance(outcome, FilteredError | InstanceError):
            series[outcome[0]["series_instance_uid"]][place] = outcome
    for uid, members in series.items():
        places, samples = list(members), list(members.values())
        found = order_slices([_slice(columns) for columns, _ in samples])
        wrong = {n: finding.code for finding in found.findings for n in finding.slices}
        stack = found.order if uid else ()
        for n in set(range(len(samples))) - set(stack):
            ended[places[n]] = _no_slice(samples[n][0], wrong[n] if uid else _NO_SERIES)
        for n in stack[1:]:
            ended[places[n]] = _part(samples[n][0])
        if stack:
            ended[places[stack[0]]] = _stacked([samples[n] for n in stack], count)
    return ended


def nearest_slices(along_N: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Of slices at ascending places (mm), those nearest to ``count`` evenly spread ones, from end to end.

    A single one is that nearest to the middle. Of fewer slices than ``count`` some come several times.
    """
    low, high = along_N[0], along_N[-1]
    wanted = np.linspace(low, high, count) if count > 1 else np.array([(low + high) / 2])
    nearest_S: NDArray[np.int64] = np.abs(along_N[None, :] - wanted[:, None]).argmin(axis=1)
    return nearest_S


def _stacked(slices: Sequence[Sample], count: int) -> Sample:
    """The sample of the slices in order: columns of the first, image [S, H, W]."""
    first = slices[0][0]
    axes_23 = np.array(first["image_orientation_patient"], np.float64).reshape(2, 3)
    places_N3 = np.array([columns["image_position_patient"] for columns, _ in slices], np.float64)
    chosen = nearest_slices(places_N3 @ np.cross(*axes_23), count)
    uids = tuple(columns["sop_instance_uid"] for columns, _ in slices)
    return {**first, SLICE_UIDS: uids}, np.stack([slices[n][1] for n in chosen])


def _slice(columns: Row) -> Slice:
    position, orientation = columns["image_position_patient"], columns["image_orientation_patient"]
    return Slice(
        position_mm=tuple(position) if position else None,
        orientation=tuple(orientation) if orientation else None,
        is_localizer=bool(columns["is_localizer"]),
    )


def _no_slice(columns: Row, code: str) -> NotASliceError:
    error = NotASliceError(_NO_SLICE[code])
    error.content_sha256 = columns["content_sha256"]
    return error


def _part(columns: Row) -> PartOfSeriesError:
    error = PartOfSeriesError("a slice of a series, which is one sample")
    error.content_sha256 = columns["content_sha256"]
    error.sop_instance_uid = columns["sop_instance_uid"]
    error.series_instance_uid = columns["series_instance_uid"]
    return error
