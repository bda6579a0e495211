"""Is the image used? How a model does where chronological age misleads, and how it does against its teachers.

A model that leans on the chronological age fails just where bone age departs from it, and there the test is
wanted. Legend: N instances; ages in months, NaN where not known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.evaluation import metrics
from engine.evaluation.held_out import HeldOut
from engine.evaluation.metrics import known
from engine.tasks.ages.accuracy import PREDICTED, TRUTH, mean_error

APART_MONTHS = 12.0
Floats = NDArray[np.float32]


def is_discordant(truth_N: Floats, age_N: Floats) -> NDArray[np.bool_]:
    """Whether true bone age and known chronological age differ by more than APART_MONTHS, [N]."""
    apart: NDArray[np.bool_] = np.abs(truth_N - age_N) > APART_MONTHS
    return apart


def control_facts(held: HeldOut, age_N: Floats, pseudo_N: Floats) -> dict[str, Any]:
    """``discordant``: errors of the children of ``is_discordant``, and those of their chronological age.

    ``pseudo_labels``: errors against pseudo-labels; beside those against the truth they tell a student that
    copies its teachers' errors. What the data do not hold is left out.
    """
    facts: dict[str, Any] = {}
    apart_N = is_discordant(held.truth[TRUTH], age_N)
    if apart_N.any():
        chosen = held.chosen(apart_N)
        facts["discordant"] = {
            "apart_months": APART_MONTHS,
            "instances": int(apart_N.sum()),
            **mean_error(chosen),
            "chronological_age_mae": known(metrics.mae(age_N[apart_N], chosen.truth[TRUTH])),
        }
    is_pseudo_N = np.isfinite(pseudo_N)
    if is_pseudo_N.any():
        errors_N = held.predicted[PREDICTED][is_pseudo_N] - pseudo_N[is_pseudo_N]
        interval = metrics.bootstrap_by_patient(
            errors_N, held.patients_N[is_pseudo_N], statistic=metrics.MEAN_ABSOLUTE
        )
        truth_N = held.truth[TRUTH][is_pseudo_N]
        facts["pseudo_labels"] = {
            "instances": int(is_pseudo_N.sum()),
            "mae_months": float(np.abs(errors_N).mean()),
            "mae_low": known(interval.low),
            "mae_high": known(interval.high),
            "own_mae": known(metrics.mae(pseudo_N[is_pseudo_N], truth_N)),
        }
    return facts
