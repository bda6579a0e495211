"""How right held-out predictions are, as JSON facts: errors, agreement, and the same by sex and age band."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.evaluation import metrics
from engine.evaluation.agreement import ICC, BlandAltman, bland_altman, icc_2_1
from engine.evaluation.held_out import Bools, HeldOut, by_sex
from engine.evaluation.metrics import AGE_EDGES_YEARS, bounds, known

WITHIN_MONTHS = (6, 12, 24)
TRUTH, PREDICTED, SD = "bone_age_months", "predicted_months", "sd_months"
"""The label, and the columns of the answer."""


def errors(held: HeldOut) -> metrics.Floats:
    """Predicted minus true age [N], months."""
    return metrics.signed_errors(held.predicted[PREDICTED], held.truth[TRUTH])


def bands(held: HeldOut) -> Iterator[tuple[str, Bools]]:
    """Name and members [N] of each band of true age that has any."""
    truth_N: NDArray[np.float32] = held.truth[TRUTH]
    for low, high in pairwise((*AGE_EDGES_YEARS, np.inf)):
        name = f"{low} to under {high} years" if np.isfinite(high) else f"{low} years and over"
        members_N = (truth_N >= 12 * low) & (truth_N < 12 * high)
        if members_N.any():
            yield name, members_N


def groups(held: HeldOut) -> Iterator[tuple[str, Bools]]:
    """Those of ``by_sex``, then the bands of true age."""
    yield from by_sex(held)
    yield from bands(held)


def accuracy(held: HeldOut) -> dict[str, Any]:
    """Errors in months with 95 % intervals by patient, ICC(2,1), Bland-Altman, and MAE by group.

    What the data do not determine is None.
    """
    predicted_N, truth_N = held.predicted[PREDICTED], held.truth[TRUTH]
    pairs_N2 = np.stack([predicted_N, truth_N], axis=1).astype(np.float64)
    icc = metrics.bootstrap_by_patient(pairs_N2, held.patients_N, statistic=ICC)
    return {
        "instances": len(held.uids_N),
        "patients": len(set(held.patients_N.tolist())),
        **mean_error(held),
        "rmse_months": known(metrics.rmse(predicted_N, truth_N)),
        "within": {
            str(months): known(metrics.share_within(predicted_N, truth_N, months)) for months in WITHIN_MONTHS
        },
        "icc": known(icc_2_1(pairs_N2)),
        "icc_interval": bounds(icc),
        "bland_altman": agreement_facts(bland_altman(predicted_N, truth_N)),
        "subgroups": [
            {"group": name, "instances": int(members_N.sum()), **mean_error(held.chosen(members_N))}
            for name, members_N in groups(held)
        ],
    }


def mean_error(held: HeldOut) -> dict[str, Any]:
    """MAE in months and its interval."""
    interval = metrics.bootstrap_by_patient(errors(held), held.patients_N, statistic=metrics.MEAN_ABSOLUTE)
    return {
        "mae_months": known(metrics.mae(held.predicted[PREDICTED], held.truth[TRUTH])),
        "mae_low": known(interval.low),
        "mae_high": known(interval.high),
    }


def agreement_facts(agreement: BlandAltman) -> dict[str, Any]:
    """Bias, limits and proportional bias with their intervals, months; see ``agreement.bland_altman``."""
    return {
        "bias": known(agreement.bias),
        "bias_interval": bounds(agreement.bias_interval),
        "lower_limit": known(agreement.lower_limit),
        "lower_interval": bounds(agreement.lower_interval),
        "upper_limit": known(agreement.upper_limit),
        "upper_interval": bounds(agreement.upper_interval),
        "slope": known(agreement.slope),
        "slope_interval": bounds(agreement.slope_interval),
    }
