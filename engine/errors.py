"""Every error that osteoray raises on purpose.

    EngineError                      ORY-E00   anything below; messages say what, to which file, what to do
    ├── UsageError                   ORY-U01   the caller asked for something that cannot be done (exit 2)
    │   └── UnknownNameError         ORY-U02   a name that is not in a table; carries the nearest one
    ├── InstanceError                ORY-I00   one input cannot be used; becomes one quarantined row
    │   ├── EmptyFileError           ORY-I01
    │   ├── NotDicomError            ORY-I02
    │   ├── TruncatedError           ORY-I03
    │   ├── HeaderError              ORY-I04
    │   ├── OverLimitError           ORY-I05
    │   ├── UnsupportedSyntaxError   ORY-I06
    │   ├── NoPixelDataError         ORY-I07
    │   ├── PixelDecodeError         ORY-I08
    │   ├── SourceReadError          ORY-I09
    │   ├── DecoderCrashError        ORY-I10
    │   ├── DecoderTimeoutError      ORY-I11
    │   ├── DecoderMemoryError       ORY-I12
    │   └── CovariateError           ORY-I13
    ├── FilteredError                ORY-F00   sound, but not for this task; becomes one filtered row
    │   ├── SopClassFilteredError    ORY-F01
    │   ├── NotGrayscaleError        ORY-F02
    │   ├── MultiFrameError          ORY-F03
    │   ├── NoLabelError             ORY-F04
    │   ├── AlreadyScoredError       ORY-F05   becomes the earlier row of the same bytes: scored or abstained
    │   ├── BodyPartError            ORY-F06
    │   ├── BodyPartOpenError        ORY-F07
    │   ├── NotASliceError           ORY-F08
    │   ├── PartOfSeriesError        ORY-F09   becomes a grouped row: it went into the sample of its series
    │   ├── CompanionError           ORY-F10
    │   ├── ModalityError            ORY-F11
    │   ├── ViewError                ORY-F12
    │   ├── BothSidesError           ORY-F13
    │   ├── ForProcessingError       ORY-F14
    │   └── TooSmallError            ORY-F15
    ├── AbstainedError               ORY-A00   scored, but withheld: an abstained row (engine.abstained)
    │   ├── AgeAboveRangeError       ORY-A01
    │   ├── BlankError               ORY-A02
    │   ├── NoStructureError         ORY-A03
    │   ├── InvertedError            ORY-A04
    │   ├── UncertainError           ORY-A05
    │   ├── RotatedError             ORY-A06
    │   ├── CroppedError             ORY-A07
    │   ├── SeveralPartsError        ORY-A08
    │   ├── OutOfDistributionError   ORY-A09
    │   └── ForeignArchiveError      ORY-A10   said of a whole run (engine.deploy.archive_alarm)
    ├── TableError                   ORY-T01   a table or folder on disk is not what its manifest says
    │   └── LedgerError              ORY-T02   the planned inputs and the rows of the tables do not add up
    ├── TrainingError                ORY-L01   a run cannot start, continue or stay finite
    │   └── TeacherCacheError        ORY-L02   recorded teacher outputs: absent, damaged, of another teacher
    ├── ExportError                  ORY-X01
    │   └── ParityError              ORY-X02   the compiled student departs from the torch student
    ├── BundleError                  ORY-B01   a model bundle is incomplete or was changed
    ├── ClusterError                 ORY-C01   Ray cannot be started or joined
    ├── MissingDependencyError       ORY-D01   an optional package is absent; says what to install
    ├── IsolationError               ORY-P01   the process that decodes cannot be started or kept alive
    ├── StorageError                 ORY-S01   the disk refused: full, read-only, or broken
    ├── SinkError                    ORY-O01   nothing can be sent: not reached, no service, no rights
    ├── LeaseHeldError               ORY-R01   another run holds the output folder (exit 75)
    │   └── LeaseLostError           ORY-R02   another run took the folder over from this one (exit 75)
    ├── BudgetSpentError             ORY-R03   more inputs failed than --max-failures allows (exit 4)
    └── StoppedError                 ORY-R04   asked to end by SIGTERM, and did so in order (exit 143)

Messages never hold header values of a patient: they name the file as the caller named it, and the tag.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class EngineError(Exception):
    """Root of the tree; ``code`` is stable across releases, ``exit_code`` is what a job ends with."""

    code: ClassVar[str] = "ORY-E00"
    exit_code: ClassVar[int] = 1

    def __init_subclass__(cls, **facts: str | int) -> None:
        """Take ``code``, ``reason`` and ``exit_code`` from the line that names the class."""
        super().__init_subclass__()
        for name, value in facts.items():
            setattr(cls, name, value)


class UsageError(EngineError, code="ORY-U01", exit_code=2):
    """The request itself is wrong: a missing folder, a bad option, two that exclude each other."""


class UnknownNameError(UsageError, code="ORY-U02"):
    """A name is in none of our tables."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """Say what kind of name was unknown, and the nearest known one."""
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
        super().__init__(f"unknown {kind} '{name}': {hint}")
        self._arguments = (kind, name, tuple(names))

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, tuple[str, ...]]]:
        """Rebuild from the constructor's arguments where the error crosses a process."""
        return type(self), self._arguments


class InstanceError(EngineError, code="ORY-I00"):
    """One input cannot be used. ``reason`` is the value of the quarantine table's reason column."""

    reason: ClassVar[str] = "unusable"
    content_sha256: str | None = None
    """Of the file's bytes, where they were read."""


class EmptyFileError(InstanceError, code="ORY-I01", reason="empty_file"):
    """The file has no bytes."""


class NotDicomError(InstanceError, code="ORY-I02", reason="not_dicom"):
    """The bytes are no DICOM data set, and nothing else that is known: what is left of a file, maybe."""


class TruncatedError(InstanceError, code="ORY-I03", reason="truncated"):
    """The data set or its pixel data ends early."""


class HeaderError(InstanceError, code="ORY-I04", reason="bad_header"):
    """A header element that decoding or identity needs is missing or has no sense."""


class OverLimitError(InstanceError, code="ORY-I05", reason="over_limit"):
    """File, inflated or pixel size is above the cap, checked before any allocation."""


class UnsupportedSyntaxError(InstanceError, code="ORY-I06", reason="unsupported_syntax"):
    """No decoder for this transfer syntax is installed."""


class NoPixelDataError(InstanceError, code="ORY-I07", reason="no_pixel_data"):
    """An image SOP class without pixel data."""


class PixelDecodeError(InstanceError, code="ORY-I08", reason="pixel_decode"):
    """The decoder refused the code stream, or gave another shape than the header says."""


class SourceReadError(InstanceError, code="ORY-I09", reason="source_read"):
    """The source could not hand over the bytes."""


class DecoderCrashError(InstanceError, code="ORY-I10", reason="decoder_crash"):
    """The process that read and decoded the file ended; a fresh one went on with the next file."""


class DecoderTimeoutError(InstanceError, code="ORY-I11", reason="decoder_timeout"):
    """Reading and decoding took longer than the deadline, and was stopped."""


class DecoderMemoryError(InstanceError, code="ORY-I12", reason="decoder_memory"):
    """Reading and decoding asked for more memory than its bound."""


class CovariateError(InstanceError, code="ORY-I13", reason="covariate"):
    """A value given beside the image is no number, is out of its range, or is not one the model takes."""


class FilteredError(EngineError, code="ORY-F00"):
    """One sound input is not for this task. ``reason`` is the value of the filtered table's reason column."""

    reason: ClassVar[str] = "filtered"
    content_sha256: str | None = None
    """Of the file's bytes."""


class SopClassFilteredError(FilteredError, code="ORY-F01", reason="sop_class"):
    """The SOP class is not among those the task takes."""


class NotGrayscaleError(FilteredError, code="ORY-F02", reason="not_grayscale"):
    """Colour pixels: a photograph or a screenshot, not a radiograph."""


class MultiFrameError(FilteredError, code="ORY-F03", reason="multi_frame"):
    """More than one frame where the task takes a single projection image."""


class NoLabelError(FilteredError, code="ORY-F04", reason="no_label"):
    """A label table was given and has no row for this instance."""


class AlreadyScoredError(FilteredError, code="ORY-F05", reason="already_scored"):
    """The same bytes were scored before in the same way: the earlier row is taken, nothing is decoded."""

    route: str = "only_fit"
    """Why the rule takes the instance (``engine.ingest.routing``)."""


class BodyPartError(FilteredError, code="ORY-F06", reason="body_part"):
    """The header says that the instance shows another part of the body than the task is about."""


class BodyPartOpenError(FilteredError, code="ORY-F07", reason="body_part_open"):
    """The header names no body part, or not one of exactly one task, where only that was to be taken."""


class NotASliceError(FilteredError, code="ORY-F08", reason="not_a_slice"):
    """The instance does not lie in the stack of its series: a localizer, a duplicate, or without a place."""


class PartOfSeriesError(FilteredError, code="ORY-F09", reason="part_of_series"):
    """The instance went into the sample of its series, which ends in the row of its first slice."""

    sop_instance_uid: str = ""
    series_instance_uid: str = ""


class CompanionError(FilteredError, code="ORY-F10", reason="companion"):
    """Another kind of file that lies beside images: a text, a picture, a volume, notes of a system."""


class ModalityError(FilteredError, code="ORY-F11", reason="modality"):
    """The header names a kind of imaging that the task does not take."""


class ViewError(FilteredError, code="ORY-F12", reason="view"):
    """The header names a view that the task is not for: lateral or oblique."""


class BothSidesError(FilteredError, code="ORY-F13", reason="laterality"):
    """The header says that both sides are shown, where the task is of one."""


class ForProcessingError(FilteredError, code="ORY-F14", reason="for_processing"):
    """Raw values of the detector, which no display shows."""


class TooSmallError(FilteredError, code="ORY-F15", reason="too_small"):
    """Fewer rows or columns than show what the task looks at."""


class TableError(EngineError, code="ORY-T01"):
    """A table or folder on disk is not what its manifest says."""


class LedgerError(TableError, code="ORY-T02"):
    """Inputs, samples, filtered and quarantined rows do not add up."""


class TrainingError(EngineError, code="ORY-L01"):
    """A run cannot start, continue or stay finite."""


class TeacherCacheError(TrainingError, code="ORY-L02"):
    """Recorded teacher outputs are absent, damaged, of another teacher, or not what a term needs."""


class ExportError(EngineError, code="ORY-X01"):
    """The student could not be compiled."""


class ParityError(ExportError, code="ORY-X02"):
    """The compiled student departs from the torch student by more than the gate allows."""


class BundleError(EngineError, code="ORY-B01"):
    """A model bundle is incomplete or was changed after it was written."""


class ClusterError(EngineError, code="ORY-C01"):
    """Ray cannot be started here, or the cluster that RAY_ADDRESS names cannot be joined."""


class MissingDependencyError(EngineError, code="ORY-D01"):
    """An optional package is absent."""


class IsolationError(EngineError, code="ORY-P01"):
    """The process that reads and decodes cannot be started, or ends before it has a file in hand."""


class StorageError(EngineError, code="ORY-S01"):
    """The disk refused a read or a write: full, read-only, or broken."""


class SinkError(EngineError, code="ORY-O01"):
    """The place that results go to takes nothing now; what is not sent stays in the outbox."""


class LeaseHeldError(EngineError, code="ORY-R01", exit_code=75):
    """Another run holds the output folder; try again when it has ended."""


class LeaseLostError(LeaseHeldError, code="ORY-R02"):
    """Another run took the output folder over while this one made no sound; nothing more is written."""


class BudgetSpentError(EngineError, code="ORY-R03", exit_code=4):
    """More inputs were quarantined than the caller allows; what was finished is kept."""


class StoppedError(EngineError, code="ORY-R04", exit_code=143):
    """The run was asked to end (SIGTERM) and did; what was finished is kept."""


def error_words(error: EngineError) -> tuple[str, str]:
    """Code and message: what of an error travels between processes."""
    return error.code, str(error)


def error_of(code: str, message: str) -> EngineError:
    """The error of this ``code`` again, with its class and exit code."""
    kinds = [EngineError]
    for kind in kinds:  # grows while it is walked
        kinds += kind.__subclasses__()
    kind = next((kind for kind in kinds if kind.code == code), EngineError)
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    return error
