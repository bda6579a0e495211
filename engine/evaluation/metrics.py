"""Errors of a predicted number, and intervals that respect that one patient may have several instances.

Shapes: N instances, P patients, D bootstrap draws, F terms of a statistic. An error is predicted minus
truth, in the unit of both: positive reads too high. A statistic of nothing is NaN, never an exception.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LIMIT_SD = 1.96
"""Limits of agreement lie this many standard deviations from the bias (Bland and Altman 1986)."""
CONFIDENCE = 0.95
DRAWS = 1000
"""Resamples of every bootstrap."""
_BLOCK_ELEMENTS = 1 << 21
"""Patients drawn at once; keeps the index block at 16 MiB whatever the size of the cohort."""


def signed_errors(predicted_N: ArrayLike, truth_N: ArrayLike) -> Floats:
    """Predicted minus truth, float64 [N].

    Raises:
        ValueError: the two are not one-dimensional arrays of the same length.
    """
    predicted, truth = np.asarray(predicted_N, np.float64), np.asarray(truth_N, np.float64)
    if predicted.ndim != 1 or predicted.shape != truth.shape:
        raise ValueError(f"predicted {predicted.shape} and truth {truth.shape} must both be [N]")
    return predicted - truth


def mae(predicted_N: ArrayLike, truth_N: ArrayLike) -> float:
    """Mean absolute error: mean |predicted - truth|."""
    return _mean(np.abs(signed_errors(predicted_N, truth_N)))


def rmse(predicted_N: ArrayLike, truth_N: ArrayLike) -> float:
    """Root mean square error: sqrt(mean (predicted - truth)^2)."""
    return math.sqrt(_mean(np.square(signed_errors(predicted_N, truth_N))))


def share_within(predicted_N: ArrayLike, truth_N: ArrayLike, limit: float) -> float:
    """Share (0..1) of instances whose absolute error is at most ``limit``; the bound itself counts."""
    return _mean(np.abs(signed_errors(predicted_N, truth_N)) <= limit)


def share_within_sd(errors_N: ArrayLike, sd_N: ArrayLike, multiple: float) -> float:
    """Share (0..1) with |error| <= ``multiple`` * sd; normal errors give 0.683 at 1 and 0.954 at 2."""
    return _mean(np.abs(np.asarray(errors_N, np.float64)) <= multiple * np.asarray(sd_N, np.float64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Two-sided 95 % interval; both ends are NaN where the data give none."""

    low: float
    high: float

    @property
    def is_known(self) -> bool:
        """False for an interval of NaN."""
        return not math.isnan(self.low)

    @property
    def excludes_zero(self) -> bool:
        """True when both ends lie on one side of zero; False for an interval of NaN."""
        return self.low > 0 or self.high < 0


NO_INTERVAL = Interval(low=math.nan, high=math.nan)


@dataclass(frozen=True, slots=True)
class Statistic:
    """A statistic that is a function of means, so that a resample needs only sums by patient.

    ``terms`` maps values [N] or [N, V] to what is averaged, [N, F]; ``finish`` maps the means [D, F] and the
    numbers of instances [D] of D resamples to the statistic [D].
    """

    terms: Callable[[Floats], Floats]
    finish: Callable[[Floats, Floats], Floats]


def _first(means_DF: Floats, _counts_D: Floats) -> Floats:
    return means_DF[:, 0]


def _limit(sign: int) -> Callable[[Floats, Floats], Floats]:
    def finish(means_DF: Floats, counts_D: Floats) -> Floats:
        variance_D = np.maximum(means_DF[:, 1] - means_DF[:, 0] ** 2, 0)
        correction_D = counts_D / np.maximum(counts_D - 1, 1)
        limit_D: Floats = means_DF[:, 0] + sign * LIMIT_SD * np.sqrt(variance_D * correction_D)
        return limit_D

    return finish


def _powers(errors_N: Floats) -> Floats:
    return np.stack([errors_N, errors_N**2], axis=1)


MEAN = Statistic(lambda errors_N: errors_N[:, None], _first)
"""Of signed errors: the bias."""
MEAN_ABSOLUTE = Statistic(lambda errors_N: np.abs(errors_N)[:, None], _first)
ROOT_MEAN_SQUARE = Statistic(lambda errors_N: np.square(errors_N)[:, None], lambda m, _: np.sqrt(m[:, 0]))
LOWER_LIMIT = Statistic(_powers, _limit(-1))
UPPER_LIMIT = Statistic(_powers, _limit(+1))


def share_statistic(limit: float) -> Statistic:
    """The share of absolute errors of at most ``limit``."""
    return Statistic(lambda errors_N: (np.abs(errors_N) <= limit).astype(np.float64)[:, None], _first)


def bootstrap_by_patient(
    values_N: ArrayLike, patients_N: ArrayLike, *, statistic: Statistic, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """95 % percentile interval of ``statistic`` over resamples of whole patients (cluster bootstrap).

    ``values_N`` is [N], or [N, V] for a statistic of several values an instance; ``patients_N`` names the
    patient of each. With fewer than two patients there is nothing to resample and the ends are NaN. The same
    input and seed give the same interval.

    Raises:
        ValueError: values and patients differ in number.
    """
    return percentile_interval(resampled(values_N, patients_N, statistic=statistic, draws=draws, seed=seed))


def resampled(
    values_N: ArrayLike, patients_N: ArrayLike, *, statistic: Statistic, draws: int = DRAWS, seed: int = 0
) -> Floats:
    """The statistic of each resample of whole patients, [D]; empty with fewer than two patients.

    Raises:
        ValueError: values and patients differ in number.
    """
    values = np.asarray(values_N, np.float64)
    keys: NDArray[Any] = np.asarray(patients_N)
    if keys.ndim != 1 or values.shape[:1] != keys.shape:
        raise ValueError(f"values {values.shape} and patients {keys.shape} must both be [N]")
    names, owner_N = np.unique(keys, return_inverse=True)
    if len(names) <= 1:
        return np.zeros(0)
    terms_NF = statistic.terms(values)
    columns = [np.bincount(owner_N, weights=terms_N, minlength=len(names)) for terms_N in terms_NF.T]
    sums_PG = np.stack([*columns, np.bincount(owner_N, minlength=len(names))], axis=1)
    drawn_DG = _drawn_sums(sums_PG, draws, seed)
    counts_D = drawn_DG[:, -1]
    return statistic.finish(drawn_DG[:, :-1] / counts_D[:, None], counts_D)


def percentile_interval(values_D: Floats) -> Interval:
    """The middle 95 % of resampled values; what is not finite in some resamples has no interval."""
    if not values_D.size or not np.isfinite(values_D).all():
        return NO_INTERVAL
    low, high = np.percentile(values_D, [100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2])
    return Interval(low=float(low), high=float(high))


def _drawn_sums(sums_PG: Floats, draws: int, seed: int) -> Floats:
    """Sums [D, G] over P patients drawn with replacement, a block of draws at a time."""
    generator = np.random.default_rng(seed)
    num_patients = len(sums_PG)
    block = max(1, _BLOCK_ELEMENTS // num_patients)
    blocks = []
    for start in range(0, draws, block):
        index_BP = generator.integers(num_patients, size=(min(block, draws - start), num_patients))
        blocks.append(np.stack([sums_P[index_BP].sum(axis=1) for sums_P in sums_PG.T], axis=1))
    return np.concatenate(blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """Mean error of a minus that of b on the same instances: negative when a is the better one."""

    instances: int
    difference: float
    interval: Interval
    p_value: float
    """Two-sided, from the same resamples: how often the difference has the other sign; NaN without any."""


def paired_bootstrap(
    errors_a_N: ArrayLike, errors_b_N: ArrayLike, patients_N: ArrayLike, *, draws: int = DRAWS, seed: int = 0
) -> PairedDifference:
    """Difference of two mean errors [N], lower is better, with its 95 % interval.

    Patients are resampled, pairs stay together.
    """
    difference_N = np.asarray(errors_a_N, np.float64) - np.asarray(errors_b_N, np.float64)
    drawn_D = resampled(difference_N, patients_N, statistic=MEAN, draws=draws, seed=seed)
    return PairedDifference(
        instances=len(difference_N),
        difference=_mean(difference_N),
        interval=percentile_interval(drawn_D),
        p_value=two_sided_p(drawn_D),
    )


def two_sided_p(drawn_D: Floats) -> float:
    """Twice the share of resamples on the rarer side of zero, at least 2 / (D + 1).

    The inversion of the percentile interval, with one resample added as in Davison and Hinkley 1997, 4.2.
    """
    if not drawn_D.size:
        return math.nan
    rarer = min(int((drawn_D <= 0).sum()), int((drawn_D >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(drawn_D) + 1))


def known(value: float) -> float | None:
    """The value for JSON: None where it is not finite."""
    return float(value) if math.isfinite(value) else None


def bounds(interval: Interval) -> list[float] | None:
    """Both ends of an interval for JSON; None for an interval of NaN."""
    return [interval.low, interval.high] if interval.is_known else None


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for looking at all of them (Holm 1979), in the order given.

    NaN stays and counts for none. The k-th smallest of m is multiplied by m - k + 1, and none falls below
    the one before it.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, highest = list(p_values), 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[place] = highest
    return adjusted


def _mean(values_N: NDArray[Any]) -> float:
    return float(values_N.mean()) if values_N.size else math.nan
