"""How right held-out predictions are, as JSON facts: errors, agreement, and the same by sex and age band."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.evaluation import metrics
from engine.evaluation.agreement import ICC, BlandAltman, bland_altman, icc_2_1
from engine.evaluation.held_out import HeldOut, groups
from engine.evaluation.metrics import Interval

WITHIN_MONTHS = (6, 12, 24)


def accuracy(held: HeldOut) -> dict[str, Any]:
    """Errors in months with 95 % intervals by patient, ICC(2,1), Bland-Altman, and MAE by group.

    What the data do not determine is None.
    """
    pairs_N2 = np.stack([held.predicted_N, held.truth_N], axis=1).astype(np.float64)
    icc = metrics.bootstrap_by_patient(pairs_N2, held.patients_N, statistic=ICC)
    return {
        "instances": len(held.uids_N),
        "patients": len(set(held.patients_N.tolist())),
        **mean_error(held),
        "rmse_months": known(metrics.rmse(held.predicted_N, held.truth_N)),
        "within": {
            str(months): known(metrics.share_within(held.predicted_N, held.truth_N, months))
            for months in WITHIN_MONTHS
        },
        "icc": known(icc_2_1(pairs_N2)),
        "icc_interval": ends(icc),
        "bland_altman": agreement_facts(bland_altman(held.predicted_N, held.truth_N)),
        "subgroups": [
            {"group": name, "instances": int(members_N.sum()), **mean_error(held.chosen(members_N))}
            for name, members_N in groups(held)
        ],
    }


def mean_error(held: HeldOut) -> dict[str, Any]:
    """MAE in months and its interval."""
    interval = metrics.bootstrap_by_patient(held.errors_N, held.patients_N, statistic=metrics.MEAN_ABSOLUTE)
    return {
        "mae_months": known(metrics.mae(held.predicted_N, held.truth_N)),
        "mae_low": known(interval.low),
        "mae_high": known(interval.high),
    }


def agreement_facts(agreement: BlandAltman) -> dict[str, Any]:
    """Bias, limits and proportional bias with their intervals, months; see ``agreement.bland_altman``."""
    return {
        "bias": known(agreement.bias),
        "bias_interval": ends(agreement.bias_interval),
        "lower_limit": known(agreement.lower_limit),
        "lower_interval": ends(agreement.lower_interval),
        "upper_limit": known(agreement.upper_limit),
        "upper_interval": ends(agreement.upper_interval),
        "slope": known(agreement.slope),
        "slope_interval": ends(agreement.slope_interval),
    }


def known(value: float) -> float | None:
    """The value for JSON: None where it is not finite."""
    return float(value) if math.isfinite(value) else None


def ends(interval: Interval) -> list[float] | None:
    """Both ends for JSON; None for an interval of NaN."""
    return [interval.low, interval.high] if interval.is_known else None
