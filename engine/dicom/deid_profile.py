"""What becomes of an element: PS3.15 Table E.1-1 as data, and a stricter rule for what it does not list.

The table is ``confidentiality_profile.csv``. A choice that hangs on an element's type in its object, such as
X/Z/D, is made without knowing the object: the last one, which keeps any object valid. A sequence is emptied
instead of filled with dummies, and removed where that is a choice.

Two options of the profile are applied (E.3):

- *Retain Longitudinal Temporal Information with Modified Dates*: dates are shifted, not removed. Dates of the
  patient (group 0010) are not: the profile's own action holds for them.
- *Retain Patient Characteristics*: sex and age alone, since the product cannot work without; an age above 89
  years becomes 90.

The table names no text that it does not know. Here all other text is removed too (KEPT_TEXT apart), and
so is what no data dictionary knows.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.tag import BaseTag

_TABLE = Path(__file__).with_name("confidentiality_profile.csv")

DATE_VRS = frozenset({"DA", "DT"})
_TIME_VRS = DATE_VRS | {"TM"}
TEXT_VRS = frozenset({"AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
NUMBER_VRS = frozenset({"AT", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"})
BYTE_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
BINARY_VRS = NUMBER_VRS | BYTE_VRS

_PATIENT_GROUP = 0x0010
_BULK_GROUPS = frozenset({0x0028, 0x7FE0})
_FIRST_GROUP, _PIXEL_GROUP = 0x0008, 0x7FE0
_CURVES, _OVERLAYS, _REPEATING = 0x5000, 0x6000, 0xFF00


class Action(Enum):
    """One letter of the table, or ``CHECK``: kept where the value is what its VR allows, and nothing else."""

    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    UID = "U"
    SHIFT = "C"
    ENTER = "S"
    CHECK = "K"


def _tags(*keywords: str) -> frozenset[int]:
    found = {keyword: tag_for_keyword(keyword) for keyword in keywords}
    return frozenset(tag for tag in found.values() if tag is not None)


CODE_TEXT = _tags(
    "CodeValue", "LongCodeValue", "CodeMeaning", "CodingSchemeDesignator", "CodingSchemeVersion",
)  # fmt: skip
KEPT_TEXT = CODE_TEXT | _tags(
    "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "ConvolutionKernel", "RescaleType",
    "ModalityLUTType", "StackID",
)  # fmt: skip
"""Text about equipment, codes and pixel values; nobody types it in while examining a patient."""
_EMPTIED_TEXT = _tags("PositionReferenceIndicator")  # type 2, and not in the table
RETAINED = _tags("PatientSex", "PatientAge")
"""Retain Patient Characteristics."""


@functools.cache
def table() -> Mapping[int, str]:
    """Tag -> action of Table E.1-1, a choice with its slashes."""
    lines = _TABLE.read_text(encoding="utf-8").splitlines()
    rows = [line.split(",") for line in lines if not line.startswith("#")]
    return {int(tag, 16): action for tag, action, _ in rows[1:]}


def is_taken(tag: int) -> bool:
    """Whether an element is looked at: public, no group length, curve or overlay, not behind the pixels."""
    group, element = tag >> 16, tag & 0xFFFF
    is_graphics = group & _REPEATING in {_CURVES, _OVERLAYS}
    return _FIRST_GROUP <= group <= _PIXEL_GROUP and group % 2 == 0 and element != 0 and not is_graphics


def vr_of(tag: int) -> str | None:
    """The VR of the data dictionary; None where it does not know the element."""
    return dictionary_VR(tag) if dictionary_has_tag(tag) else None


@functools.lru_cache(maxsize=4096)
def action_of(tag: int) -> Action:
    """What becomes of the element ``tag`` at any level of nesting."""
    vr = vr_of(tag)
    if vr is None or not is_taken(tag):
        return Action.REMOVE
    if tag in RETAINED:
        return Action.CHECK
    listed = table().get(tag)
    if vr in _TIME_VRS and BaseTag(tag).group != _PATIENT_GROUP:
        return Action.SHIFT if vr in DATE_VRS else Action.CHECK
    return _unlisted(tag, vr) if listed is None else _listed(listed, vr)


def _listed(choice: str, vr: str) -> Action:
    if vr == "SQ":
        if "U*" in choice:
            return Action.ENTER
        return Action.REMOVE if "X" in choice and choice != "X/Z" else Action.EMPTY
    if vr == "UI" and choice != "X":
        return Action.UID
    return Action(choice.rpartition("/")[2])


def _unlisted(tag: int, vr: str) -> Action:
    if tag in KEPT_TEXT:
        return Action.CHECK
    if tag in _EMPTIED_TEXT:
        return Action.EMPTY
    if vr in TEXT_VRS or (vr in BYTE_VRS and tag >> 16 not in _BULK_GROUPS) or tag >> 16 == _PATIENT_GROUP:
        return Action.REMOVE
    return {"SQ": Action.ENTER, "UI": Action.UID}.get(vr, Action.CHECK)
