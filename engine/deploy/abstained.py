"""Why a score is withheld: the branch of the error tree (``engine.errors``) that ends as abstained rows."""

from __future__ import annotations

from typing import ClassVar

from engine.errors import EngineError


class AbstainedError(EngineError, code="ORY-A00"):
    """One instance was scored, and the score is withheld. ``reason`` is the abstained table's column."""

    reason: ClassVar[str] = "abstained"


class AgeAboveRangeError(AbstainedError, code="ORY-A01", reason="age_above_range"):
    """The patient is older than those the task is for."""


class BlankError(AbstainedError, code="ORY-A02", reason="blank"):
    """The image is all of one grey."""


class NoStructureError(AbstainedError, code="ORY-A03", reason="no_structure"):
    """The image is noise."""


class InvertedError(AbstainedError, code="ORY-A04", reason="inverted"):
    """Black and white seem to be exchanged."""


class UncertainError(AbstainedError, code="ORY-A05", reason="uncertain"):
    """The model is less sure than on nearly all images it was validated on."""


class RotatedError(AbstainedError, code="ORY-A06", reason="rotated"):
    """The image resembles those of the task turned by 90 or 180 degrees."""


class CroppedError(AbstainedError, code="ORY-A07", reason="cropped"):
    """The image resembles a part of those of the task."""


class SeveralPartsError(AbstainedError, code="ORY-A08", reason="several_parts"):
    """The image resembles two of the task's side by side."""


class OutOfDistributionError(AbstainedError, code="ORY-A09", reason="out_of_distribution"):
    """The image is unlike nearly all that the model was validated on."""


class ForeignArchiveError(AbstainedError, code="ORY-A10", reason="foreign_archive"):
    """The first films of the archive are unlike the training images, so no score of the run is given."""
