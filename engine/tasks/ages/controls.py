"""Is the image used? How a model does where chronological age misleads, and how it does against its teachers.

A model that leans on the chronological age fails just where bone age departs from it, and there the test is
wanted. Legend: N instances; ages in months, NaN where not known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.evaluation import metrics
from engine.evaluation.answer import Figure
from engine.evaluation.held_out import Bools, HeldOut
from engine.tasks.ages.accuracy import TRUTH, mean_absolute_error
from engine.tasks.ages.inputs import PSEUDO_COLUMNS

APART_MONTHS = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """Errors of some instances, and those of what they are held against, months."""

    name: str
    instances: int
    error: Figure
    against: str
    against_mae: float


def is_discordant(truth_N: NDArray[Any], age_N: NDArray[Any]) -> Bools:
    """Whether true bone age and known chronological age differ by more than APART_MONTHS, [N]."""
    apart: Bools = np.abs(truth_N - age_N) > APART_MONTHS
    return apart


def controls(held: HeldOut) -> list[Control]:
    """Errors where bone age is discordant, and errors against pseudo-labels; what the data lack is left out.

    The first stand beside those of the chronological age, the second beside those of the pseudo-labels: they
    tell a student that copies its teachers' errors.
    """
    found = []
    apart_N = is_discordant(held.truth[TRUTH], held.age_months_N)
    if apart_N.any():
        chosen = held.chosen(apart_N)
        found.append(
            Control(
                name=f"Bone age over {APART_MONTHS:.0f} months from chronological age",
                instances=int(apart_N.sum()),
                error=mean_absolute_error(chosen),
                against="chronological age as the prediction",
                against_mae=metrics.mae(chosen.age_months_N, chosen.truth[TRUTH]),
            )
        )
    pseudo_N = held.truth.get(PSEUDO_COLUMNS[0], np.full(len(held.uids_N), np.nan, np.float32))
    is_pseudo_N = np.isfinite(pseudo_N)
    if is_pseudo_N.any():
        chosen = held.chosen(is_pseudo_N)
        found.append(
            Control(
                name="Against the pseudo-label in place of the truth",
                instances=int(is_pseudo_N.sum()),
                error=mean_absolute_error(replace(chosen, truth={TRUTH: pseudo_N[is_pseudo_N]})),
                against="the pseudo-label as the prediction",
                against_mae=metrics.mae(pseudo_N[is_pseudo_N], chosen.truth[TRUTH]),
            )
        )
    return found
