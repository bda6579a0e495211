"""The label table: CSV keyed by SOP instance UID, joined to instances at ingest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from engine.errors import NoLabelError
from engine.store.csv_rows import CsvRows, read_rows

SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
"""Words of the column ``split``, in any case."""
Kind = Literal["number", "class", "point", "box"]
_PARTS: dict[str, tuple[str, ...]] = {"point": ("_x", "_y"), "box": ("_left", "_top", "_right", "_bottom")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One label of a task: a number in ``unit``, a class 0, 1, ..., or a point or box in original pixels.

    A label table must have the columns of a ``required`` one; values may be missing in either. Numbers lie
    between ``low`` and ``high``; where all of them lie below ``doubted_below``, their unit may be another.
    """

    name: str
    kind: Kind
    unit: str = ""
    required: bool = False
    low: float | None = None
    high: float | None = None
    doubted_below: float | None = None

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
    split_by_uid: dict[str, str | None] = field(default_factory=dict)


def read_values(
    path: Path, required: Sequence[str], *, optional: Sequence[str] = (), what: str
) -> tuple[CsvRows, dict[str, dict[str, float | None]]]:
    """A CSV, and its columns of numbers by SOP instance UID; an ``optional`` one that it lacks has no values.

    ``what`` is the table's name in messages.

    Raises:
        UsageError: no such file, a column is missing, a value is no finite number, or a row has no UID or one
            that stands twice.
    """
    rows = read_rows(path, what)
    missing = [name for name in required if name not in rows.names]
    if missing:
        raise rows.refused(f"has no column {', '.join(missing)}")
    uids = rows.uids()
    if not all(uids):
        raise rows.refused(f"has {uids.count('')} row(s) without a SOP instance UID: fill them in")
    if len(set(uids)) != len(uids):
        raise rows.refused("names a SOP instance UID twice")
    names = (*required, *optional)
    columns = {name: rows.numbers(name) for name in names if name in rows.names}
    absent: list[float | None] = [None] * len(uids)
    cells = zip(*(columns.get(name, absent) for name in names), strict=True)
    values = {uid: dict(zip(names, row, strict=True)) for uid, row in zip(uids, cells, strict=True)}
    return rows, values


def _splits(rows: CsvRows) -> list[str | None]:
    """The column ``split`` in our words.

    Raises:
        UsageError: a row has another word.
    """
    given = rows.texts("split")
    splits = [SPLITS.get(text.casefold()) for text in given]
    unknown = sum(bool(text) and split is None for text, split in zip(given, splits, strict=True))
    if unknown:
        raise rows.refused(
            f"has {unknown} row(s) whose split is neither train, val nor test: leave it empty for others; "
            "without val, training holds a part of train out for validation by itself"
        )
    rows.mended["splits in another spelling"] += sum(
        bool(text) and text != split for text, split in zip(given, splits, strict=True)
    )
    return splits


def read_label_table(path: Path, labels: Sequence[Label]) -> Labels:
    """The columns of a task's labels, and the split, from a CSV. What was odd is logged as a warning.

    Raises:
        UsageError: see ``read_values``; or there is no value at all, one is none of its label's kind or out
            of its range, or a split is neither train, val nor test.
    """
    required = [column for label in labels if label.required for column in label.columns]
    optional = [column for label in labels if not label.required for column in label.columns]
    rows, values_by_uid = read_values(path, required, optional=optional, what="label table")
    if not any(value is not None for values in values_by_uid.values() for value in values.values()):
        raise rows.refused(f"has no value of {', '.join(required + optional)}")
    for label in labels:
        for values in values_by_uid.values():
            if not _has_sense(label, [values[column] for column in label.columns]):
                raise rows.refused(f"has {_SENSELESS[label.kind]} for {label.name}")
        if label.kind == "number":
            known = [values[label.name] for values in values_by_uid.values()]
            _check_range(rows, label, [value for value in known if value is not None])
    splits = dict(zip(values_by_uid, _splits(rows), strict=True)) if "split" in rows.names else {}
    rows.tell()
    return Labels(values_by_uid, splits)


def _check_range(rows: CsvRows, label: Label, known: Sequence[float]) -> None:
    """Refuse numbers out of a label's range; warn where all of them lie where those of another unit would."""
    low, high = label.low, label.high
    outside = sum((low is not None and value < low) or (high is not None and value > high) for value in known)
    if outside:
        ends = " to ".join("any" if end is None else f"{end:g}" for end in (low, high))
        raise rows.refused(
            f"has {outside} of {len(known)} values of {label.name} outside {ends} {label.unit}: are they in "
            "another unit?"
        )
    if known and label.doubted_below is not None and max(known) < label.doubted_below:
        bound = f"below {label.doubted_below:g} {label.unit} (are they in another unit?)"
        rows.mended[f"values of {label.name}, all of them {bound}"] = len(known)


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
