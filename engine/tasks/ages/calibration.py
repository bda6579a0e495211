"""What a predicted age is sure of: temperature of the distribution, conformal intervals, linear bias.

All are fitted on the validation split alone and judged on the test split. Legend: N instances, K monthly bins
(bin k is month k); ages, errors and sd in months.

- Temperature (Guo et al. 2017): the sd comes from softmax(z / T); the expectation stays that of T = 1, so
  that no prediction moves.
- Split-conformal intervals (Lei et al. 2018): predicted -+ q sd, q the ceil((N + 1) level)-th smallest of
  |error| / sd. They cover new instances of the same kind with probability ``level`` at least, on average over
  all: not in each group, which is why coverage is shown by group.
- Linear bias: error ~ a predicted + b, taken off as Deeplasia does. Reported both ways, never applied by a
  bundle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.evaluation import metrics
from engine.evaluation.conformal import conformal_quantile, deciles, upper_limit
from engine.evaluation.held_out import HeldOut, by_sex
from engine.evaluation.metrics import Floats, bounds
from engine.tasks.ages.accuracy import PREDICTED, SD, TRUTH, bands, errors

LOGITS = "logits"
"""What is kept of a forward pass, [N, K]."""
LEVELS = (0.8, 0.9, 0.95)
LEVEL = 0.9
"""Of the interval that goes with every score."""
_LEAST_SD = 0.5
"""Months: a narrower distribution than a bin is not a claim to lean on."""
_WIDEST = math.log(20)
_GOLDEN = (math.sqrt(5) - 1) / 2
_STEPS = 48
_FEWEST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """``by_sd`` and ``by_months`` map each level to the half width of its interval, in sd and in months.

    A half width is None where the validation split was too small for the level.
    """

    instances: int
    temperature: float
    by_sd: Mapping[str, float | None]
    by_months: Mapping[str, float | None]
    slope: float
    intercept: float
    max_doubt: float | None = None
    """Months: the sd that 99.5 % of sound images stay below; a score of a wider one is withheld. None with
    too few validation images."""
    validation_value: tuple[float, ...] = ()
    validation_doubt: tuple[float, ...] = ()
    """Percentiles 0, 10, ... 100 of predictions and of their sd, months: what drift is measured against."""

    def facts(self) -> dict[str, Any]:
        """JSON-able facts; ``calibration_from_facts`` reads them back."""
        return asdict(self)

    def interval(
        self, predicted_N: Any, sd_N: Any, level: float = LEVEL
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Low and high end [N] of each interval, months, cut at birth; None where the level has none."""
        half = self.by_sd.get(str(level))
        if half is None:
            return None
        width_N = half * _usable(sd_N)
        predicted = np.asarray(predicted_N, np.float64)
        low_N, high_N = np.maximum(predicted - width_N, 0), predicted + width_N
        return low_N.astype(np.float32), high_N.astype(np.float32)

    def corrected(self, predicted_N: Any) -> Floats:
        """Predictions less their linear bias [N], months."""
        predicted = np.asarray(predicted_N, np.float64)
        corrected_N: Floats = predicted - (self.slope * predicted + self.intercept)
        return corrected_N


def calibration_from_facts(facts: Mapping[str, Any]) -> Calibration:
    """The Calibration that ``Calibration.facts`` described."""
    given = {field.name: facts[field.name] for field in fields(Calibration) if field.name in facts}
    tuples = {name: tuple(given.get(name) or ()) for name in ("validation_value", "validation_doubt")}
    return Calibration(**{**given, **tuples})


def fit_calibration(held: HeldOut, logits_NK: NDArray[np.float32]) -> Calibration:
    """Temperature, conformal quantiles and linear bias of a validation split, whose sd is not asked for."""
    temperature = fit_temperature(logits_NK, held.truth[TRUTH], held.patients_N)
    errors_N = np.abs(errors(held))
    sd_N = tempered_sd(logits_NK, temperature)
    scaled_N = errors_N / _usable(sd_N)
    slope, intercept = linear_bias(held)
    widest = upper_limit(sd_N, is_positive=True)
    return Calibration(
        instances=len(held.uids_N),
        temperature=temperature,
        by_sd={str(level): conformal_quantile(scaled_N, level) for level in LEVELS},
        by_months={str(level): conformal_quantile(errors_N, level) for level in LEVELS},
        slope=slope,
        intercept=intercept,
        max_doubt=widest.value if widest else None,
        validation_value=deciles(held.predicted[PREDICTED]),
        validation_doubt=deciles(sd_N),
    )


def fit_temperature(logits_NK: NDArray[np.float32], truth_N: Any, patients_N: NDArray[Any]) -> float:
    """The temperature of least negative log likelihood; 1 where that of one half of patients harms the other.

    So a temperature that only follows the noise of a small split is refused.
    """
    truth = np.asarray(truth_N, np.float64)
    _, owner_N = np.unique(patients_N, return_inverse=True)
    halves = [owner_N % 2 == side for side in (0, 1)]
    if not all(half.any() for half in halves):
        return 1.0
    gain = 0.0
    for half in halves:
        found = _least_loss(logits_NK[~half], truth[~half])
        before, after = (negative_log_likelihood(logits_NK[half], truth[half], t) for t in (1.0, found))
        gain += (before - after) * half.sum()
    return _least_loss(logits_NK, truth) if gain > 0 else 1.0


def negative_log_likelihood(logits_NK: NDArray[np.float32], truth_N: Any, temperature: float) -> float:
    """Mean negative log probability of the true month at a temperature; months between bins interpolate."""
    log_p_NK = _log_softmax(logits_NK, temperature)
    place_N = np.clip(np.asarray(truth_N, np.float64) - 1, 0, log_p_NK.shape[1] - 1)
    below_N = np.minimum(place_N.astype(np.int64), log_p_NK.shape[1] - 2)
    share_N = place_N - below_N
    rows_N = np.arange(len(place_N))
    with np.errstate(divide="ignore"):
        low_N = np.log1p(-share_N) + log_p_NK[rows_N, below_N]
        high_N = np.log(share_N) + log_p_NK[rows_N, below_N + 1]
    return -float(np.logaddexp(low_N, high_N).mean())


def tempered_sd(logits_NK: NDArray[np.float32], temperature: float) -> Floats:
    """Sd [N] in months of softmax(z / T)."""
    p_NK = np.exp(_log_softmax(logits_NK, temperature))
    months_K = np.arange(1, p_NK.shape[1] + 1, dtype=np.float64)
    apart_NK = months_K[None] - (p_NK @ months_K)[:, None]
    sd_N: Floats = np.sqrt((p_NK * apart_NK**2).sum(axis=1))
    return sd_N


def linear_bias(held: HeldOut) -> tuple[float, float]:
    """Least-squares slope a and intercept b of error ~ a predicted + b; both 0 where no age differs."""
    predicted = held.predicted[PREDICTED].astype(np.float64)
    if len(predicted) < _FEWEST or np.ptp(predicted) == 0:
        return 0.0, 0.0
    slope, intercept = np.polyfit(predicted, errors(held), 1)
    return float(slope), float(intercept)


def coverage(held: HeldOut, calibration: Calibration) -> dict[str, Any]:
    """What a calibration is worth on ``held``: coverage by level and by group.

    The sd of ``held`` must be that at the calibrated temperature.
    """
    halves = {"sd": calibration.by_sd, "months": calibration.by_months}
    unit_N = {"sd": _usable(held.predicted[SD]), "months": np.ones(len(held.uids_N))}
    levels = [
        {"level": level, "kind": kind, **_covered(held, half * unit_N[kind])}
        for level in LEVELS
        for kind in halves
        if (half := halves[kind][str(level)]) is not None
    ]
    half = calibration.by_sd[str(LEVEL)]
    by_group = []
    if half is not None:
        width_N = half * unit_N["sd"]
        by_group = [
            {"group": name, **_covered(held.chosen(members_N), width_N[members_N])}
            for name, members_N in (*by_sex(held), *bands(held))
        ]
    return {"level": LEVEL, "levels": levels, "subgroups": by_group}


def _covered(held: HeldOut, half_N: Floats) -> dict[str, Any]:
    inside_N = (np.abs(errors(held)) <= half_N).astype(np.float64)
    interval = metrics.bootstrap_by_patient(inside_N, held.patients_N, statistic=metrics.MEAN)
    return {
        "instances": len(inside_N),
        "covered": float(inside_N.mean()),
        "covered_interval": bounds(interval),
        "half_width_months": float(half_N.mean()),
    }


def _usable(sd_N: Any) -> Floats:
    return np.maximum(np.asarray(sd_N, np.float64), _LEAST_SD)


def _log_softmax(logits_NK: NDArray[np.float32], temperature: float) -> Floats:
    scaled_NK = logits_NK.astype(np.float64) / temperature
    scaled_NK -= scaled_NK.max(axis=1, keepdims=True)
    log_p_NK: Floats = scaled_NK - np.log(np.exp(scaled_NK).sum(axis=1, keepdims=True))
    return log_p_NK


def _least_loss(logits_NK: NDArray[np.float32], truth_N: Floats) -> float:
    """Golden-section search over log T; the negative log likelihood has one minimum in 1 / T."""
    low, high = -_WIDEST, _WIDEST
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = (
        negative_log_likelihood(logits_NK, truth_N, math.exp(place)) for place in (left, right)
    )
    for _ in range(_STEPS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = negative_log_likelihood(logits_NK, truth_N, math.exp(left))
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = negative_log_likelihood(logits_NK, truth_N, math.exp(right))
    return math.exp((low + high) / 2)
