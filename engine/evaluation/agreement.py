"""Agreement of predicted with true numbers: Bland-Altman limits, and the intraclass correlation ICC(2,1).

Shapes: N instances, R raters, D bootstrap draws. An error is predicted minus
truth. What the data do not determine is NaN, never an exception.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from engine.evaluation.metrics import (
    CONFIDENCE,
    LIMIT_SD,
    NO_INTERVAL,
    Floats,
    Interval,
    Statistic,
    signed_errors,
)

_FEWEST = 2
"""Instances, and raters, below which there is no correlation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlandAltman:
    """Agreement of prediction and truth, in their unit.

    ``slope`` is the proportional bias: change of the error per unit of the mean; negative when low values
    are read too high and high ones too low. Intervals are by the t formulas and take instances as
    independent.
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
    bias = float(errors_N.mean()) if num else math.nan
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


def icc_2_1(ratings_NR: ArrayLike) -> float:
    """ICC(2,1): two-way random effects, absolute agreement, one rater (Shrout and Fleiss 1979, case 2).

    (MSR - MSE) / (MSR + (R - 1) MSE + R (MSC - MSE) / N) with the mean squares of rows (instances), columns
    (raters) and error of the two-way analysis of variance without replication. With columns (predicted,
    truth) it falls with random and with constant error alike; 1 is perfect.

    Raises:
        ValueError: the ratings are no table [N, R].
    """
    ratings = np.asarray(ratings_NR, np.float64)
    if ratings.ndim != _FEWEST:
        raise ValueError(f"ratings {ratings.shape} must be [N, R]")
    num, raters = ratings.shape
    if num < _FEWEST or raters < _FEWEST:
        return math.nan
    grand = ratings.mean()
    rows_N, columns_R = ratings.mean(axis=1), ratings.mean(axis=0)
    residual_NR = ratings - rows_N[:, None] - columns_R[None] + grand
    rows = raters * float(np.square(rows_N - grand).sum()) / (num - 1)
    columns = num * float(np.square(columns_R - grand).sum()) / (raters - 1)
    error = float(np.square(residual_NR).sum()) / ((num - 1) * (raters - 1))
    below = rows + (raters - 1) * error + raters * (columns - error) / num
    return (rows - error) / below if below > 0 else math.nan


def _icc_terms(pairs_N2: Floats) -> Floats:
    # about a fixed centre, so that squares lose no digits
    middle_N = (pairs_N2 - pairs_N2.mean()).mean(axis=1)
    apart_N = pairs_N2[:, 0] - pairs_N2[:, 1]
    return np.stack([middle_N, middle_N**2, apart_N, apart_N**2], axis=1)


def _icc_of_means(means_DF: Floats, counts_D: Floats) -> Floats:
    freedom_D = np.maximum(counts_D - 1, 1) / counts_D
    rows_D = 2 * (means_DF[:, 1] - means_DF[:, 0] ** 2) / freedom_D
    error_D = (means_DF[:, 3] - means_DF[:, 2] ** 2) / (2 * freedom_D)
    columns_D = counts_D * means_DF[:, 2] ** 2 / 2
    below_D = rows_D + error_D + 2 * (columns_D - error_D) / counts_D
    icc_D: Floats = np.divide(rows_D - error_D, below_D, out=np.full_like(below_D, np.nan), where=below_D > 0)
    return icc_D


ICC = Statistic(_icc_terms, _icc_of_means)
"""ICC(2,1) of pairs [N, 2], for ``metrics.bootstrap_by_patient``."""


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
