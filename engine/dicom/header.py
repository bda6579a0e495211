"""Header elements by the standard's names: texts, numbers, spacing, age, and the key of a patient.

Patient identity leaves this module only as an HMAC; dates leave it only as an age. ``columns`` makes the
columns of the tables.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import date
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from engine.dicom.parse import element_value
from engine.errors import HeaderError

DAYS_PER_MONTH = 365.25 / 12
_AGE = re.compile(r"^(\d{1,3})([DWMY])$")
_DATE = re.compile(r"^(\d{4})\.?(\d{2})\.?(\d{2})$")
_DATES = ("StudyDate", "SeriesDate", "AcquisitionDate")
_OLDEST_MONTHS = 130 * 12
_CALIBRATIONS = frozenset({"FIDUCIAL", "GEOMETRY"})
_MONTHS_PER_UNIT = {"D": 1 / DAYS_PER_MONTH, "W": 7 / DAYS_PER_MONTH, "M": 1.0, "Y": 12.0}
_ROUNDED_ASPECT, _MOST_ASPECT = 0.005, 8.0
_GROUPING = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_WELL_KNOWN = "1.2.840.10008."  # UIDs of the standard: a frame of reference may be that of an atlas
_UID = re.compile(r"^[0-9.]{1,64}$")

_KEYWORDS = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Modality", "Manufacturer", "BodyPartExamined", "AnatomicRegionSequence", "ViewPosition",
    "ViewCodeSequence", "Laterality", "ImageLaterality", "PresentationIntentType", "SeriesDescription",
    "ProtocolName", "PerformedProcedureStepDescription", "StudyDescription", "RequestedProcedureDescription",
    "PatientID", "IssuerOfPatientID", "PatientSex", "PatientAge", "PatientBirthDate", "StudyDate",
    "SeriesDate", "AcquisitionDate", "ImageType",
    "PixelSpacing", "PixelSpacingCalibrationType", "ImagerPixelSpacing", "NominalScannedPixelSpacing",
    "PixelAspectRatio", "ShutterShape", "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge",
    "ShutterUpperHorizontalEdge", "ShutterLowerHorizontalEdge", "CenterOfCircularShutter",
    "RadiusOfCircularShutter", "VerticesOfThePolygonalShutter",
    "EstimatedRadiographicMagnificationFactor", "DistanceSourceToDetector", "DistanceSourceToPatient",
    "ImagePositionPatient", "ImageOrientationPatient",
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration",
    "LossyImageCompression", "PixelPaddingValue", "PixelPaddingRangeLimit", "PresentationLUTShape",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ExtendedOffsetTable",
)  # fmt: skip


def tag_of(keyword: str) -> int:
    """The tag of a keyword of the standard's dictionary."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag


OVERLAY_BIT_POSITIONS = tuple(group << 16 | 0x0102 for group in range(0x6000, 0x6020, 2))
"""OverlayBitPosition of the 16 overlay groups (PS3.3 C.9.2; in pixel data retired)."""

TAGS: tuple[int, ...] = (*(tag_of(keyword) for keyword in _KEYWORDS), *OVERLAY_BIT_POSITIONS)
"""The only elements that are ever parsed before the pixel data."""


def text(header: Dataset, keyword: str) -> str | None:
    """The element as stripped text, its first value where it has several; None where absent or broken."""
    value = _first(header, keyword)
    return (_plain(value) or None) if value is not None else None


def number(header: Dataset, keyword: str) -> float | None:
    """The element's first value as a number; None where absent, broken or not finite."""
    return _number(_first(header, keyword))


def integer(header: Dataset, keyword: str, default: int | None = None) -> int:
    """The element's first value as an integer.

    Raises:
        HeaderError: absent without a default, or no whole number.
    """
    value = number(header, keyword)
    if value is None and default is not None:
        return default
    if value is None or value != int(value):
        raise HeaderError(f"{keyword} is missing or is no whole number")
    return int(value)


def num_frames(header: Dataset) -> int:
    """NumberOfFrames, 1 where it is absent or empty (PS3.3 C.7.6.6).

    Raises:
        HeaderError: there is a value, and it is no whole number: nobody knows what the pixel data hold.
    """
    if _is_empty(header, "NumberOfFrames"):
        return 1
    return max(integer(header, "NumberOfFrames"), 1)


def finite(header: Dataset, keyword: str, default: float) -> float:
    """The element's first value as a number; ``default`` where absent or empty.

    Raises:
        HeaderError: there is a value, and it is no finite number.
    """
    value = number(header, keyword)
    if value is None and not _is_empty(header, keyword):
        raise HeaderError(f"{keyword} is no finite number")
    return default if value is None else value


def patient_key(header: Dataset, salt: bytes) -> str:
    """HMAC-SHA256 of issuer and patient ID; without a patient ID of a UID that no two patients share.

    That is the UID of the study, else of the series, of the frame of reference, or of the instance. Names and
    birth dates group nothing: strangers share them, and an empty or malformed UID would merge strangers too.
    """
    patient = _whole(header, "PatientID")
    uids = (uid_or_none(header, keyword) or "" for keyword in _GROUPING)
    group = next((uid for uid in uids if uid and not uid.startswith(_WELL_KNOWN)), None)
    identity = (
        f"patient|{_whole(header, 'IssuerOfPatientID')}|{patient}"
        if patient
        else f"study|{group or text(header, 'SOPInstanceUID')}"
    )
    return hmac.new(salt, identity.encode(), hashlib.sha256).hexdigest()[:32]


def age_months(header: Dataset) -> float | None:
    """Chronological age at the study; None where nothing says it.

    PatientAge (PS3.5 AS), else the study's, series' or acquisition's date less PatientBirthDate. An age of no
    years is none: it says less than its unit.
    """
    match = _AGE.match((text(header, "PatientAge") or "").upper())
    if match and (int(match[1]) > 0 or match[2] != "Y"):
        return _plausible(int(match[1]) * _MONTHS_PER_UNIT[match[2]])
    born = _date(text(header, "PatientBirthDate"))
    seen = next((day for keyword in _DATES if (day := _date(text(header, keyword)))), None)
    return _plausible((seen - born).days / DAYS_PER_MONTH) if born and seen else None


def spacing(header: Dataset) -> tuple[float | None, float | None, str | None]:
    """(row, column) spacing in mm and where it comes from (PS3.3 10.7.1.3).

    PixelSpacing with its calibration type, said to be at the detector where it only repeats the
    detector's; else ImagerPixelSpacing divided by the magnification, said to be at the detector where none
    is known; else NominalScannedPixelSpacing of a digitised film.
    """
    calibrated, detector = _pair(header, "PixelSpacing"), _pair(header, "ImagerPixelSpacing")
    kind = text(header, "PixelSpacingCalibrationType")
    if calibrated and (kind or calibrated != detector):
        return *calibrated, f"pixel_spacing:{_calibration(kind)}"
    if detector:
        magnification = _magnification(header)
        if magnification:
            row, column = (side / magnification for side in detector)
            return row, column, "imager_pixel_spacing:magnification"
        return *detector, "imager_pixel_spacing:detector_plane"
    scanned = _pair(header, "NominalScannedPixelSpacing")
    return (*scanned, "nominal_scanned_pixel_spacing") if scanned else (None, None, None)


def pixel_aspect(header: Dataset) -> float:
    """Height of a pixel over its width where the image is displayed (PS3.3 C.7.6.3.1.7).

    By the first of PixelSpacing, ImagerPixelSpacing, NominalScannedPixelSpacing and PixelAspectRatio that has
    two values above 0. 1.0 where none has, or where the two differ by rounding, or by more than any film.
    """
    pairs = (
        _pair(header, keyword)
        for keyword in (
            "PixelSpacing",
            "ImagerPixelSpacing",
            "NominalScannedPixelSpacing",
            "PixelAspectRatio",
        )
    )
    row, column = next((pair for pair in pairs if pair), (1.0, 1.0))
    is_rounding = abs(row / column - 1.0) < _ROUNDED_ASPECT
    return 1.0 if is_rounding or not 1 / _MOST_ASPECT <= row / column <= _MOST_ASPECT else row / column


def uid_or_none(header: Dataset, keyword: str) -> str | None:
    """The element as a UID; None where it is absent or malformed."""
    value = text(header, keyword)
    return value if value and _UID.match(value) else None


def uid(header: Dataset, keyword: str) -> str:
    """The element as a UID.

    Raises:
        HeaderError: it is absent or malformed.
    """
    value = uid_or_none(header, keyword)
    if value is None:
        raise HeaderError(f"{keyword} is missing or malformed")
    return value


def words(header: Dataset, keyword: str) -> list[str]:
    """All values of the element in capitals."""
    return [_plain(value).upper() for value in _values(header, keyword)]


def all_numbers(header: Dataset, keyword: str) -> list[float]:
    """All values of the element that are finite numbers."""
    return [found for value in _values(header, keyword) if (found := _number(value)) is not None]


def numbers(header: Dataset, keyword: str, count: int) -> list[float] | None:
    """The element's values as ``count`` finite numbers; None where absent, broken or of another count."""
    found = [_number(value) for value in _values(header, keyword)]
    whole = [value for value in found if value is not None]
    return whole if len(found) == len(whole) == count else None


def _magnification(header: Dataset) -> float | None:
    """As stated, else source to detector over source to patient; below 1 no beam can be."""
    stated = number(header, "EstimatedRadiographicMagnificationFactor")
    detector = number(header, "DistanceSourceToDetector")
    patient = number(header, "DistanceSourceToPatient")
    if stated is None and detector and patient:
        stated = detector / patient
    return stated if stated and stated >= 1.0 else None


def _calibration(kind: str | None) -> str:
    """A defined term of the standard; never free text, which may hold anything."""
    if kind is None:
        return "unspecified"
    return (_one_of(kind, _CALIBRATIONS) or "other").lower()


def _one_of(value: str | None, known: frozenset[str]) -> str | None:
    return value.upper() if value and value.upper() in known else None


def _plausible(months: float) -> float | None:
    return months if 0.0 <= months <= _OLDEST_MONTHS else None


def _whole(header: Dataset, keyword: str) -> str:
    """All values of the element as one text in which ``|`` separates nothing; empty where absent."""
    return "\\".join(_plain(value) for value in _values(header, keyword)).replace("|", "\\|")


def _plain(value: Any) -> str:
    """Stripped text that any table can hold: some character sets decode to lone surrogates."""
    return str(value).strip("\0 \t\r\n").encode("utf-8", "replace").decode("utf-8")


def _values(header: Dataset, keyword: str) -> list[Any]:
    value = element_value(header, keyword)
    if value is None:
        return []
    is_many = not isinstance(value, str | bytes) and hasattr(value, "__len__")
    return list(value) if is_many else [value]


def _is_empty(header: Dataset, keyword: str) -> bool:
    """Absent or without a value, as it lies in the file: what cannot be converted is not empty."""
    if keyword not in header:
        return True
    raw = header.get_item(keyword).value
    return raw is None or raw == "" or (isinstance(raw, bytes) and not raw.strip(b"\0 "))


def _first(header: Dataset, keyword: str) -> Any:
    return next(iter(_values(header, keyword)), None)


def _number(value: Any) -> float | None:
    try:
        converted = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return converted if abs(converted) < float("inf") else None


def _pair(header: Dataset, keyword: str) -> tuple[float, float] | None:
    values = [_number(v) for v in _values(header, keyword)[:2]]
    if len(values) != len(("row", "column")):
        return None
    row, column = values
    return (row, column) if row and column and row > 0 and column > 0 else None


def _date(value: str | None) -> date | None:
    match = _DATE.match(value or "")
    try:
        return date(*(int(part) for part in match.groups())) if match else None
    except ValueError:
        return None
