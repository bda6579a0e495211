"""Split-conformal quantiles, and deciles of a validation split. Legend: N instances."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.evaluation.metrics import Floats

ABSTAIN_COVERAGE = 0.995
"""Share of sound validation images that a limit lets through; beyond it a score is withheld."""


def conformal_quantile(scores_N: Floats, level: float) -> float | None:
    """The ceil((N + 1) level)-th smallest score; None where there are too few for the level.

    A new exchangeable score is at most that with probability ``level`` at least (Lei et al. 2018).
    """
    rank = math.ceil((len(scores_N) + 1) * level)
    return float(np.sort(scores_N)[rank - 1]) if rank <= len(scores_N) else None


def deciles(values_N: Any) -> tuple[float, ...]:
    """Percentiles 0, 10, ... 100: what drift is measured against."""
    return tuple(float(value) for value in np.percentile(np.asarray(values_N, np.float64), range(0, 101, 10)))
