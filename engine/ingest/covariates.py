"""Covariates: what a network is given beside the image, each a few float32 columns made of one value.

A task declares its own; SEX is here because many tasks take it. Nothing here knows them by name.
Legend: N samples, Q columns of all covariates of a network, in the order in which they are named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import CovariateError, UnknownNameError, UsageError
from engine.store.labels import read_values

Columns = NDArray[np.float32]

_TABLE = "table"


@dataclass(frozen=True, slots=True, kw_only=True)
class Covariate:
    """One covariate of a task.

    ``source`` is ``header:COLUMN`` (a header column) or ``table:COLUMN`` (a column of the covariate table).
    ``encode`` makes its columns of a value; None is a missing value, which a task may show by a flag column.
    ``low`` and ``high`` bound a value in ``unit``. ``withheld`` says whether covariate dropout applies.
    """

    name: str
    source: str
    encode: Callable[[Any], tuple[float, ...]]
    unit: str = ""
    low: float | None = None
    high: float | None = None
    withheld: bool = False

    @property
    def column(self) -> str:
        """The column of the samples that it is made of."""
        return self.source.partition(":")[2]

    @property
    def is_of_table(self) -> bool:
        """Whether its values come from a covariate table, not from the header."""
        return self.source.partition(":")[0] == _TABLE

    @property
    def width(self) -> int:
        """Number of its columns."""
        return len(self.encode(None))


def _sex(patient_sex: str | None) -> tuple[float, ...]:
    return ({"M": 1.0, "F": -1.0}.get(patient_sex or "", 0.0),)


SEX = Covariate(name="sex", source="header:patient_sex", encode=_sex)
"""M is 1, F is -1, anything else 0."""


def chosen(covariates: Sequence[Covariate], names: Sequence[str]) -> tuple[Covariate, ...]:
    """The covariates called ``names``, in that order.

    Raises:
        UnknownNameError: there is none of that name; carries the nearest.
    """
    by_name = {covariate.name: covariate for covariate in covariates}
    for name in names:
        if name not in by_name:
            raise UnknownNameError("covariate", name, by_name)
    return tuple(by_name[name] for name in names)


def names_of(covariates: Sequence[Covariate]) -> tuple[str, ...]:
    """Their names."""
    return tuple(covariate.name for covariate in covariates)


def widths(covariates: Sequence[Covariate]) -> tuple[int, ...]:
    """The number of columns of each."""
    return tuple(covariate.width for covariate in covariates)


def sources(covariates: Sequence[Covariate]) -> list[str]:
    """The columns of the samples that some covariates are made of, each once."""
    return list(dict.fromkeys(covariate.column for covariate in covariates))


def table_columns(covariates: Sequence[Covariate]) -> tuple[str, ...]:
    """The columns that a covariate table must have for them."""
    return tuple(dict.fromkeys(one.column for one in covariates if one.is_of_table))


def table_values(given: Mapping[str, Any], covariates: Sequence[Covariate]) -> dict[str, float | None]:
    """The table covariates of one sample by column, to the precision of a table; None where one is missing.

    Raises:
        CovariateError: a column that no covariate has, or a value that is no number within its bounds.
    """
    known = {covariate.column: covariate for covariate in covariates if covariate.is_of_table}
    for name in given:
        if name not in known:
            takes = ", ".join(known) or "none"
            raise CovariateError(f"there is no covariate of this name; this model takes {takes}")
    return {name: _checked(given.get(name), covariate) for name, covariate in known.items()}


def read_covariate_table(path: Path, covariates: Sequence[Covariate]) -> dict[str, dict[str, float | None]]:
    """Values of the table covariates by SOP instance UID and column; None where a row lacks one.

    Raises:
        UsageError: the file cannot be read, lacks a column, names a UID twice, or has a value that is no
            number or lies outside its bounds; or none of the covariates is of a table.
    """
    names = table_columns(covariates)
    if not names:
        raise UsageError(f"nothing takes a covariate of a table: leave {path} out")
    rows, values_by_uid = read_values(path, names, what="covariate table")
    rows.tell()
    try:
        for row in values_by_uid.values():
            for one in covariates:
                if one.is_of_table:
                    row[one.column] = _checked(row[one.column], one)
    except CovariateError as error:
        raise UsageError(f"the covariate table {path} cannot be used: {error}") from error
    return values_by_uid


def _checked(value: Any, covariate: Covariate) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CovariateError(f"the covariate {covariate.column} is no number")
    low, high = covariate.low, covariate.high
    if (low is not None and value < low) or (high is not None and value > high):
        ends = " to ".join("any" if end is None else f"{end:g}" for end in (low, high))
        raise CovariateError(f"the covariate {covariate.column} is outside {ends} {covariate.unit}".rstrip())
    return float(np.float32(value))


def unknown(covariates: Sequence[Covariate]) -> Columns:
    """The columns [Q] of a sample of which nothing is known."""
    return _row({}, covariates)


def columns(rows: Sequence[Mapping[str, Any]], covariates: Sequence[Covariate]) -> Columns:
    """Columns [N, Q] of some samples, each a mapping that holds the ``sources``."""
    made = [_row(row, covariates) for row in rows]
    return np.array(made, np.float32).reshape(len(made), sum(widths(covariates)))


def hidden(columns_NQ: Columns, covariates: Sequence[Covariate], is_hidden_N: NDArray[np.bool_]) -> Columns:
    """The columns with the withheld covariates of the chosen samples as if they were unknown."""
    may_hide_Q = np.array([one.withheld for one in covariates for _ in range(one.width)], bool)
    replaced: Columns = np.where(is_hidden_N[:, None] & may_hide_Q, unknown(covariates), columns_NQ)
    return replaced


def _row(row: Mapping[str, Any], covariates: Sequence[Covariate]) -> Columns:
    encoded = [covariate.encode(row.get(covariate.column)) for covariate in covariates]
    return np.array([value for values in encoded for value in values], np.float32)
