"""Predictions on instances that a training did not see, as one table, and the groups they are judged in.

Legend: N instances; ages in months.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.errors import TableError
from engine.evaluation import metrics
from engine.store.files import replacing

Bools = NDArray[np.bool_]

COLUMNS = {
    "uids_N": ("sop_instance_uid", pa.string()),
    "patients_N": ("patient_key", pa.string()),
    "sexes_N": ("patient_sex", pa.string()),
    "truth_N": ("truth_months", pa.float32()),
    "predicted_N": ("predicted_months", pa.float32()),
    "sd_N": ("sd_months", pa.float32()),
}
"""Field of HeldOut to column and type of its table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Arrays [N]: SOP instance UID, patient key, PatientSex, true and predicted months, predicted sd."""

    uids_N: NDArray[Any]
    patients_N: NDArray[Any]
    sexes_N: NDArray[Any]
    truth_N: NDArray[np.float32]
    predicted_N: NDArray[np.float32]
    sd_N: NDArray[np.float32]

    @property
    def errors_N(self) -> metrics.Floats:
        """Predicted minus true, months."""
        return metrics.signed_errors(self.predicted_N, self.truth_N)

    def chosen(self, rows: NDArray[Any]) -> HeldOut:
        """The rows at some places, or where a mask [N] is true."""
        return HeldOut(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def write_held_out(held: HeldOut, path: Path, **more: pa.Array) -> None:
    """Write a table with the columns of COLUMNS, and ``more`` beside them."""
    columns = {name: pa.array(getattr(held, field).tolist(), kind) for field, (name, kind) in COLUMNS.items()}
    with replacing(path) as temporary:
        pq.write_table(pa.table({**columns, **more}), temporary, compression="zstd")


def read_held_out(path: Path) -> HeldOut:
    """The table at ``path``.

    Raises:
        TableError: it is absent or damaged, lacks a column, or holds an instance twice.
    """
    try:
        table = pq.read_table(path, columns=[name for name, _ in COLUMNS.values()])
        # a column that the file lacks is passed over by the reader, and missed here
        arrays = {field: table[name].to_numpy() for field, (name, _) in COLUMNS.items()}
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise TableError(f"{path} cannot be read as held-out predictions: train the run again") from error
    if len(set(arrays["uids_N"].tolist())) != table.num_rows:
        raise TableError(f"{path} holds an instance twice: train the run again")
    return HeldOut(**arrays)


def groups(held: HeldOut) -> Iterator[tuple[str, Bools]]:
    """Name and members [N] of each group that has any: by sex, then by band of true age."""
    for code, name in (("F", "female"), ("M", "male")):
        if (members_N := held.sexes_N == code).any():
            yield name, members_N
    for low, high in pairwise((*metrics.AGE_EDGES_YEARS, np.inf)):
        name = f"{low} to under {high} years" if np.isfinite(high) else f"{low} years and over"
        members_N = (held.truth_N >= 12 * low) & (held.truth_N < 12 * high)
        if members_N.any():
            yield name, members_N
