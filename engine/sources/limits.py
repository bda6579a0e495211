"""What an archive may cost before a member of it is given up."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import OverLimitError


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveLimits:
    """Caps of ZIP, TAR and gzip; the cap of one member is the caller's ``max_bytes`` where that is lower."""

    member_bytes: int = 512 << 20
    ratio: int = 200
    """Inflated over packed bytes; empty pictures pack well, so it counts from ``free_bytes`` on."""
    free_bytes: int = 16 << 20
    inflated_bytes: int = 8 << 30
    """Of a whole compressed TAR, which can only be read from its start."""
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
