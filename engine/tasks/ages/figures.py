"""How right predicted ages are, as figures: the mean absolute error and what else is asked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.evaluation.answer import Facts, Figure, Figures
from engine.evaluation.held_out import HeldOut
from engine.tasks.ages.accuracy import errors, mean_error


def error(held: HeldOut) -> NDArray[np.float64]:
    """Absolute errors [N], months."""
    errors_N: NDArray[np.float64] = np.abs(errors(held))
    return errors_N


def figures(held: HeldOut, calibration: Facts) -> Figures:
    """The mean absolute error with its interval by patient."""
    found = mean_error(held)
    return Figures(
        headline=Figure(
            key="mae_months",
            words="Mean absolute error",
            value=found["mae_months"],
            unit="months",
            low=found["mae_low"],
            high=found["mae_high"],
        )
    )
