"""Predictions on instances that a training did not see, as one table. Legend: N instances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.errors import TableError
from engine.store.files import replacing

Bools = NDArray[np.bool_]
Columns = Mapping[str, NDArray[Any]]
"""Arrays of first axis N by column name."""

TRUTH = "truth_"
"""Begins the name of a label's column in the table; the other columns are the answer's."""
_SEXES = {"F": "female", "M": "male"}
_HEADER = {
    "uids_N": "sop_instance_uid",
    "patients_N": "patient_key",
    "sexes_N": "patient_sex",
    "age_months_N": "age_months",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """SOP instance UID, patient key, PatientSex, chronological age in months (NaN: not known), and columns.

    ``truth`` holds the label columns, ``predicted`` those of the Answer, both NaN where there is no value.
    ``raw`` is what was kept of the forward passes; it is not written.
    """

    uids_N: NDArray[Any]
    patients_N: NDArray[Any]
    sexes_N: NDArray[Any]
    age_months_N: NDArray[np.float32]
    truth: Columns
    predicted: Columns
    raw: Columns = field(default_factory=dict)

    def chosen(self, rows: NDArray[Any]) -> HeldOut:
        """The rows at some places, or where a mask [N] is true."""

        def of(columns: Columns) -> Columns:
            return {name: values[rows] for name, values in columns.items()}

        header = {name: getattr(self, name)[rows] for name in _HEADER}
        return HeldOut(**header, truth=of(self.truth), predicted=of(self.predicted), raw=of(self.raw))


def held_out_table(held: HeldOut) -> pa.Table:
    """Header columns, ``truth_<label>`` and the Answer's columns; NaN becomes null."""
    columns = {name: getattr(held, key) for key, name in _HEADER.items()}
    columns |= {TRUTH + name: values for name, values in held.truth.items()}
    columns |= held.predicted
    return pa.table({name: _column(values) for name, values in columns.items()})


def write_held_out(held: HeldOut, path: Path) -> None:
    """Write ``held_out_table``, whole or not at all."""
    with replacing(path) as temporary:
        pq.write_table(held_out_table(held), temporary, compression="zstd")


def read_held_out(path: Path) -> HeldOut:
    """The table at ``path``.

    Raises:
        TableError: it is absent or damaged, lacks a column, or holds an instance twice.
    """
    try:
        table = pq.read_table(path)
        header = {key: table[name].to_numpy() for key, name in _HEADER.items()}
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise TableError(f"{path} cannot be read as held-out predictions: train the run again") from error
    if len(set(header["uids_N"].tolist())) != table.num_rows:
        raise TableError(f"{path} holds an instance twice: train the run again")
    rest = [name for name in table.column_names if name not in _HEADER.values()]
    return HeldOut(
        **header,
        truth={n.removeprefix(TRUTH): table[n].to_numpy() for n in rest if n.startswith(TRUTH)},
        predicted={name: table[name].to_numpy() for name in rest if not name.startswith(TRUTH)},
    )


def in_words(sex: str | None) -> str:
    """PatientSex in words."""
    return _SEXES.get(sex or "", "not stated")


def by_sex(held: HeldOut) -> Iterator[tuple[str, Bools]]:
    """Name and members [N] of each sex that is there; of who states none there is no group."""
    for code, name in _SEXES.items():
        if (members_N := held.sexes_N == code).any():
            yield name, members_N


def _column(values_N: NDArray[Any]) -> pa.Array:
    values = values_N if values_N.ndim == 1 else list(values_N)
    return pa.array(values, from_pandas=True)
