"""Limits of a validation split, conformal or widened where it is small, and its deciles.

Legend: N instances.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from engine.evaluation.metrics import Floats

ABSTAIN_COVERAGE = 0.995
"""Share of sound validation images that a limit lets through; beyond it a score is withheld."""
MEASURED = math.ceil(ABSTAIN_COVERAGE / (1 - ABSTAIN_COVERAGE) - 1e-9)
"""So many values make a conformal limit."""
FEWEST = 9
"""With fewer values there is no limit: their spread itself is known to no better than a quarter
(1 / sqrt(2 (N - 1))), and the largest bounds less than nine tenths of what is to come (N / (N + 1))."""


def conformal_quantile(scores_N: Floats, level: float) -> float | None:
    """The ceil((N + 1) level)-th smallest score; None where there are too few for the level.

    A new exchangeable score is at most that with probability ``level`` at least (Lei et al. 2018).
    """
    rank = math.ceil((len(scores_N) + 1) * level)
    return float(np.sort(scores_N)[rank - 1]) if rank <= len(scores_N) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What ``ABSTAIN_COVERAGE`` of sound images stay below, and how it was got."""

    value: float
    kind: Literal["conformal", "widened"]


def upper_limit(values_N: Any, *, is_positive: bool = False) -> Limit | None:
    """The limit that ABSTAIN_COVERAGE of new values stay below; None with fewer than FEWEST.

    It is the conformal quantile where there are enough values (199). Else it is widened: the one-sided
    prediction limit for one new value of a normal distribution, mean + t sd sqrt(1 + 1/N) with Student's t of
    N - 1 degrees of freedom (Hahn and Meeker 1991, section 4.8), and never below the largest value seen.
    Values that cannot be negative are taken by their logarithm.
    """
    values = np.asarray(values_N, np.float64)
    if len(values) < FEWEST:
        return None
    measured = conformal_quantile(values, ABSTAIN_COVERAGE)
    if measured is not None:
        return Limit(value=measured, kind="conformal")
    scale_N = np.log(np.maximum(values, np.finfo(np.float64).tiny)) if is_positive else values
    spread = float(scale_N.std(ddof=1)) * math.sqrt(1 + 1 / len(values))
    predicted = float(scale_N.mean()) + _student_quantile(ABSTAIN_COVERAGE, len(values) - 1) * spread
    bound = max(math.exp(predicted) if is_positive else predicted, float(values.max()))
    return Limit(value=bound, kind="widened")


def _student_quantile(level: float, freedom: int) -> float:
    """Quantile of Student's t, by its expansion about the normal one (Abramowitz and Stegun 26.7.5).

    At 0.995 it is off by less than 0.2 % from eight degrees of freedom on.
    """
    z: float = NormalDist().inv_cdf(level)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, start=1))


def deciles(values_N: Any) -> tuple[float, ...]:
    """Percentiles 0, 10, ... 100: what drift is measured against."""
    return tuple(float(value) for value in np.percentile(np.asarray(values_N, np.float64), range(0, 101, 10)))
