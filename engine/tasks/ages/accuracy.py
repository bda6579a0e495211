"""How right predicted ages are: errors in months with their intervals, and the bands of true age."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from engine.evaluation import metrics
from engine.evaluation.agreement import bland_altman
from engine.evaluation.answer import Figure
from engine.evaluation.held_out import Bools, HeldOut
from engine.evaluation.metrics import Floats, Interval, Statistic, known
from engine.tasks.ages.inputs import BONE_AGE

WITHIN_MONTHS = (6, 12, 24)
AGE_EDGES_YEARS = (0, 5, 10, 15)
"""Where the age bands of tables begin; the last is open."""
TRUTH, PREDICTED, SD = BONE_AGE.name, "predicted_months", "sd_months"
"""The label, and columns of the answer."""


def errors(held: HeldOut) -> Floats:
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


def mean_absolute_error(held: HeldOut) -> Figure:
    """The mean absolute error, months, with its interval by patient."""
    errors_N = errors(held)
    value = metrics.mae(errors_N, np.zeros_like(errors_N))
    return _months("mae_months", "Mean absolute error", value, _by_patient(held)(metrics.MEAN_ABSOLUTE))


def error_figures(held: HeldOut) -> tuple[Figure, ...]:
    """Mean absolute and root mean square error, shares within some months, bias and limits of agreement.

    The limits are bias -+ 1.96 sd (Bland and Altman 1986). All intervals resample patients.
    """
    errors_N = errors(held)
    zeros_N = np.zeros_like(errors_N)
    limits = bland_altman(errors_N, zeros_N)
    interval = _by_patient(held)
    root = metrics.rmse(errors_N, zeros_N)
    return (
        mean_absolute_error(held),
        _months("rmse_months", "Root mean square error", root, interval(metrics.ROOT_MEAN_SQUARE)),
        *(
            figure(
                f"within_{limit}",
                f"Within {limit} months",
                metrics.share_within(errors_N, zeros_N, limit),
                interval(metrics.share_statistic(limit)),
                unit="%",
            )
            for limit in WITHIN_MONTHS
        ),
        _months("bias_months", "Bias", limits.bias, interval(metrics.MEAN)),
        _months("lower_limit_months", "Lower limit", limits.lower_limit, interval(metrics.LOWER_LIMIT)),
        _months("upper_limit_months", "Upper limit", limits.upper_limit, interval(metrics.UPPER_LIMIT)),
    )


def figure(
    key: str,
    words: str,
    value: float,
    interval: Interval = metrics.NO_INTERVAL,
    *,
    unit: str = "months",
    decimals: int = 1,
) -> Figure:
    """A Figure of a number and its interval, shares in per cent; None for what is not finite."""
    scale = 100 if unit == "%" else 1
    shown, low, high = (known(scale * one) for one in (value, interval.low, interval.high))
    return Figure(key=key, words=words, value=shown, unit=unit, low=low, high=high, decimals=decimals)


def _months(key: str, words: str, value: float, interval: Interval) -> Figure:
    return figure(key, words, value, interval, decimals=2)


def _by_patient(held: HeldOut) -> Callable[[Statistic], Interval]:
    errors_N = errors(held)
    return lambda statistic: metrics.bootstrap_by_patient(errors_N, held.patients_N, statistic=statistic)
