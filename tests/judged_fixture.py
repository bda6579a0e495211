"""For tests of what is said about a judged run: made predictions, and the facts that an evaluation gives."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.accuracy import accuracy
from engine.calibration import Calibration, coverage
from engine.held_out import HeldOut

CALIBRATION = Calibration(
    instances=120,
    temperature=1.8,
    by_sd={"0.8": 1.2, "0.9": 1.6, "0.95": 2.1},
    by_months={"0.8": 9.0, "0.9": 12.0, "0.95": None},
    slope=0.04,
    intercept=-3.5,
)


def made_predictions(count: int = 60, *, seed: int = 0) -> HeldOut:
    """Instances of half as many patients, errors of sd 7 months, claimed sd 6 to 8."""
    generator = np.random.default_rng(seed)
    truth_N = generator.uniform(20, 215, count)
    return HeldOut(
        uids_N=np.array([f"2.25.{i}" for i in range(count)]),
        patients_N=np.array([f"p{i // 2}" for i in range(count)]),
        sexes_N=np.array(["F", "M"] * count)[:count],
        truth_N=truth_N.astype(np.float32),
        predicted_N=(truth_N + generator.normal(0, 7, count)).astype(np.float32),
        sd_N=generator.uniform(6, 8, count).astype(np.float32),
    )


def judged_facts(held: HeldOut, calibration: Calibration = CALIBRATION) -> dict[str, Any]:
    """The facts ``evaluation`` and ``calibration`` of a run."""
    evaluation = {
        "split": "test",
        **accuracy(held),
        "mean_predictor_mae": 41.0,
        "coverage": coverage(held, calibration),
        "surprise": 3.1,
        "surprise_untempered": 3.4,
        "mean_sd_months": float(held.sd_N.mean()),
        "mean_sd_untempered": 4.2,
        "against_pseudo_labels": None,
        "departing": None,
    }
    return {"evaluation": evaluation, "calibration": calibration.facts()}
