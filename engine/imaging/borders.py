"""A border of one grey around a film, burnt into its pixels: plates and scanners leave white or black ones.

Statistics that count it change with its width. Only the brightest and the darkest grey can do that, so only
borders of these are looked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.dicom.frame import Frame

_TOLERANCE = 1 / 128
"""Of the range of the values: how far a line of one grey may be off."""
_RINGING = 1 / 16
"""Of the range: how far single pixels of it may be off where a lossy code rings beside the film."""
_STEP, _STEP_LINES = 1 / 32, 128
"""Of the range, within 2 lines or a 128th of the side: half of a line leaves a bright border's grey there.
An overexposed edge of the film ends obliquely or fades: where, is a matter of one grey."""
_THIN = 256
"""Of these to a side one line is none that a lossy code let ring."""
_MOST_BORDERS = 2
_LEAST_REST = 1 / 4
"""Of a side: where less would remain, it is the background of a small object and no border."""


def without_border(frame: Frame) -> Frame:
    """The frame whose ``film_HW`` leaves out the rows and columns at its edges that are all of one grey.

    Each side is judged alone, and only where its grey is the brightest or the darkest of the film. Within a
    border there may be another one. A bright border is remarked.
    """
    inner = frame
    for _ in range(_MOST_BORDERS):
        rest = _without_one(inner)
        if rest is inner:
            break
        inner = rest
    return inner


def _without_one(frame: Frame) -> Frame:
    values_HW, film_HW = frame.values_HW, frame.film_HW
    of_film = values_HW if film_HW is None else values_HW[film_HW]
    greys = _Greys(float(of_film.min()), float(of_film.max()), frame.gain)
    rows = _inner(values_HW, film_HW, greys)
    columns = _inner(values_HW[rows].T, None if film_HW is None else film_HW[rows].T, greys)
    if values_HW[rows, columns].shape == values_HW.shape:
        return frame
    inner_HW = np.zeros(values_HW.shape, np.bool_)
    inner_HW[rows, columns] = True
    outer_HW = ~inner_HW if film_HW is None else ~inner_HW & film_HW
    if not outer_HW.any():
        return frame
    is_bright = any(greys.is_bright(float(end(values_HW[outer_HW]))) for end in (np.min, np.max))
    remarks = {*frame.remarks, "border"} if is_bright else frame.remarks
    rest_HW = inner_HW if film_HW is None else inner_HW & film_HW
    return replace(frame, film_HW=rest_HW, remarks=tuple(sorted(remarks)))


@dataclass(frozen=True, slots=True)
class _Greys:
    """What may be a border: lines at the least or greatest value of a film, and how far off they may be."""

    low: float
    high: float
    gain: float

    @property
    def span(self) -> float:
        return self.high - self.low

    def may_be(self, grey: float) -> bool:
        """Whether a grey is nearly the least or the greatest."""
        return min(grey - self.low, self.high - grey) <= 2 * _TOLERANCE * self.span

    def is_flat(self, line_K: NDArray[Any], grey: float, reach: float) -> bool:
        """Whether a line is of one grey on average, and no pixel of it is off by more than ``reach``."""
        off_K = line_K - grey
        is_near = float(np.abs(off_K).max()) <= reach * self.span
        return is_near and abs(float(off_K.mean())) <= _TOLERANCE * self.span

    def is_bright(self, grey: float) -> bool:
        """Whether it is nearer to the film's white than to its black, as it is displayed."""
        return (grey > (self.low + self.high) / 2) == (self.gain > 0)


def _inner(lines_NK: NDArray[Any], film_NK: NDArray[np.bool_] | None, greys: _Greys) -> slice:
    """The lines between a border at the first ones and one at the last ones; all where that is too little."""
    count = len(lines_NK)
    first = _width(lines_NK, film_NK, greys)
    last = count - _width(lines_NK[::-1], None if film_NK is None else film_NK[::-1], greys)
    return slice(first, last) if last - first >= _LEAST_REST * count else slice(0, count)


def _width(lines_NK: NDArray[Any], film_NK: NDArray[np.bool_] | None, greys: _Greys) -> int:
    """How many lines from the first on are, where they show film, all of one grey, the least or greatest.

    A line of which the film is less than half is none of a border: there it would be the film's own edge.
    """
    count = len(lines_NK)

    def line(place: int) -> NDArray[Any]:
        found: NDArray[Any] = lines_NK[place] if film_NK is None else lines_NK[place][film_NK[place]]
        return found

    empty = next((place for place in range(count) if line(place).size), count)
    grey = float(np.median(line(empty))) if empty < count else np.nan
    if not greys.may_be(grey):
        return 0

    def end(reach: float) -> int:
        least = lines_NK.shape[1] / 2
        inner = range(empty, count)
        return next(
            (at for at in inner if line(at).size < least or not greys.is_flat(line(at), grey, reach)), count
        )

    def has_step(at: int) -> bool:
        beyond = (line(place) for place in range(at, min(at + max(2, count // _STEP_LINES), count)))
        steps = (abs(float(np.median(one_K)) - grey) for one_K in beyond if one_K.size)
        return max(steps, default=0.0) >= _STEP * greys.span

    strict = end(_TOLERANCE)
    loose = end(_RINGING)
    if (loose - empty) * _THIN < count:  # a line of a large film: it may be gone at half the resolution
        loose = strict
    is_sharp = loose > empty and has_step(loose)
    if greys.is_bright(grey):
        return loose if is_sharp else 0
    width = loose if is_sharp else strict
    return width if width > empty else 0
