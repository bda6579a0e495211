"""Checks of every score: an instance that the model was not made for ends as ``abstained``, with a reason.

They look at the header, at the image that the network saw, and at how sure the model was, in this order.
Measured at 112 x 112 on 2,000 real hands (RSNA, at 100 x 100) and on faults made of 500 of them:

    rule           false alarms   found
    inverted       0.05 %         99 % of inverted hands
    no_structure   0 %            all of 100 noise images
    blank          0 %            all flat images
    uncertain      0.5 % (set)    85 % inverted, 75 % two hands, 38 to 65 % halves and quarters, 24 to 29 %
                                  turned by 90 or 180 degrees, all films with nothing but a marker; of other
                                  parts 85 % of 60 knees, 14 % of 300 joint close-ups, 28 % of 153 skulls

No rule here finds several hands, a cropped or a rotated one reliably, nor another body part that the header
does not name. ``engine.deploy.out_of_distribution`` does, by the network's embedding; its finding stands
between those of the image and of the doubt. ``benchmarks/qa.py`` measures all of it together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.deploy import abstained
from engine.deploy.abstained import AbstainedError
from engine.tasks.task import Limits

Floats = NDArray[np.float64]

_SIDE = 112
_DARKER = -10.0
"""Grey values of 255 by which the middle is darker than the ring around it, by mean and by median."""
_LEAST_SD = 10.0
"""Grey values; the flattest of 2,000 real hands has 22."""
_LEAST_CORRELATION = 0.3
"""Of pixels two columns apart; the least of 2,000 real hands has 0.39, noise has 0."""
_RING = (0.06, 0.2)
_MIDDLE = (0.25, 0.75)
_LEAST_CONTENT = 16
_UNSURE = "the model is less sure than on nearly all images it was validated on"


def verdicts(
    samples: Sequence[Mapping[str, Any]],
    images_BVHW: NDArray[np.uint8],
    doubt_B: Any,
    *,
    limits: Limits,
    max_doubt: float | None,
    by_embedding: Sequence[AbstainedError | None] | None = None,
) -> list[AbstainedError | None]:
    """Why the score of each of B instances is withheld; None where it is not.

    Args:
        samples: header columns and ``original_to_network`` of each instance.
        images_BVHW: what the network saw; the first view is judged.
        doubt_B: the column of the answer that is larger where the model is less sure.
        limits: what the task's images may say of themselves.
        max_doubt: largest doubt that is accepted, from the validation split; None accepts any.
        by_embedding: what ``engine.deploy.out_of_distribution`` found; None where the bundle has no checks.
    """
    known = by_embedding if by_embedding is not None else [None] * len(samples)
    return [
        header_fault(row, limits)
        or image_fault(content(image_HW, row), is_middle_bright=limits.is_middle_bright)
        or finding
        or (None if max_doubt is None or float(doubt) <= max_doubt else abstained.UncertainError(_UNSURE))
        for row, image_HW, doubt, finding in zip(
            samples, images_BVHW[:, 0], np.asarray(doubt_B), known, strict=True
        )
    ]


def header_fault(row: Mapping[str, Any], limits: Limits) -> AbstainedError | None:
    """A patient outside the limits of the task. Other body parts are filtered before (``InputRule``)."""
    age = row.get("age_months")
    if age is not None and limits.oldest_months is not None and age > limits.oldest_months:
        return abstained.AgeAboveRangeError("the patient is older than the patients this task is for")
    return None


def image_fault(image_HW: NDArray[np.uint8], *, is_middle_bright: bool) -> AbstainedError | None:
    """One grey, noise, or black and white exchanged, in an image [H, W] without its padding."""
    small_HW = _small(image_HW)
    if small_HW.std() < _LEAST_SD:
        return abstained.BlankError("the image is all of one grey")
    if _correlation(small_HW) < _LEAST_CORRELATION:
        return abstained.NoStructureError(
            "the image is noise: neighbouring pixels do not resemble each other"
        )
    if is_middle_bright and _brighter_middle(small_HW) < _DARKER:
        return abstained.InvertedError(
            "the middle is darker than its surroundings: black and white may be exchanged"
        )
    return None


def content(image_HW: NDArray[np.uint8], row: Mapping[str, Any]) -> NDArray[np.uint8]:
    """The part of the network's view that shows the original image; all of it where that is unknown."""
    matrix, rows, columns = row.get("original_to_network"), row.get("rows"), row.get("columns")
    if matrix is None or not rows or not columns:
        return image_HW
    xy_33 = np.asarray(matrix, np.float64).reshape(3, 3)
    ends_32 = (xy_33 @ np.array([[0, columns], [0, rows], [1, 1]], np.float64))[:2]
    (left, right), (top, bottom) = (np.sort(pair) for pair in ends_32)
    height, width = image_HW.shape
    area_HW = image_HW[
        max(round(top), 0) : min(round(bottom), height), max(round(left), 0) : min(round(right), width)
    ]
    return area_HW if min(area_HW.shape, default=0) >= _LEAST_CONTENT else image_HW


def _small(image_HW: NDArray[np.uint8]) -> Floats:
    """At most _SIDE x _SIDE: on a finer grid noise and bones would look otherwise."""
    height, width = image_HW.shape
    size = (min(width, _SIDE), min(height, _SIDE))
    if size == (width, height):
        return image_HW.astype(np.float64)
    return np.asarray(Image.fromarray(image_HW).resize(size, Image.Resampling.BOX), np.float64)


def _correlation(image_HW: Floats) -> float:
    apart_HW = image_HW - image_HW.mean()
    return float((apart_HW[:, 2:] * apart_HW[:, :-2]).mean() / apart_HW.var())


def _brighter_middle(image_HW: Floats) -> float:
    """Grey values by which the middle is brighter than the ring: the larger of mean and median.

    The outermost pixels are left out: plates often have a bright frame.
    """
    height, width = image_HW.shape
    rows_H, columns_W = (np.arange(n) / n for n in (height, width))
    outside = _within(rows_H, columns_W, _RING[0], 1 - _RING[0])
    ring_HW = image_HW[outside & ~_within(rows_H, columns_W, _RING[1], 1 - _RING[1])]
    middle_HW = image_HW[_within(rows_H, columns_W, *_MIDDLE)]
    return float(max(np.median(middle_HW) - np.median(ring_HW), middle_HW.mean() - ring_HW.mean()))


def _within(rows_H: Floats, columns_W: Floats, low: float, high: float) -> NDArray[np.bool_]:
    is_row_H, is_column_W = (rows_H >= low) & (rows_H < high), (columns_W >= low) & (columns_W < high)
    inside_HW: NDArray[np.bool_] = is_row_H[:, None] & is_column_W[None]
    return inside_HW
