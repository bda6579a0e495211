"""Why a score is withheld: the branch of the error tree (``engine.errors``) that ends as abstained rows."""

from __future__ import annotations

from typing import ClassVar

from engine.errors import EngineError


class AbstainedError(EngineError):
    """One instance was scored, and the score is withheld. ``reason`` is the abstained table's column."""

    code = "ORY-A00"
    reason: ClassVar[str] = "abstained"


class AgeAboveRangeError(AbstainedError):
    """The patient is older than those the task is for."""

    code = "ORY-A01"
    reason = "age_above_range"


class BlankError(AbstainedError):
    """The image is all of one grey."""

    code = "ORY-A02"
    reason = "blank"


class NoStructureError(AbstainedError):
    """The image is noise."""

    code = "ORY-A03"
    reason = "no_structure"


class InvertedError(AbstainedError):
    """Black and white seem to be exchanged."""

    code = "ORY-A04"
    reason = "inverted"


class UncertainError(AbstainedError):
    """The model is less sure than on nearly all images it was validated on."""

    code = "ORY-A05"
    reason = "uncertain"


class RotatedError(AbstainedError):
    """The image resembles those of the task turned by 90 or 180 degrees."""

    code = "ORY-A06"
    reason = "rotated"


class CroppedError(AbstainedError):
    """The image resembles a part of those of the task."""

    code = "ORY-A07"
    reason = "cropped"


class SeveralPartsError(AbstainedError):
    """The image resembles two of the task's side by side."""

    code = "ORY-A08"
    reason = "several_parts"


class OutOfDistributionError(AbstainedError):
    """The image is unlike nearly all that the model was validated on."""

    code = "ORY-A09"
    reason = "out_of_distribution"
