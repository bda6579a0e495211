"""The ages' own part of a report."""

from __future__ import annotations

from engine.evaluation.answer import Block, Facts
from engine.evaluation.held_out import HeldOut


def blocks(held: HeldOut, calibration: Facts) -> list[Block]:
    """Tables and plots of predicted against true ages."""
    return []
