"""All instances of a score folder as one table for people: CSV, or XLSX. What a file says is never a formula.

One row an instance and task, in the order of studies: where it ended, why, and the columns of the task's
answer. No identity: a study is known by its UID, a patient by the key. Text in a CSV cell that a spreadsheet
would take for a formula gets an apostrophe before it; XLSX cells are typed, so their text stays as it is.

The rows are held in Arrow, some 250 bytes each, and become text a few thousand at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from engine.store.files import replacing

_OWN = pa.large_string()
_SHARED = pa.dictionary(pa.int32(), pa.string())
_BEFORE = pa.schema(
    {
        "study_instance_uid": _OWN,
        "sop_instance_uid": _OWN,
        "path": _OWN,
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
MAX_SHEET_ROWS = 1_048_575
"""Rows that a sheet can hold below its header."""

_STARTS_A_FORMULA = "^( *[=+\\-@\t\r\n＝＋－＠])"  # noqa: RUF001
_MAX_CELL = 32_767
_AGE_DECIMALS = 2
_BATCH_ROWS = 8192


def write_csv(scores: Path, target: Path) -> int:
    """Write the table; returns its rows.

    Raises:
        TableError: a table of the folder cannot be read.
        OSError: the disk refused it.
    """
    found = gathered(scores)
    with replacing(target) as temporary, csv.CSVWriter(temporary, found.schema) as writer:
        for batch in in_order(found):
            writer.write_table(pa.table([_harmless_column(column) for column in batch.columns], found.schema))
    return int(found.num_rows)


def write_xlsx(scores: Path, target: Path, created: datetime) -> int:
    """Write the table as one sheet, text as text and numbers as numbers; returns its rows.

    Raises:
        TableError: a table of the folder cannot be read.
        UsageError: a sheet cannot hold so many rows.
        OSError: the disk refused it.
    """
    found = gathered(scores)
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
    with replacing(target) as temporary:
        temporary.write_bytes(packed.getbuffer())
    return int(found.num_rows)


def harmless(texts: pa.Array) -> pa.Array:
    """Texts that no spreadsheet takes for a formula; NUL is left out."""
    clean = pc.replace_substring(texts, "\0", "")
    return pc.replace_substring_regex(clean, _STARTS_A_FORMULA, r"'\1")


def gathered(scores: Path) -> pa.Table:
    """Every instance and task that counts, in any order; superseded versions are left out.

    Columns: whose the instance is and where it ended; the answers of all tasks in the folder, null in the
    rows of other tasks; then how it was taken and by which model.

    Raises:
        TableError: a table cannot be read.
    """
    tasks = Models(scores).tasks
    answers = {column.name: column for task in tasks for column in task.answer.columns}
    gone = ledger.superseded(scores)
    parts = (
        _part(path, COUNT_NAMES[table], gone, answers)
        for table in ("predictions", *ledger.REJECT_TABLES)
        for path in ledger.tables_of(scores, table)
    )
    return ledger.packed(parts, _schema(answers))


def in_order(found: pa.Table) -> Iterator[pa.Table]:
    """The rows by study, then path, some thousands at a time; those without a study come last."""
    study = pc.fill_null(found["study_instance_uid"], "~")
    keys = pa.table({"study": study, "path": found["path"]})
    order = pc.sort_indices(keys, [("study", "ascending"), ("path", "ascending")])
    for first in range(0, found.num_rows, _BATCH_ROWS):
        yield found.take(order.slice(first, _BATCH_ROWS))


def _schema(answers: Mapping[str, Column]) -> pa.Schema:
    return pa.schema([*_BEFORE, *(pa.field(name, _kind(one.type)) for name, one in answers.items()), *_AFTER])


def _kind(type_: pa.DataType) -> pa.DataType:
    """How a column of an answer stands in a table for people: as a number, else as text."""
    if pa.types.is_floating(type_):
        return pa.float64()
    return pa.int64() if pa.types.is_integer(type_) else _SHARED


def _part(path: Path, state: str, gone: pa.Array, answers: Mapping[str, Column]) -> pa.Table:
    """One table of one shard in the columns of ours; what it lacks is null."""
    columns = _schema(answers)
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


def _harmless_column(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    if pa.types.is_dictionary(whole.type):
        return pa.DictionaryArray.from_arrays(whole.indices, harmless(whole.dictionary))
    return harmless(whole) if whole.type == _OWN else whole


def _write_rows(sheet: Any, found: pa.Table) -> None:
    """Header and rows; of a sheet that is written as it grows, row by row."""
    for place, name in enumerate(found.column_names):
        sheet.write_string(0, place, name)
    number = 0
    for batch in in_order(found):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            number += 1
            for place, cell in enumerate(row):
                if isinstance(cell, str):
                    sheet.write_string(number, place, cell[:_MAX_CELL])
                elif cell is not None:
                    sheet.write_number(number, place, cell)


def table(scores: Path, target: Path) -> dict[str, Any]:
    """Write CSV or XLSX, as the ending of ``target`` says; gives the count."""
    models = Models(scores)
    if target.suffix.lower() == ".xlsx":
        return {"rows": write_xlsx(scores, target, models.scored_at)}
    return {"rows": write_csv(scores, target)}
