"""All instances of a score folder as one table for people: CSV, or XLSX. What a file says is never a formula.

One row an instance and task, in the order of studies: where it ended, why, and the columns of the task's
answer. No identity: a study is known by its UID, a patient by the key, an instance by its row in the plan.
File names, which may be names of patients, are in it where they are asked for. Text in a CSV cell that a
spreadsheet would take for a formula, at whatever sign it divides the line, gets an apostrophe before it; XLSX
cells are typed. What a terminal would obey is in neither.

The rows are held in Arrow, some 250 bytes each, and become text a few thousand at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import xlsxwriter
from pyarrow import csv
from xlsxwriter.exceptions import FileCreateError

from engine.delivery.scored import RESEARCH_USE, Models
from engine.errors import UsageError
from engine.evaluation.answer import Column
from engine.store import ledger
from engine.store.counts import COUNT_NAMES
from engine.store.files import PRIVATE, replacing

_OWN = pa.large_string()
_SHARED = pa.dictionary(pa.int32(), pa.string())
_BEFORE = pa.schema(
    {
        "study_instance_uid": _OWN,
        "sop_instance_uid": _OWN,
        "instance_index": pa.int64(),
        "state": _SHARED,
        "reason": _SHARED,
        "patient_key": _OWN,
        "patient_sex": _SHARED,
        "age_months": pa.float64(),
    }
)
_AFTER = pa.schema(
    {
        "body_part_examined": _SHARED,
        "laterality": _SHARED,
        "task": _SHARED,
        "model_sha256": _SHARED,
        "note": _SHARED,
    }
)
"""Columns before and after those of the answers."""
_PATH = pa.field("path", _OWN)
MAX_SHEET_ROWS = 1_048_575
"""Rows that a sheet can hold below its header."""

_STARTS_A_FORMULA = r"""(^|[;,|\t\r\n])([ "]*)([=+\-@＝＋－＠])"""  # noqa: RUF001
_STARTS_WITH_A_BREAK = r"^( *[\t\r\n])"
_NUMBERS = r"^-?[0-9.]+(e[-+]?[0-9]+)?(; -?[0-9.]+(e[-+]?[0-9]+)?)+$"
_OBEYED = r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x{9f}\x{2028}-\x{202e}\x{2066}-\x{2069}\x{200e}\x{200f}\x{feff}]"
"""Controls of terminals, and those that turn the direction of writing round."""
_MAX_CELL = 32_767
_AGE_DECIMALS = 2
_BATCH_ROWS = 8192


def write_csv(scores: Path, target: Path, *, has_names: bool = False) -> int:
    """Write the table; returns its rows.

    Raises:
        TableError: a table of the folder cannot be read.
        OSError: the disk refused it.
    """
    found = gathered(scores, has_names=has_names)
    with replacing(target, mode=PRIVATE) as temporary, csv.CSVWriter(temporary, found.schema) as writer:
        for batch in in_order(found):
            writer.write_table(
                pa.table([_changed(column, harmless) for column in batch.columns], found.schema)
            )
    return int(found.num_rows)


def write_xlsx(scores: Path, target: Path, created: datetime, *, has_names: bool = False) -> int:
    """Write the table as one sheet, text as text and numbers as numbers; returns its rows.

    Raises:
        TableError: a table of the folder cannot be read.
        UsageError: a sheet cannot hold so many rows.
        OSError: the disk refused it.
    """
    found = gathered(scores, has_names=has_names)
    if found.num_rows > MAX_SHEET_ROWS:
        raise UsageError(f"a sheet holds {MAX_SHEET_ROWS} rows, there are more: give --to NAME.csv")
    as_they_are = {"strings_to_formulas": False, "strings_to_numbers": False, "strings_to_urls": False}
    packed = BytesIO()  # some 60 bytes a row; a full disk meets our own writing, no half-closed ZIP file
    try:
        with (
            TemporaryDirectory() as scratch,
            xlsxwriter.Workbook(packed, {**as_they_are, "constant_memory": True, "tmpdir": scratch}) as book,
        ):
            book.set_properties({"comments": RESEARCH_USE, "created": created.replace(tzinfo=None)})
            sheet = book.add_worksheet("scores")
            sheet.freeze_panes(1, 0)
            sheet.autofilter(0, 0, 0, found.num_columns - 1)
            _write_rows(sheet, found)
    except FileCreateError as error:  # it wraps what the disk said
        (refused,) = error.args
        raise refused from error
    with replacing(target, mode=PRIVATE) as temporary:
        temporary.write_bytes(packed.getbuffer())
    return int(found.num_rows)


def harmless(texts: pa.Array) -> pa.Array:
    """Texts that no spreadsheet takes for a formula, nor any part of them; lists of numbers stay."""
    clean = printable(texts)
    marked = pc.replace_substring_regex(clean, _STARTS_WITH_A_BREAK, r"'\1")
    marked = pc.replace_substring_regex(marked, _STARTS_A_FORMULA, r"\1\2'\3")
    return pc.if_else(pc.match_substring_regex(clean, _NUMBERS), clean, marked)


def printable(texts: pa.Array) -> pa.Array:
    """Texts that no terminal obeys; NUL is left out."""
    return pc.replace_substring_regex(pc.replace_substring(texts, "\0", ""), _OBEYED, "\ufffd")


def gathered(scores: Path, *, has_names: bool = False) -> pa.Table:
    """Every instance and task that counts, in any order; superseded versions are left out.

    Columns: whose the instance is and where it ended; the answers of all tasks in the folder, null in the
    rows of other tasks; then how it was taken and by which model; with ``has_names`` the file's name.

    Raises:
        TableError: a table cannot be read.
    """
    tasks = Models(scores).tasks
    answers = {column.name: column for task in tasks for column in task.answer.columns}
    gone = ledger.superseded(scores)
    columns = _schema(answers, has_names=has_names)
    parts = (
        _part(path, COUNT_NAMES[table], gone, columns, answers)
        for table in ("predictions", *ledger.REJECT_TABLES)
        for path in ledger.tables_of(scores, table)
    )
    return ledger.packed(parts, columns)


def in_order(found: pa.Table) -> Iterator[pa.Table]:
    """The rows by study, then as planned, some thousands at a time; those without a study come last."""
    study = pc.fill_null(found["study_instance_uid"], "~")
    keys = pa.table({"study": study, "row": found["instance_index"]})
    order = pc.sort_indices(keys, [("study", "ascending"), ("row", "ascending")])
    for first in range(0, found.num_rows, _BATCH_ROWS):
        yield found.take(order.slice(first, _BATCH_ROWS))


def _schema(answers: Mapping[str, Column], *, has_names: bool) -> pa.Schema:
    own = (pa.field(name, _kind(one.type)) for name, one in answers.items())
    return pa.schema([*_BEFORE, *own, *_AFTER, *([_PATH] if has_names else [])])


def _kind(type_: pa.DataType) -> pa.DataType:
    """How a column of an answer stands in a table for people: as a number, else as text."""
    if pa.types.is_floating(type_):
        return pa.float64()
    return pa.int64() if pa.types.is_integer(type_) else _SHARED


def _part(
    path: Path, state: str, gone: pa.Array, columns: pa.Schema, answers: Mapping[str, Column]
) -> pa.Table:
    """One table of one shard in the columns of ours; what it lacks is null."""
    rows = ledger.read_present(path, {"instance_index", *columns.names})
    if len(gone):
        rows = rows.filter(pc.invert(pc.is_in(rows["instance_index"], gone)))
    own = {"state": state, "note": RESEARCH_USE}
    decimals = {"age_months": _AGE_DECIMALS, **{name: one.decimals for name, one in answers.items()}}
    arrays = [
        _readable(rows[name], kind, decimals.get(name))
        if name in rows.column_names
        else pa.repeat(pa.scalar(own.get(name), pa.string()), rows.num_rows).cast(kind)
        for name, kind in zip(columns.names, columns.types, strict=True)
    ]
    return pa.table(arrays, columns)


def _readable(column: pa.ChunkedArray, kind: pa.DataType, decimals: int | None) -> pa.ChunkedArray:
    """Numbers rounded as a person reads them, null where they are not finite; a list as one text."""
    if pa.types.is_list(column.type):
        texts = [None if row is None else "; ".join(map(str, row)) for row in column.to_pylist()]
        column = pa.chunked_array([pa.array(texts, pa.string())])
    column = column.cast(kind)
    if not pa.types.is_floating(kind):
        return column
    rounded = column if decimals is None else pc.round(column, decimals)
    return pc.if_else(pc.is_finite(column), rounded, None)


def _changed(column: pa.ChunkedArray, change: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """A column of text changed, any other as it is."""
    whole = column.combine_chunks()
    if pa.types.is_dictionary(whole.type):
        return pa.DictionaryArray.from_arrays(whole.indices, change(whole.dictionary))
    return change(whole) if whole.type == _OWN else whole


def _write_rows(sheet: Any, found: pa.Table) -> None:
    """Header and rows; of a sheet that is written as it grows, row by row."""
    for place, name in enumerate(found.column_names):
        sheet.write_string(0, place, name)
    number = 0
    for batch in in_order(found):
        for row in zip(*(_changed(one, printable).to_pylist() for one in batch.columns), strict=True):
            number += 1
            for place, cell in enumerate(row):
                if isinstance(cell, str):
                    sheet.write_string(number, place, cell[:_MAX_CELL])
                elif cell is not None:
                    sheet.write_number(number, place, cell)


def table(scores: Path, target: Path, *, has_names: bool = False) -> dict[str, Any]:
    """Write CSV or XLSX, as the ending of ``target`` says; gives the count."""
    models = Models(scores)
    if target.suffix.lower() == ".xlsx":
        return {"rows": write_xlsx(scores, target, models.scored_at, has_names=has_names)}
    return {"rows": write_csv(scores, target, has_names=has_names)}
