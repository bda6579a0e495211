"""All instances of a score folder as one table for people: CSV, or XLSX. What a file says is never a formula.

One row an instance, in the order of studies: where it ended, why, and the result. No identity: a study is
known by its UID, a patient by the key. Text in a CSV cell that a spreadsheet would take for a formula gets
an apostrophe before it; cells of an XLSX are typed, so their text stays as it is.
"""

from __future__ import annotations

import csv
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import xlsxwriter
from xlsxwriter.exceptions import FileCreateError

from engine import books
from engine.errors import UsageError
from engine.manifest import MANIFEST_NAME, read_json, replacing
from engine.results.scored import INTERVAL_COLUMNS, RESEARCH_USE, Models

COLUMNS = (
    "study_instance_uid", "sop_instance_uid", "path", "state", "reason", "patient_key", "patient_sex",
    "age_months", "predicted_months", "sd_months", *INTERVAL_COLUMNS, "body_part_examined", "laterality",
    "task", "model_sha256", "note",
)  # fmt: skip
MAX_SHEET_ROWS = 1_048_575
"""Rows that a sheet can hold below its header."""

_STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001
_MAX_CELL = 32_767
_DECIMALS = 2

Cell = str | float | None
Row = tuple[Cell, ...]


def write_csv(scores: Path, target: Path) -> int:
    """Write the table; returns its rows.

    Raises:
        TableError: a table of the folder cannot be read.
    """
    found = rows(scores)
    with replacing(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(COLUMNS)
        for row in found:
            writer.writerow([harmless(cell) if isinstance(cell, str) else cell for cell in row])
    return len(found)


def write_xlsx(scores: Path, target: Path, created: datetime) -> int:
    """Write the table as one sheet, text as text and numbers as numbers; returns its rows.

    Raises:
        TableError: a table of the folder cannot be read.
        UsageError: a sheet cannot hold so many rows.
        OSError: the disk refused it.
    """
    found = rows(scores)
    if len(found) > MAX_SHEET_ROWS:
        raise UsageError(f"a sheet holds {MAX_SHEET_ROWS} rows, there are more: give --to NAME.csv")
    as_they_are = {"strings_to_formulas": False, "strings_to_numbers": False, "strings_to_urls": False}
    try:
        with replacing(target) as temporary, xlsxwriter.Workbook(str(temporary), as_they_are) as book:
            book.set_properties({"comments": RESEARCH_USE, "created": created.replace(tzinfo=None)})
            sheet = book.add_worksheet("scores")
            sheet.freeze_panes(1, 0)
            sheet.autofilter(0, 0, 0, len(COLUMNS) - 1)
            for number, row in enumerate([COLUMNS, *found]):
                _write_row(sheet, number, row)
    except FileCreateError as error:  # it wraps what the disk said
        (refused,) = error.args
        raise refused from error
    return len(found)


def harmless(text: str) -> str:
    """Text that no spreadsheet takes for a formula; NUL is left out."""
    clean = text.replace("\0", "")
    return f"'{clean}" if clean.lstrip(" ").startswith(_STARTS_A_FORMULA) else clean


def rows(scores: Path) -> list[Row]:
    """The cells of every instance that counts, by study, then path; of superseded versions none.

    Raises:
        TableError: a table cannot be read.
    """
    gone = set(books.superseded(scores).to_pylist())
    found = []
    for table, state in (
        ("predictions", "scored"),
        *((name, books.COUNT_NAMES[name]) for name in books.REJECT_TABLES),
    ):
        for path in books.tables_of(scores, table):
            names = [name for name in pq.read_schema(path).names if name in (*COLUMNS, "instance_index")]
            for row in books.read_table(path, names).to_pylist():
                if row["instance_index"] not in gone:
                    found.append(_cells({"reason": None, **row, "state": state, "note": RESEARCH_USE}))
    return sorted(found, key=lambda cells: (str(cells[0] or "~"), str(cells[2])))


def _cells(row: dict[str, Any]) -> Row:
    return tuple(_cell(row.get(name)) for name in COLUMNS)


def _cell(value: Any) -> Cell:
    if isinstance(value, float | int):
        return round(float(value), _DECIMALS) if math.isfinite(value) else None
    return None if value is None else str(value)


def _write_row(sheet: Any, number: int, row: Row) -> None:
    for place, cell in enumerate(row):
        if isinstance(cell, str):
            sheet.write_string(number, place, cell[:_MAX_CELL])
        elif cell is not None:
            sheet.write_number(number, place, cell)


def table(scores: Path, target: Path) -> dict[str, Any]:
    """Write CSV or XLSX, as the ending of ``target`` says; gives the count."""
    models = Models(read_json(scores / MANIFEST_NAME))
    if target.suffix.lower() == ".xlsx":
        return {"rows": write_xlsx(scores, target, models.scored_at)}
    return {"rows": write_csv(scores, target)}
