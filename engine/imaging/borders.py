"""A border of one grey around a film, burnt into its pixels: plates and scanners leave white or black ones.

Statistics that count it change with its width. Only the brightest and the darkest grey can do that, so only
borders of these are looked for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.dicom.frame import Frame

_TOLERANCE = 1 / 128
"""Of the range of the values: what lossy codecs leave of one grey."""
_LEAST_REST = 1 / 4
"""Of a side: where less would remain, it is the background of a small object and no border."""
_BRIGHT = 0.5


def without_border(frame: Frame) -> Frame:
    """The frame whose ``film_HW`` leaves out the rows and columns at its edges that are all of one grey.

    Each side is judged alone, and only where its grey is the brightest or the darkest of the film. A bright
    border is remarked.
    """
    values_HW, film_HW = frame.values_HW, frame.film_HW
    of_film = values_HW if film_HW is None else values_HW[film_HW]
    low, high = float(of_film.min()), float(of_film.max())
    rows = _inner(values_HW, film_HW, low, high)
    columns = _inner(values_HW[rows].T, None if film_HW is None else film_HW[rows].T, low, high)
    if (rows, columns) == (slice(0, values_HW.shape[0]), slice(0, values_HW.shape[1])):
        return frame
    inner_HW = np.zeros(values_HW.shape, np.bool_)
    inner_HW[rows, columns] = True
    outer_HW = ~inner_HW if film_HW is None else ~inner_HW & film_HW
    if not outer_HW.any():
        return frame
    is_bright = frame.shaded(values_HW[outer_HW]).max() > _BRIGHT
    remarks = {*frame.remarks, "border"} if is_bright else frame.remarks
    rest_HW = inner_HW if film_HW is None else inner_HW & film_HW
    return replace(frame, film_HW=rest_HW, remarks=tuple(sorted(remarks)))


def _inner(lines_NK: NDArray[Any], film_NK: NDArray[np.bool_] | None, low: float, high: float) -> slice:
    """The lines between a border at the first ones and one at the last ones; all where that is too little."""
    count = len(lines_NK)
    first = _width(lines_NK, film_NK, low, high)
    last = count - _width(lines_NK[::-1], None if film_NK is None else film_NK[::-1], low, high)
    return slice(first, last) if last - first >= _LEAST_REST * count else slice(0, count)


def _width(lines_NK: NDArray[Any], film_NK: NDArray[np.bool_] | None, low: float, high: float) -> int:
    """How many lines from the first on are, where they show film, all of one grey: ``low`` or ``high``."""
    slack = (high - low) * _TOLERANCE
    widths = []
    for grey in (low, high):
        width = 0
        while width < len(lines_NK):
            line_K = lines_NK[width] if film_NK is None else lines_NK[width][film_NK[width]]
            if line_K.size and np.abs(line_K - grey).max() > slack:
                break
            width += 1
        widths.append(width)
    return max(widths)
