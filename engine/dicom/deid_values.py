"""New values for old ones: UIDs and dates under the salt, dummies, and what a kept value may look like."""

from __future__ import annotations

import hashlib
import hmac
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import Any

from pydicom.uid import UID

from engine.dicom.deid_profile import NUMBER_VRS

LEAST_SHIFT_DAYS, MOST_SHIFT_DAYS = 365, 3652
OLDEST_YEARS = 89
DUMMY_TEXT = "REMOVED"

_DATE = re.compile(r"^(\d{4})[.\-]?(\d{2})[.\-]?(\d{2})$")
_DATE_TIME = re.compile(r"^(\d{4})(\d{2})?(\d{2})?(\d{0,6}(?:\.\d{1,6})?)([+-]\d{4})?$")
_PATTERNS = {
    "AS": re.compile(r"^(\d{3}[DWMY])?$"),
    "CS": re.compile(r"^[A-Z0-9_ ]{0,16}$"),
    "DS": re.compile(r"^[ +\-0-9.Ee]{0,32}$"),
    "IS": re.compile(r"^[ +\-0-9]{0,16}$"),
    "TM": re.compile(r"^(\d{2}(:?\d{2}(:?\d{2}(\.\d{1,6})?)?)?)?$"),
}
_DUMMIES = {
    "AE": DUMMY_TEXT, "AS": "000Y", "CS": DUMMY_TEXT, "DS": "0", "IS": "0", "OB": b"\0\0", "UN": b"\0\0",
    "TM": "000000", "DA": "19000101", "DT": "19000101", "UR": "about:blank",
}  # fmt: skip


@dataclass(frozen=True)
class Pseudonyms:
    """The new names of one patient's things, always the same under the same salt."""

    salt: bytes
    patient_key: str

    def uid(self, original: str) -> str:
        """A UID under 2.25 (PS3.5 B.2) for ``original``; one that the standard itself defines stays."""
        plain = original.strip("\0 ")
        if not plain or UID(plain).name != plain:
            return plain
        named = uuid.UUID(bytes=self._digest("uid", plain)[:16], version=5)
        return f"2.25.{named.int}"

    @cached_property
    def shift(self) -> timedelta:
        """How far all dates of the patient go back: LEAST_SHIFT_DAYS to MOST_SHIFT_DAYS, whole days."""
        span = MOST_SHIFT_DAYS - LEAST_SHIFT_DAYS + 1
        number = int.from_bytes(self._digest("days", self.patient_key)[:8], "big")
        return timedelta(days=LEAST_SHIFT_DAYS + number % span)

    def date(self, original: str) -> str:
        """A DA value shifted; empty where it is no date."""
        match = _DATE.match(original.strip("\0 "))
        return self._shifted(match[1], match[2], match[3]) if match else ""

    def date_time(self, original: str) -> str:
        """A DT value with its date shifted, as precise as it was; time and zone stay. Empty: it is none."""
        match = _DATE_TIME.match(original.strip("\0 "))
        if not match or (match[4] and not match[3]):
            return ""
        year, month, day, time, zone = match.groups(default="")
        moved = self._shifted(year, month or "01", day or "01")
        return f"{moved[: len(year + month + day)]}{time}{zone}" if moved else ""

    def _shifted(self, year: str, month: str, day: str) -> str:
        try:
            moved = date(int(year), int(month), int(day)) - self.shift
        except (ValueError, OverflowError):
            return ""
        return f"{moved.year:04d}{moved.month:02d}{moved.day:02d}"

    def _digest(self, use: str, name: str) -> bytes:
        return hmac.new(self.salt, f"{use}|{name}".encode("utf-8", "replace"), hashlib.sha256).digest()


def texts(value: Any) -> list[str]:
    """The values of an element as stripped texts; bytes that pydicom left as they are count as ASCII."""
    if value is None:
        return []
    if isinstance(value, bytes):
        return value.decode("ascii", "replace").strip("\0 ").split("\\")
    many = value if not isinstance(value, str) and hasattr(value, "__iter__") else [value]
    return [str(one).strip("\0 ") for one in many]


def mapped(value: Any, new: Callable[[str], str]) -> str | list[str]:
    """``new`` of each value; a single one is no list."""
    found = [new(one) for one in texts(value)]
    return found[0] if len(found) == 1 else found


def kept(value: Any, vr: str) -> Any | None:
    """The value if it is nothing but what ``vr`` allows, else None. Text is for the caller to judge."""
    if vr in _PATTERNS:
        found = texts(value)
        return _one_or_many(found) if all(_PATTERNS[vr].match(one) for one in found) else None
    if vr in NUMBER_VRS:
        many = value if hasattr(value, "__iter__") and not isinstance(value, str | bytes) else [value]
        return value if all(isinstance(one, int | float) for one in many) else None
    return value


def capped_age(age: str) -> str:
    """An age string above OLDEST_YEARS as 090Y, whatever its unit; another one as it is."""
    return "090Y" if age.endswith("Y") and int(age[:-1]) > OLDEST_YEARS else age


def age_string(months: float) -> str:
    """PS3.5 AS of an age: days where they fit, else months, else years, capped."""
    days = round(months * 365.25 / 12)
    if days <= 999:  # noqa: PLR2004  three digits
        return f"{days:03d}D"
    if months < OLDEST_YEARS * 12 and months < 1000:  # noqa: PLR2004
        return f"{int(months):03d}M"
    return capped_age(f"{int(months / 12):03d}Y")


def dummy(vr: str) -> Any:
    """A value that says nothing."""
    return _DUMMIES.get(vr, DUMMY_TEXT)


def _one_or_many(found: list[str]) -> str | list[str]:
    return "" if not found else found[0] if len(found) == 1 else found
