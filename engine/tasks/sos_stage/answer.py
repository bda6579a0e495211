"""The stage as an Answer: an ordered class with its probabilities and a conformal set. No torch.

Legend: B batch, N instances, K stages.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.evaluation.answer import (
    Answer,
    Block,
    Code,
    Column,
    Facts,
    Figure,
    Figures,
    Gate,
    Grid,
    Group,
    Measurement,
    Raw,
    Row,
    Text,
    Values,
)
from engine.evaluation.held_out import HeldOut, by_sex
from engine.evaluation.metrics import MEAN_ABSOLUTE, bootstrap_by_patient, bounds, known
from engine.tasks.sos_stage.labels import TRUTH

STAGES = 5
_WORDS = ("open", "fusing from the inside", "half fused", "nearly fused", "fused")
_LEAST = 1e-12
FUSION = Code("sos-stage", "99OSTEORAY", "Stage of fusion of the spheno-occipital synchondrosis")
PROBABILITY = Code("sos-stage-probability", "99OSTEORAY", "Probability of the stage")
EXPECTED = Code("sos-stage-expected", "99OSTEORAY", "Expected stage of fusion")
NO_UNITS = Code("1", "UCUM", "no units")
_CODES = tuple(
    Code(f"sos-stage-{stage}", "99OSTEORAY", f"Stage {stage} of 0 to {STAGES - 1}: {words}")
    for stage, words in enumerate(_WORDS)
)


def _number(name: str, meaning: str) -> Column:
    return Column(name=name, type=pa.float32(), unit="", meaning=meaning, decimals=3)


def _stage(name: str, meaning: str, *, nullable: bool = False) -> Column:
    return Column(name=name, type=pa.int8(), unit="", meaning=meaning, decimals=None, nullable=nullable)


_COLUMNS = (
    _stage("stage", "The likeliest stage, 0 open to 4 fused"),
    _number("stage_probability", "Its probability"),
    _number("expected_stage", "Mean of the stages, each by its probability"),
    _number("entropy", "Of the probabilities, in nats: 0 where one is certain"),
    _stage(
        "stage_low", "Lowest stage of the conformal 90 % set; null where the model has none", nullable=True
    ),
    _stage("stage_high", "Highest stage of the same set", nullable=True),
    *(_number(f"p_{stage}", f"Probability of stage {stage}") for stage in range(STAGES)),
)


def rows(raw: Raw, samples: Sequence[Row], calibration: Facts) -> dict[str, Values]:
    """Stage, probabilities, expected stage, entropy, and the ends of the conformal set."""
    p_BK = raw["probabilities"].astype(np.float32)
    stage_B = p_BK.argmax(1)
    mass = calibration.get("set_mass")
    ends = [stage_set(p_K, mass) for p_K in p_BK] if mass is not None else [(None, None)] * len(p_BK)
    return {
        "stage": stage_B.astype(np.int8),
        "stage_probability": p_BK[np.arange(len(p_BK)), stage_B],
        "expected_stage": expected(p_BK),
        "entropy": entropy(p_BK),
        "stage_low": [low for low, _ in ends],
        "stage_high": [high for _, high in ends],
        **{f"p_{stage}": p_BK[:, stage] for stage in range(STAGES)},
    }


def expected(p_BK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean stage [B]; in float64, since a row must not depend on the batch that it came in."""
    mean_B: NDArray[np.float32] = (p_BK.astype(np.float64) * np.arange(STAGES)).sum(1).astype(np.float32)
    return mean_B


def entropy(p_BK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Nats [B]."""
    wide_BK = p_BK.astype(np.float64)
    nats_B: NDArray[np.float32] = -(wide_BK * np.log(np.maximum(wide_BK, _LEAST))).sum(1).astype(np.float32)
    return nats_B


def stage_set(p_K: NDArray[np.float32], mass: float) -> tuple[int, int]:
    """Lowest and highest stage of the set that grows from the likeliest one to a probability of ``mass``."""
    return next(
        (low, high) for low, high, held in _growing(p_K) if held >= mass or (low, high) == (0, STAGES - 1)
    )


def mass_until(p_K: NDArray[np.float32], stage: int) -> float:
    """The probability of the least growing set that holds a stage: the score of its conformal quantile."""
    return next(held for low, high, held in _growing(p_K) if low <= stage <= high)


def _growing(p_K: NDArray[np.float32]) -> list[tuple[int, int, float]]:
    """(Lowest, highest, probability) of sets of neighbouring stages, the likelier neighbour taken first.

    Ordinal adaptive prediction sets: Lu et al., arXiv 2207.02238.
    """
    low = high = int(p_K.argmax())
    sets = [(low, high, float(p_K[low]))]
    while (low, high) != (0, STAGES - 1):
        below = float(p_K[low - 1]) if low > 0 else -1.0
        above = float(p_K[high + 1]) if high < STAGES - 1 else -1.0
        low, high = (low - 1, high) if below >= above else (low, high + 1)
        sets.append((low, high, sets[-1][2] + max(below, above)))
    return sets


def measurements(row: Row) -> list[Measurement]:
    """The stage as a code, its probability, and the expected stage."""
    return [
        Measurement(name=FUSION, value=_CODES[int(row["stage"])]),
        Measurement(name=PROBABILITY, value=float(row["stage_probability"]), unit=NO_UNITS),
        Measurement(name=EXPECTED, value=float(row["expected_stage"]), unit=NO_UNITS),
    ]


def sentence(row: Row) -> str:
    """One line for captions."""
    stage = int(row["stage"])
    return (
        f"Stage {stage} of 0 to {STAGES - 1} ({_WORDS[stage]}), probability {row['stage_probability']:.2f}."
    )


def error(held: HeldOut) -> NDArray[np.float64]:
    """Stages [N] between the predicted and the true one."""
    return np.abs(held.predicted["stage"].astype(np.float64) - held.truth[TRUTH.name])


def quadratic_kappa(read_N: NDArray[np.int64], truth_N: NDArray[np.int64]) -> float:
    """1 - sum w O / sum w E with w = (i - j)^2 (Cohen 1968); NaN where all is one stage."""
    seen_KK = np.zeros((STAGES, STAGES))
    np.add.at(seen_KK, (truth_N, read_N), 1)
    by_chance_KK = np.outer(seen_KK.sum(1), seen_KK.sum(0)) / max(len(truth_N), 1)
    apart_KK = np.subtract.outer(np.arange(STAGES), np.arange(STAGES)) ** 2
    chance = float((apart_KK * by_chance_KK).sum())
    return 1 - float((apart_KK * seen_KK).sum()) / chance if chance > 0 else float("nan")


def _figures_of(held: HeldOut) -> tuple[Figure, ...]:
    """Mean error in stages with its interval, accuracy, share within one stage, quadratic kappa."""
    truth_N, read_N = held.truth[TRUTH.name].astype(np.int64), held.predicted["stage"].astype(np.int64)
    if not len(truth_N):
        return (Figure(key="mean_stage_error", words="Mean error", value=None, unit="stages"),)
    error_N = error(held)
    interval = bootstrap_by_patient(error_N, held.patients_N, statistic=MEAN_ABSOLUTE)
    low, high = bounds(interval) or (None, None)
    mean = float(error_N.mean())
    return (
        Figure(
            key="mean_stage_error",
            words="Mean error",
            value=mean,
            unit="stages",
            low=low,
            high=high,
            decimals=3,
        ),
        Figure(key="accuracy", words="Right stage", value=float((error_N == 0).mean()), decimals=3),
        Figure(key="within_one", words="Within one stage", value=float((error_N <= 1).mean()), decimals=3),
        Figure(
            key="kappa", words="Quadratic kappa", value=known(quadratic_kappa(read_N, truth_N)), decimals=3
        ),
    )


def figures(held: HeldOut, calibration: Facts) -> Figures:
    """Error, accuracy, kappa and coverage of the sets; the same by stage and sex."""
    headline, *more = _figures_of(held)
    truth_N = held.truth[TRUTH.name].astype(np.int64)
    if calibration.get("set_mass") is not None and len(truth_N):
        low_N, high_N = held.predicted["stage_low"], held.predicted["stage_high"]
        is_covered_N = (low_N <= truth_N) & (truth_N <= high_N)
        more += [
            Figure(
                key="covered",
                words="Stage lies in the 90 % set",
                value=float(is_covered_N.mean()),
                decimals=3,
            ),
            Figure(key="set_size", words="Stages in the set", value=float((high_N - low_N + 1).mean())),
        ]
    members = [(f"stage {stage}", "True stage", truth_N == stage) for stage in range(STAGES)]
    members += [(name, "Sex", members_N) for name, members_N in by_sex(held)]
    groups = tuple(
        Group(name=name, heading=heading, instances=int(of_N.sum()), figures=_figures_of(held.chosen(of_N)))
        for name, heading, of_N in members
        if of_N.any()
    )
    return Figures(headline=headline, more=tuple(more), groups=groups)


def blocks(held: HeldOut, calibration: Facts) -> list[Block]:
    """Which stage was read as which."""
    truth_N, read_N = held.truth[TRUTH.name].astype(np.int64), held.predicted["stage"].astype(np.int64)
    seen_KK = np.zeros((STAGES, STAGES), np.int64)
    np.add.at(seen_KK, (truth_N, read_N), 1)
    header = ("True stage", *(f"read as {stage}" for stage in range(STAGES)))
    table = tuple((f"{stage}, {_WORDS[stage]}", *map(str, seen_KK[stage])) for stage in range(STAGES))
    words = f"Temperature {calibration['temperature']:.2f}." if calibration else "Not calibrated."
    return [Text(words=words), Grid(title="Stages against truth", header=header, rows=table)]


def _departs(torch: Raw, engine: Raw, labels: Raw) -> float:
    return float(np.abs(torch["probabilities"] - engine["probabilities"]).max())


def _turned(torch: Raw, engine: Raw, labels: Raw) -> float:
    return float((torch["probabilities"].argmax(1) != engine["probabilities"].argmax(1)).mean())


STAGE = Answer(
    outputs=("probabilities",),
    columns=_COLUMNS,
    value="expected_stage",
    doubt="entropy",
    rows=rows,
    gates=(
        Gate(name="probability", unit="", limit=1e-3, departure=_departs),
        Gate(name="stages that change", unit="", limit=0.005, departure=_turned),
    ),
    error=error,
    error_unit="stages",
    figures=figures,
    blocks=blocks,
    measurements=measurements,
    sentence=sentence,
)
