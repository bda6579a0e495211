"""One frame: its stored values as the header describes them, and its display values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PACKED = 1
"""BitsAllocated of a frame with eight pixels in a byte."""


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """What the header says of one frame of stored values."""

    rows: int
    columns: int
    bits_allocated: int
    is_little_endian: bool
    samples: int = 1
    planar_configuration: int = 0
    is_rgb: bool = False
    """PhotometricInterpretation is RGB: JPEG components that do not name their colour stay as they lie."""
    first_bit: int = 0
    """Where the frame starts in its first byte; frames of packed bits follow each other without a gap."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Container of one stored value, in the file's byte order; packed bits come out as bytes."""
        return np.dtype(f"{'<' if self.is_little_endian else '>'}u{max(self.bits_allocated // 8, 1)}")

    @property
    def count(self) -> int:
        """Stored values in the frame, of all samples."""
        return self.rows * self.columns * self.samples

    @property
    def num_bytes(self) -> int:
        """Bytes of the frame where it is not compressed."""
        if self.bits_allocated == PACKED:
            return -(-(self.first_bit + self.count) // 8)
        return self.count * self.dtype.itemsize

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns), or (rows, columns, samples) where there is more than one sample."""
        return (self.rows, self.columns, self.samples)[: 2 if self.samples == 1 else 3]


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame on its way to a view: clip(``gain`` * ``values_HW`` + ``offset``, 0, 1) are display values.

    It may have been decoded at 1 / ``reduction`` of ``original_HW`` (rows, columns); a pixel is then the
    mean of ``reduction`` x ``reduction`` original ones, and the last row and column may reach beyond them.
    """

    values_HW: NDArray[Any]
    gain: float
    offset: float
    original_HW: tuple[int, int]
    reduction: int = 1
    film_HW: NDArray[np.bool_] | None = None
    """Which of ``values_HW`` show the film: not padding, nor what a shutter hides; None: all of them."""
    aspect: float = 1.0
    """Height of a pixel of the original over its width, in display geometry (PS3.3 C.7.6.3.1.7)."""
    fill: float = 0.0
    """Display value, 0 to 1, of the pixels that show no film."""
    remarks: tuple[str, ...] = ()
    """What a user may want to know of how it was read: keys of ``remarks.REMARKS``."""

    def shaded(self, values_HW: NDArray[Any]) -> NDArray[np.float64]:
        """Display values, 0 black to 1 white, of ``values_HW``, which may be means of this frame's values."""
        shown = values_HW.astype(np.float64) * self.gain + self.offset
        clipped: NDArray[np.float64] = np.clip(shown, 0.0, 1.0)
        return clipped

    @property
    def display_HW(self) -> NDArray[np.float32]:
        """Display values at the frame's own resolution; ``fill`` where there is no film."""
        shown_HW = self.shaded(self.values_HW).astype(np.float32)
        if self.film_HW is not None:
            shown_HW[~self.film_HW] = self.fill
        return shown_HW
