"""Lookup tables of a data set: modality, VOI and palette (PS3.3 C.11.1.1, C.11.2.1.1, C.7.6.3.1.5-6).

Writers differ, so a table is read by what it holds: entries of 8 bits lie one or two to a word, entries of 10
to 15 bits in a word each, and the first value mapped may be written with the sign of another VR.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

_WORDS = 1 << 16
_WORD_BYTES = 2
_LEAST_BITS, _MOST_BITS = 8, 16


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a table says of itself."""

    entries: int
    first: int
    """The value that the first entry is for, as written: it may be off by 65536."""
    bits: int

    def first_within(self, low: int, high: int) -> int:
        """The value that the first entry is for, where values go from ``low`` to ``high``.

        A signed number written as unsigned, or the other way round, is off by 65536: of the three readings
        that one is meant whose entries cover most of the values; as written where they cover the same.
        """

        def covered(first: int) -> int:
            return min(high, first + self.entries - 1) - max(low, first) + 1

        return max((self.first, self.first - _WORDS, self.first + _WORDS), key=covered)


def descriptor(header: Dataset, keyword: str) -> Descriptor:
    """Number of entries (0 is 65536), first value mapped, bits for each entry.

    Raises:
        ValueError: bits that no table has; also what pydicom raises where the element cannot be read.
    """
    entries, first, bits = (int(value) for value in header[keyword].value)
    if not _LEAST_BITS <= bits <= _MOST_BITS:
        raise ValueError(f"a table of {bits} bits")
    return Descriptor(entries % _WORDS or _WORDS, first, bits)


def entries(header: Dataset, keyword: str, said: Descriptor) -> NDArray[np.int64]:
    """The table's entries [entries], of one byte or two.

    Raises:
        ValueError: there are fewer than it says; also what pydicom raises where it cannot be read.
    """
    words = _words(header, header[keyword].value)
    if 2 * len(words) - said.entries in {0, 1}:
        words = words.astype("<u2").view(np.uint8)  # two to a word, the first in its low byte
    if len(words) < said.entries:
        raise ValueError("a table is cut")
    return words[: said.entries].astype(np.int64)


def mapped(header: Dataset, values: NDArray[Any], span: tuple[int, int]) -> NDArray[np.int64]:
    """``values``, which lie in ``span``, through the LUTDescriptor and LUTData of an item.

    Values below the first one mapped take the first entry, values above the last one the last.

    Raises:
        as ``descriptor`` and ``entries`` do.
    """
    said = descriptor(header, "LUTDescriptor")
    table = entries(header, "LUTData", said)
    whole = np.rint(values) if values.dtype.kind == "f" else values
    places = np.clip(whole - said.first_within(*span), 0, said.entries - 1).astype(np.int64)
    found: NDArray[np.int64] = table[places]
    return found


def _words(header: Dataset, value: Any) -> NDArray[np.uint16]:
    """The value's 16-bit words; a lone last byte counts as the low byte of one."""
    if isinstance(value, bytes | bytearray):
        is_little = header.original_encoding[1] is not False  # None: made in memory
        return np.frombuffer(value + b"\0" * (len(value) % _WORD_BYTES), "<u2" if is_little else ">u2")
    numbers = [value] if isinstance(value, int) else list(value)
    return np.asarray([int(number) % _WORDS for number in numbers], np.uint16)
