"""Who an image is of: patient and study elements, read from the source file when a result is written for it.

Tables hold no identity, so a result object that goes back to the archive takes it from the very file that was
scored. It leaves this module only as elements to be copied into that object, never as text of ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from engine.dicom.header import TAGS, tag_of, text
from engine.dicom.parse import Limits, element_value, parse, quiet
from engine.errors import HeaderError

_EARLIEST = date(1850, 1, 1)  # nobody who was born before was ever X-rayed
_is_time = re.compile(r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?").fullmatch
_is_age = re.compile(r"\d{3}[DWMY]").fullmatch
_is_sex = re.compile(r"[FMO]").fullmatch
_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))*")
_UID_LENGTH = 64
_one_value = re.compile(r"[^\\]*", re.DOTALL).fullmatch


def _is_date(text: str) -> bool:
    """Whether it is YYYYMMDD of a day that was: archives write 00000000 and the like for "not known"."""
    try:
        return len(text) == len("YYYYMMDD") and datetime.strptime(text, "%Y%m%d").date() >= _EARLIEST
    except ValueError:
        return False


# Keyword, what its value must be, and whether the element is written empty where it is not (type 2).
_PATIENT_AND_STUDY: tuple[tuple[str, Callable[[str], object], bool], ...] = (
    ("PatientName", _one_value, True), ("PatientID", _one_value, True),
    ("IssuerOfPatientID", _one_value, False),
    ("PatientBirthDate", _is_date, True), ("PatientSex", _is_sex, True), ("PatientAge", _is_age, False),
    ("StudyDate", _is_date, True), ("StudyTime", _is_time, True), ("StudyID", _one_value, True),
    ("AccessionNumber", _one_value, True), ("ReferringPhysicianName", _one_value, True),
    ("StudyDescription", _one_value, False),
)  # fmt: skip
_READ = (*(keyword for keyword, _, _ in _PATIENT_AND_STUDY), "BurnedInAnnotation")
_IDENTITY_TAGS = tuple(dict.fromkeys((*TAGS, *(tag_of(keyword) for keyword in _READ))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Patient and study elements as Unicode, and the place of the instance in the archive.

    ``elements`` is for ``copy_into`` alone; nothing of it may be logged, printed or put in a table.
    """

    elements: Dataset
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    has_burned_in_text: bool
    """True where the file itself says that its pixels carry text that may identify."""


def identity(data: bytes, limits: Limits | None = None) -> Identity:
    """Read the identity of one image, through ``parse``; no pixel is decoded.

    Raises:
        InstanceError: the bytes cannot be parsed.
        FilteredError: the bytes are a DICOMDIR.
        HeaderError: study, series or instance have no valid UID: a result would belong to no study.
    """
    header = parse(data, _IDENTITY_TAGS, limits or Limits()).header
    elements = Dataset()
    with quiet():
        for keyword, is_sound, is_required in _PATIENT_AND_STUDY:
            value = _name(header, keyword) if keyword.endswith("Name") else text(header, keyword)
            if value is not None and is_sound(value):
                setattr(elements, keyword, value)
            elif is_required:
                setattr(elements, keyword, "")
    return Identity(
        elements=elements,
        sop_class_uid=_uid(header, "SOPClassUID"),
        sop_instance_uid=_uid(header, "SOPInstanceUID"),
        study_instance_uid=_uid(header, "StudyInstanceUID"),
        series_instance_uid=_uid(header, "SeriesInstanceUID"),
        has_burned_in_text=str(element_value(header, "BurnedInAnnotation") or "").upper() == "YES",
    )


def copy_into(result: Dataset, source: Identity) -> None:
    """Give ``result`` patient and study of ``source``; its text is written as Unicode (ISO_IR 192)."""
    with quiet():
        result.SpecificCharacterSet = "ISO_IR 192"
        result.StudyInstanceUID = source.study_instance_uid
        for keyword, _, _ in _PATIENT_AND_STUDY:
            if keyword in result:
                delattr(result, keyword)
        result.update(source.elements)


def _name(header: Dataset, keyword: str) -> str | None:
    """A person's name with all its component groups; of several names the first."""
    value = element_value(header, keyword)
    first = value[0] if isinstance(value, MultiValue) and value else value
    return None if not first else str(first).strip("\0 \t\r\n").encode("utf-8", "replace").decode("utf-8")


def _uid(header: Dataset, keyword: str) -> str:
    value = text(header, keyword)
    if value is None or len(value) > _UID_LENGTH or not _UID.fullmatch(value):
        raise HeaderError(f"{keyword} is missing or malformed")
    return value
