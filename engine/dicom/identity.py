"""Who an image is of: patient and study elements, read from the source file when a result is written for it.

Tables hold no identity, so a result object that goes back to the archive takes it from the very file that was
scored. It leaves this module only as elements to be copied into that object, never as text of ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from engine.dicom.header import TAGS, tag_of, text
from engine.dicom.parse import Limits, element_value, parse, quiet
from engine.errors import HeaderError

_DATE = re.compile(r"\d{8}")
_TIME = re.compile(r"\d{2,6}(\.\d{1,6})?")
_AGE = re.compile(r"\d{3}[DWMY]")
_SEX = re.compile(r"[FMO]")
_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))*")
_UID_LENGTH = 64
_ANY = re.compile(r"[^\\]*", re.DOTALL)

# Keyword, what its value must look like, and whether the element is written empty where it does not (type 2).
_PATIENT_AND_STUDY: tuple[tuple[str, re.Pattern[str], bool], ...] = (
    ("PatientName", _ANY, True), ("PatientID", _ANY, True), ("IssuerOfPatientID", _ANY, False),
    ("PatientBirthDate", _DATE, True), ("PatientSex", _SEX, True), ("PatientAge", _AGE, False),
    ("StudyDate", _DATE, True), ("StudyTime", _TIME, True), ("StudyID", _ANY, True),
    ("AccessionNumber", _ANY, True), ("ReferringPhysicianName", _ANY, True),
    ("StudyDescription", _ANY, False),
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
        for keyword, shape, is_required in _PATIENT_AND_STUDY:
            value = _name(header, keyword) if keyword.endswith("Name") else text(header, keyword)
            if value is not None and shape.fullmatch(value):
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
