"""One frame of stored values, as the header describes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

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
