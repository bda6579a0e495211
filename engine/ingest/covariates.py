"""COVARIATES: what a network is told beside the image, each a few float32 columns made of a header column.

Legend: N samples, Q columns of all covariates of a network, in the order in which they are named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import UnknownNameError

Columns = NDArray[np.float32]

_AGE_STEP_MONTHS, _AGE_STEPS = 12.0, 20
"""Centres of the curves that an age is told by: 0 to 228 months, a year apart, and their sd."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Covariate:
    """``encode`` makes one row of columns of a value of ``source``, a column of the samples; None is unknown.

    ``withheld`` says whether training may hide it, so that the network also learns to do without.
    """

    source: str
    encode: Callable[[Any], tuple[float, ...]]
    withheld: bool = False


def _sex(patient_sex: str | None) -> tuple[float, ...]:
    return ({"M": 1.0, "F": -1.0}.get(patient_sex or "", 0.0),)


def _age(age_months: float | None) -> tuple[float, ...]:
    """How near an age is to each centre, exp(-d^2 / 2) of d steps, and 0; or 0 and 1 where it is missing.

    A single number would be learnt slowly: what an age says beside the image lies in a tenth of its range.
    Beyond the last centre an age is that of the last: a skeleton is grown by then.
    """
    if age_months is None or not math.isfinite(age_months):
        return (0.0,) * _AGE_STEPS + (1.0,)
    place = min(age_months / _AGE_STEP_MONTHS, _AGE_STEPS - 1.0)
    return (*(math.exp(-((place - step) ** 2) / 2) for step in range(_AGE_STEPS)), 0.0)


COVARIATES: dict[str, Covariate] = {
    "sex": Covariate(source="patient_sex", encode=_sex),
    "chronological_age": Covariate(source="age_months", encode=_age, withheld=True),
}
"""``sex``: M 1, F -1, else 0. ``chronological_age``: nearness to each year, and whether it is missing."""


def require_covariates(names: Sequence[str]) -> None:
    """Refuse a name that is not in COVARIATES.

    Raises:
        UnknownNameError: carries the nearest name.
    """
    for name in names:
        if name not in COVARIATES:
            raise UnknownNameError("covariate", name, COVARIATES)


def sources(names: Sequence[str]) -> list[str]:
    """The header columns that some covariates are made of."""
    return list(dict.fromkeys(COVARIATES[name].source for name in names))


def unknown(names: Sequence[str]) -> Columns:
    """The columns [Q] of a sample of which nothing is known."""
    return _row({}, names)


def columns(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Columns:
    """Columns [N, Q] of some samples, each a mapping that holds the ``sources``."""
    made = [_row(row, names) for row in rows]
    return np.array(made, np.float32).reshape(len(made), len(unknown(names)))


def hidden(columns_NQ: Columns, names: Sequence[str], is_hidden_N: NDArray[np.bool_]) -> Columns:
    """The columns with the withheld covariates of the chosen samples as if they were unknown."""
    parts = [(COVARIATES[name].encode(None), COVARIATES[name].withheld) for name in names]
    may_hide_Q = np.array([withheld for row, withheld in parts for _ in row], bool)
    replaced: Columns = np.where(is_hidden_N[:, None] & may_hide_Q, unknown(names), columns_NQ)
    return replaced


def _row(row: Mapping[str, Any], names: Sequence[str]) -> Columns:
    encoded = [COVARIATES[name].encode(row.get(COVARIATES[name].source)) for name in names]
    return np.array([value for values in encoded for value in values], np.float32)
