"""What goes into a task of skeletal age: its labels, and chronological age as a covariate. No torch."""

from __future__ import annotations

import math

from engine.ingest.covariates import Covariate
from engine.store.labels import Label

_OLDEST, _OLDEST_IN_YEARS = 240.0, 20.0
"""A skeleton is grown before; a table with nothing above as many months is seldom one of months."""
BONE_AGE = Label(
    name="bone_age_months", kind="number", unit="months", required=True,
    low=0.0, high=_OLDEST, doubted_below=_OLDEST_IN_YEARS,
)  # fmt: skip
"""An expert's reading."""
PSEUDO_COLUMNS = ("pseudo_mean_months", "pseudo_sd_months")
"""Labels made by other models: their mean and spread."""
PSEUDO_LABELS = tuple(
    Label(name=name, kind="number", unit="months", low=0.0, high=_OLDEST) for name in PSEUDO_COLUMNS
)

_AGE_STEP_MONTHS, _AGE_STEPS = 12.0, 20
"""Distance and number of the centres that an age is encoded by: 0 to 228 months, a year apart."""


def _age(age_months: float | None) -> tuple[float, ...]:
    """How near an age is to each centre, exp(-d^2 / 2) of d steps, and 0; or 0 and 1 where it is missing.

    A single number would be learnt slowly: what an age says beside the image lies in a tenth of its range.
    Beyond the last centre an age is that of the last: a skeleton is grown by then.
    """
    if age_months is None or not math.isfinite(age_months):
        return (0.0,) * _AGE_STEPS + (1.0,)
    place = min(age_months / _AGE_STEP_MONTHS, _AGE_STEPS - 1.0)
    return (*(math.exp(-((place - step) ** 2) / 2) for step in range(_AGE_STEPS)), 0.0)


CHRONOLOGICAL_AGE = Covariate(
    name="chronological_age", source="header:age_months", encode=_age, unit="months", low=0.0, withheld=True
)
"""Nearness to each year, and whether it is missing."""
