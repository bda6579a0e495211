"""A CSV of people's making, keyed by SOP instance UID: what a spreadsheet did to it is mended and counted.

Commas, semicolons or tabs; UTF-8 or UTF-16, with or without a byte order mark; points or decimal commas;
UIDs in quotes or with the apostrophe that makes a spreadsheet keep them. What cannot be told is refused: a
value that is joined to the wrong film, or to none, is worse than no run. Messages quote no cell: it may name
a patient.
"""

from __future__ import annotations

import codecs
import csv
import io
import logging
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import UsageError

KEY = "sop_instance_uid"

_SEPARATORS = ",;\t|"
_STATED = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)  # a first line that spreadsheets write and understand
_AROUND_A_UID = " \t\r\n\0\xa0\u200b\ufeff=\"'`´‘’“”„"
_ROUNDED = re.compile(r"\d+([.,]\d+)?E\+?\d+", re.IGNORECASE)  # a spreadsheet took the UID for a number
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(E[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_NOT_FINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
_ABSENT = frozenset({"", "na", "n/a", "#n/a", "#na", "nan", "-nan", "null", "none"})
_FIRST_ROW = 2  # of data, as a spreadsheet counts

log = logging.getLogger(__name__)


@dataclass(slots=True)
class CsvRows:
    """The cells of a table as texts, and the row that each line of them has in a spreadsheet.

    ``what`` and ``path`` are for messages; ``mended`` counts what was odd.
    """

    path: Path
    what: str
    names: list[str]
    cells: list[list[str]]
    places: list[int]
    separator: str
    mended: Counter[str] = field(default_factory=Counter)

    def refused(self, why: str) -> UsageError:
        """The error of this table."""
        return UsageError(f"the {self.what} {self.path} {why}")

    def texts(self, name: str) -> list[str]:
        """The cells of a column, without blanks around them."""
        place = self.names.index(name)
        return [row[place].strip() for row in self.cells]

    def uids(self, name: str = KEY) -> list[str]:
        """A column of UIDs, without what spreadsheets put around them; an empty one stays empty.

        Raises:
            UsageError: a spreadsheet rounded them.
        """
        place = self.names.index(name)
        given = [row[place] for row in self.cells]
        uids = [text.strip(_AROUND_A_UID) for text in given]
        self.mended["UIDs in quotes or between blanks"] += sum(map(str.__ne__, given, uids))
        rounded = [row for row, uid in zip(self.places, uids, strict=True) if _ROUNDED.fullmatch(uid)]
        if rounded:
            raise self.refused(
                f"has {len(rounded)} UID(s) that a spreadsheet rounded (the first in row {rounded[0]}): "
                "write the table again with the UIDs as text"
            )
        return uids

    def numbers(self, name: str) -> list[float | None]:
        """A column of numbers; an empty cell, or one of the usual words for nothing, is None.

        Raises:
            UsageError: a value is no finite number.
        """
        cells = zip(self.places, self.texts(name), strict=True)
        return [self._number(text, name, row) for row, text in cells]

    def tell(self) -> None:
        """Say in one line what was odd, and how often."""
        found = [f"{count} {what}" for what, count in self.mended.items() if count]
        if found:
            log.warning("the %s %s: %s", self.what, self.path, "; ".join(found))

    def _number(self, text: str, name: str, row: int) -> float | None:
        if text.casefold() in _ABSENT:
            return None
        if "," in text and self.separator != ",":
            text = text.replace(",", ".")
            self.mended["decimal commas"] += 1
        if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
            return float(text)
        if _NUMBER.fullmatch(text) or _NOT_FINITE.fullmatch(text):
            raise self.refused(f"has a value that is not finite in column {name} (row {row})")
        raise self.refused(f"cannot be read: a value is no number (row {row}, column {name})")


def read_rows(path: Path, what: str = "table") -> CsvRows:
    """The rows of a CSV whose first line names its columns, one of them ``KEY``; empty rows are left out.

    Raises:
        UsageError: no such file, no text, a row of another length than the first, no column KEY, or a
            column that stands twice.
    """
    try:
        text = _text(path.read_bytes())
    except OSError as error:
        raise UsageError(f"the {what} {path} cannot be read: {error.strerror or 'no such file'}") from error
    if not text.strip() or "\0" in text:
        raise UsageError(f"the {what} {path} cannot be read: it is empty or no text; save it as CSV")
    stated = _STATED.match(text)
    lines = (text[stated.end() :] if stated else text).lstrip("\r\n ")
    separator = stated[1] if stated else _separator(lines)
    table = CsvRows(path, what, [], [], [], separator)
    try:
        rows = list(csv.reader(io.StringIO(lines, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise table.refused("cannot be read: a cell is too long, or quotes do not close") from error
    table.names = [name.strip() for name in next(iter(rows), [])]
    for number, row in enumerate(rows[1:], _FIRST_ROW):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(table.names):
            raise table.refused(f"cannot be read: row {number} is too long or too short")
        table.cells.append(row)
        table.places.append(number)
    table.mended["rows that another sign than a comma separates"] += (separator != ",") * len(table.cells)
    if KEY not in table.names:
        raise table.refused(f"has no column {KEY}")
    twice = [name for name, count in Counter(table.names).items() if count > 1 and name]
    if twice:
        raise table.refused(f"has {len(twice)} column(s) that stand twice in its first row")
    return table


def _text(data: bytes) -> str:
    """The text of a file: by its byte order mark, else UTF-8, else an old code page of which ASCII counts."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _separator(text: str) -> str:
    """The one by which the first line has a cell KEY; a comma where none does."""
    first = text.partition("\n")[0]
    for separator in _SEPARATORS:
        if KEY in [cell.strip(" \r\"'") for cell in first.split(separator)]:
            return separator
    return ","
