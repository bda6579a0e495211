"""Errors of an age in months, and intervals that respect that one patient may have several instances.

Shapes: N instances, P patients, D bootstrap draws, F terms of a statistic. An error is predicted minus
truth, in months: positive reads too old. A statistic of nothing is NaN, never an exception.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LIMIT_SD = 1.96
"""Limits of agreement lie this many standard deviations from the bias (Bland and Altman 1986)."""
CONFIDENCE = 0.95
AGE_EDGES_YEARS = (0, 5, 10, 15)
"""Where the age bands of tables begin; the last is open."""
_BLOCK_ELEMENTS = 1 << 21
"""Patients drawn at once; keeps the index block at 16 MiB whatever the size of the cohort."""


def signed_errors(predicted_N: ArrayLike, truth_N: ArrayLike) -> Floats:
    """Predicted minus truth, float64 [N], months.

    Raises:
        ValueError: the two are not one-dimensional arrays of the same length.
    """
    predicted, truth = np.asarray(predicted_N, np.float64), np.asarray(truth_N, np.float64)
    if predicted.ndim != 1 or predicted.shape != truth.shape:
        raise ValueError(f"predicted {predicted.shape} and truth {truth.shape} must both be [N]")
    return predicted - truth


def mae(predicted_N: ArrayLike, truth_N: ArrayLike) -> float:
    """Mean absolute error, months: mean |predicted - truth|."""
    return _mean(np.abs(signed_errors(predicted_N, truth_N)))


def rmse(predicted_N: ArrayLike, truth_N: ArrayLike) -> float:
    """Root mean square error, months: sqrt(mean (predicted - truth)^2)."""
    return math.sqrt(_mean(np.square(signed_errors(predicted_N, truth_N))))


def share_within(predicted_N: ArrayLike, truth_N: ArrayLike, months: float) -> float:
    """Share (0..1) of instances whose absolute error is at most ``months``; the bound itself counts."""
    return _mean(np.abs(signed_errors(predicted_N, truth_N)) <= months)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BlandAltman:
    """Agreement of prediction and truth, months.

    ``slope`` is the proportional bias: change of the error per month of mean age; negative when the young
    are read too old and the old too young. Intervals are by the t formulas and take instances as independent.
    """

    instances: int
    bias: float
    sd: float
    lower_limit: float
    upper_limit: float
    bias_interval: Interval
    lower_interval: Interval
    upper_interval: Interval
    slope: float
    slope_interval: Interval


def bland_altman(predicted_N: ArrayLike, truth_N: ArrayLike) -> BlandAltman:
    """Bias and 95 % limits of agreement with their intervals.

    d = predicted - truth, bias = mean d, s = sd(d, n - 1), limits = bias -+ 1.96 s;
    CI(bias) = bias -+ t s / sqrt(n), CI(limit) = limit -+ t s sqrt(1/n + 1.96^2 / (2 (n - 1))), t with n - 1
    degrees of freedom (Bland and Altman 1999, section 2.3; methods.md, section 3).
    """
    errors_N = signed_errors(predicted_N, truth_N)
    num = len(errors_N)
    bias = _mean(errors_N)
    sd = float(errors_N.std(ddof=1)) if num > 1 else math.nan
    lower, upper = bias - LIMIT_SD * sd, bias + LIMIT_SD * sd
    of_bias = of_limit = math.nan
    if num > 1:
        t = t_quantile((1 + CONFIDENCE) / 2, num - 1)
        of_bias = t * sd / math.sqrt(num)
        of_limit = t * sd * math.sqrt(1 / num + LIMIT_SD**2 / (2 * (num - 1)))
    slope, slope_interval = _slope(errors_N + np.asarray(truth_N, np.float64) - errors_N / 2, errors_N)
    return BlandAltman(
        instances=num,
        bias=bias,
        sd=sd,
        lower_limit=lower,
        upper_limit=upper,
        bias_interval=_around(bias, of_bias),
        lower_interval=_around(lower, of_limit),
        upper_interval=_around(upper, of_limit),
        slope=slope,
        slope_interval=slope_interval,
    )


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t, without scipy.

    Closed forms for 1 and 2 degrees of freedom; above, the expansion in the normal quantile to the fourth
    order (Abramowitz and Stegun 26.7.5). At probability 0.975 it is 0.12 % low with 3 degrees, 0.03 % with 4,
    0.01 % with 5 and less above.

    Raises:
        ValueError: ``probability`` is not inside (0, 1), or ``degrees`` is below 1.
    """
    if not 0 < probability < 1 or degrees < 1:
        raise ValueError(f"no t quantile at probability {probability} with {degrees} degrees of freedom")
    match degrees:
        case 1:
            return math.tan(math.pi * (probability - 0.5))
        case 2:
            return (2 * probability - 1) * math.sqrt(2 / (4 * probability * (1 - probability)))
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(degrees) ** order for order, term in enumerate(terms, start=1))


@dataclass(frozen=True, slots=True)
class Statistic:
    """A statistic that is a function of means, so that a resample needs only sums by patient.

    ``terms`` maps values [N] to what is averaged, [N, F]; ``finish`` maps the means [D, F] and the numbers of
    instances [D] of D resamples to the statistic [D].
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


def share_statistic(months: float) -> Statistic:
    """The share of absolute errors of at most ``months``."""
    return Statistic(lambda errors_N: (np.abs(errors_N) <= months).astype(np.float64)[:, None], _first)


def bootstrap_by_patient(
    values_N: ArrayLike, patients_N: ArrayLike, *, statistic: Statistic, draws: int = 1000, seed: int = 0
) -> Interval:
    """95 % percentile interval of ``statistic`` over resamples of whole patients (cluster bootstrap).

    ``patients_N`` names the patient of each value. With fewer than two patients there is nothing to
    resample and the ends are NaN. The same input and seed give the same interval.
    """
    values = np.asarray(values_N, np.float64)
    keys: NDArray[Any] = np.asarray(patients_N)
    if values.shape != keys.shape:
        raise ValueError(f"values {values.shape} and patients {keys.shape} must both be [N]")
    names, owner_N = np.unique(keys, return_inverse=True)
    if len(names) <= 1:
        return NO_INTERVAL
    terms_NF = statistic.terms(values)
    columns = [np.bincount(owner_N, weights=terms_N, minlength=len(names)) for terms_N in terms_NF.T]
    sums_PG = np.stack([*columns, np.bincount(owner_N, minlength=len(names))], axis=1)
    drawn_DG = _drawn_sums(sums_PG, draws, seed)
    counts_D = drawn_DG[:, -1]
    statistic_D = statistic.finish(drawn_DG[:, :-1] / counts_D[:, None], counts_D)
    low, high = np.percentile(statistic_D, [100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2])
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
    """MAE of a minus MAE of b on the same instances, months: negative when a is the better one."""

    instances: int
    difference: float
    interval: Interval


def paired_bootstrap(
    errors_a_N: ArrayLike, errors_b_N: ArrayLike, patients_N: ArrayLike, *, draws: int = 1000, seed: int = 0
) -> PairedDifference:
    """Difference of two MAEs with its 95 % interval; patients are resampled, pairs stay together."""
    difference_N = np.abs(np.asarray(errors_a_N, np.float64)) - np.abs(np.asarray(errors_b_N, np.float64))
    interval = bootstrap_by_patient(difference_N, patients_N, statistic=MEAN, draws=draws, seed=seed)
    return PairedDifference(instances=len(difference_N), difference=_mean(difference_N), interval=interval)


def _mean(values_N: NDArray[Any]) -> float:
    return float(values_N.mean()) if values_N.size else math.nan


def _around(centre: float, half_width: float) -> Interval:
    return Interval(low=centre - half_width, high=centre + half_width)


def _slope(x_N: Floats, y_N: Floats) -> tuple[float, Interval]:
    """Least-squares slope of y on x and its t interval with n - 2 degrees of freedom."""
    num = len(x_N)
    degrees = num - 2
    if degrees < 1:
        return math.nan, NO_INTERVAL
    centred_N = x_N - x_N.mean()
    spread = float(centred_N @ centred_N)
    if spread == 0:
        return math.nan, NO_INTERVAL
    slope = float(centred_N @ y_N) / spread
    residual_N = y_N - y_N.mean() - slope * centred_N
    error = math.sqrt(float(residual_N @ residual_N) / degrees / spread)
    return slope, _around(slope, t_quantile((1 + CONFIDENCE) / 2, degrees) * error)
