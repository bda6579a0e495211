"""What an archive may cost before a member of it is given up."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from errno import EIO

from engine.errors import OverLimitError

PARSER_ERRORS = (
    ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError, MemoryError,
    EOFError, struct.error, zlib.error,
)  # fmt: skip
"""What code that takes strangers' bytes apart may raise: the bytes' doing, and one row."""
MOST_SIZE = 1 << 62
"""No size or place is larger: what claims to be is planned with an unknown size, and refused when read."""


class DamageError(OSError):
    """The bytes of an archive are not what they should be: asking again does not help."""

    def __init__(self, what: str) -> None:
        """Say what is wrong, in the place of the system's own words."""
        super().__init__(EIO, what)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveLimits:
    """Caps of ZIP, TAR and gzip; the cap of one member is the caller's ``max_bytes`` where that is lower."""

    member_bytes: int = 512 << 20
    ratio: int = 200
    """Inflated over packed bytes; empty pictures pack well, so it counts from ``free_bytes`` on."""
    free_bytes: int = 16 << 20
    inflated_bytes: int = 8 << 30
    """Of a whole compressed TAR, which can only be read from its start."""
    all_inflated_bytes: int = 1 << 40
    """Of all members of one ZIP, as its directory states them: several may lie over the same packed bytes."""
    members: int = 2_000_000


def check_growth(inflated: int, packed: int, limits: ArchiveLimits) -> None:
    """Check what ``packed`` bytes have become so far.

    Raises:
        OverLimitError: more than the ratio or the absolute cap allows.
    """
    if inflated > limits.inflated_bytes:
        raise OverLimitError(f"it grows beyond the cap of {limits.inflated_bytes} bytes: unpack it first")
    if inflated > max(limits.free_bytes, limits.ratio * packed):
        raise OverLimitError(f"it grows by more than {limits.ratio} to 1, as no image does: not unpacked")
