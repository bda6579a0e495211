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
    truth_N, age_N = held.truth[TRUTH], held.age_months_N
    pseudo_N = held.truth.get(PSEUDO_COLUMNS[0], np.full(len(held.uids_N), np.nan, np.float32))
    discordant = f"Bone age over {APART_MONTHS:.0f} months from chronological age"
    copied = "Against the pseudo-label in place of the truth"
    found = []
    for name, members_N, against, guess_N, aim_N in (
        (discordant, is_discordant(truth_N, age_N), "chronological age", age_N, truth_N),
        (copied, np.isfinite(pseudo_N), "the pseudo-label", pseudo_N, pseudo_N),
    ):
        if members_N.any():
            chosen = replace(held.chosen(members_N), truth={TRUTH: aim_N[members_N]})
            found.append(
                Control(
                    name=name,
                    instances=int(members_N.sum()),
                    error=mean_absolute_error(chosen),
                    against=f"{against} as the prediction",
                    against_mae=metrics.mae(guess_N[members_N], truth_N[members_N]),
                )
            )
    return found
