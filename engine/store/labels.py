"""The label table: CSV keyed by SOP instance UID, joined to instances at ingest."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv

from engine.errors import NoLabelError, UsageError

KEY = "sop_instance_uid"
Kind = Literal["number", "class", "point", "box"]
_PARTS: dict[str, tuple[str, ...]] = {"point": ("_x", "_y"), "box": ("_left", "_top", "_right", "_bottom")}
_PLACE = re.compile(r"(?:CSV column|Row) #\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One label of a task: a number in ``unit``, a class 0, 1, ..., or a point or box in original pixels.

    A label table must have the columns of a ``required`` one; values may be missing in either.
    """

    name: str
    kind: Kind
    unit: str = ""
    required: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Its columns: NAME; NAME_x, NAME_y; or NAME_left, _top, _right, _bottom."""
        return tuple(f"{self.name}{part}" for part in _PARTS.get(self.kind, ("",)))

    def facts(self) -> dict[str, Any]:
        """JSON-able facts."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Labels:
    """Label values by SOP instance UID; ``split_by_uid`` is empty where the table has no split column."""

    values_by_uid: dict[str, dict[str, float | None]]
    split_by_uid: dict[str, str] = field(default_factory=dict)


def read_labels(
    path: Path, required: tuple[str, ...], *, optional: tuple[str, ...] = (), what: str = "label table"
) -> Labels:
    """Read columns of numbers and ``split`` from a CSV; an ``optional`` one that it lacks has no values.

    ``what`` is the table's name in messages.

    Raises:
        UsageError: no such file, a column is missing, a value is no finite number, or a UID stands twice.
    """
    columns = (*required, *optional)
    types = {KEY: pa.string(), "split": pa.string(), **dict.fromkeys(columns, pa.float64())}
    in_turn = pyarrow.csv.ReadOptions(use_threads=False)  # so that an error can say in which row
    convert = pyarrow.csv.ConvertOptions(column_types=types)
    try:
        table = pyarrow.csv.read_csv(path, read_options=in_turn, convert_options=convert)
    except (OSError, pa.ArrowInvalid) as error:
        raise UsageError(f"the {what} {path} cannot be read: {_reason(error)}") from error
    missing = [name for name in (KEY, *required) if name not in table.column_names]
    if missing:
        raise UsageError(f"the {what} {path} has no column {', '.join(missing)}")
    for name in optional:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, pa.float64()))
    uids = table[KEY].to_pylist()
    if len(set(uids)) != len(uids):
        raise UsageError(f"the {what} {path} names a SOP instance UID twice")
    for name in columns:
        if not all(value is None or math.isfinite(value) for value in table[name].to_pylist()):
            raise UsageError(f"the {what} {path} has a value that is not finite in column {name}")
    rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
    values = {uid: dict(zip(columns, row, strict=True)) for uid, row in zip(uids, rows, strict=True)}
    splits = table["split"].to_pylist() if "split" in table.column_names else []
    return Labels(values, dict(zip(uids, splits, strict=True)) if splits else {})


def read_label_table(path: Path, labels: Sequence[Label]) -> Labels:
    """The columns of a task's labels from a CSV; see ``read_labels``."""
    required = [column for label in labels if label.required for column in label.columns]
    optional = [column for label in labels if not label.required for column in label.columns]
    table = read_labels(path, tuple(required), optional=tuple(optional))
    for label in labels:
        for values in table.values_by_uid.values():
            if not _has_sense(label, [values[column] for column in label.columns]):
                raise UsageError(f"the label table {path} has {_SENSELESS[label.kind]} for {label.name}")
    return table


_SENSELESS: dict[Kind, str] = {
    "number": "no number",
    "class": "a class that is no whole number from 0",
    "point": "a point with one coordinate",
    "box": "a box without four edges, or with a right edge left of its left one, or a bottom above its top",
}
"""What is wrong with a value, by the kind of its label."""


def _has_sense(label: Label, values: Sequence[float | None]) -> bool:
    """Whether the values of one label in one row are all absent, or make a value of its kind."""
    known = [value for value in values if value is not None]
    if not known or label.kind == "number":
        return True
    if len(known) < len(values):
        return False
    if label.kind == "class":
        return known[0] >= 0 and known[0].is_integer()
    if label.kind == "box":
        left, top, right, bottom = known
        return left < right and top < bottom
    return True


def label_columns(labels: Labels | None, uid: str, columns: tuple[str, ...]) -> dict[str, float | str | None]:
    """Label columns and ``split`` of one instance; all None without a label table.

    Raises:
        NoLabelError: a label table was given and does not name this instance.
    """
    if labels is None:
        return {**dict.fromkeys(columns), "split": None}
    if uid not in labels.values_by_uid:
        raise NoLabelError("the label table has no row for this instance")
    return {**labels.values_by_uid[uid], "split": labels.split_by_uid.get(uid)}


def _reason(error: OSError | pa.ArrowInvalid) -> str:
    """Why, and in which row or column; Arrow's own message quotes the row, which may name a patient."""
    if isinstance(error, OSError):
        return error.strerror or "no such file"
    place = _PLACE.search(str(error))
    return (
        f"a value is no number, or a row is too long or too short ({place[0] if place else 'no place known'})"
    )
