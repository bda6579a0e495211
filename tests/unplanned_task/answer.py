"""The grade as an Answer: an ordered class with its probabilities. No torch. Legend: B batch, K grades."""

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

GRADES = 4
WEAR = Code("wear-grade", "99OSTEORAY", "Wear of the joint")
SCALE = Code("wear-expected", "99OSTEORAY", "Expected grade of wear")
NO_UNITS = Code("1", "UCUM", "no units")
_CODES = tuple(Code(f"wear-{grade}", "99OSTEORAY", f"Wear of grade {grade}") for grade in range(GRADES))


def _number(name: str, meaning: str) -> Column:
    return Column(name=name, type=pa.float32(), unit="", meaning=meaning, decimals=3)


COLUMNS = (
    Column(name="grade", type=pa.int8(), unit="", meaning="The likeliest grade", decimals=None),
    _number("expected_grade", "Mean of the grades, each by its probability"),
    _number("entropy", "Of the probabilities, in nats: 0 where one is certain"),
    *(_number(f"p_{grade}", f"Probability of grade {grade}") for grade in range(GRADES)),
)


def rows(raw: Raw, samples: Sequence[Row], calibration: Facts) -> dict[str, Values]:
    """The likeliest grade, the expected one, the entropy and the probabilities."""
    p_BK = raw["probabilities"].astype(np.float32)
    return {
        "grade": p_BK.argmax(1).astype(np.int8),
        "expected_grade": expected(p_BK),
        "entropy": entropy(p_BK),
        **{f"p_{grade}": p_BK[:, grade] for grade in range(GRADES)},
    }


def expected(p_BK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean grade [B]; in float64, since a row must not depend on the batch that it came in."""
    return (p_BK.astype(np.float64) * np.arange(GRADES)).sum(1).astype(np.float32)


def entropy(p_BK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Nats [B]."""
    p_BK = p_BK.astype(np.float64)
    return -(p_BK * np.log(np.maximum(p_BK, 1e-12))).sum(1).astype(np.float32)


def measurements(row: Row) -> list[Measurement]:
    """The grade as a code, the expected grade as a number."""
    return [
        Measurement(name=WEAR, value=_CODES[int(row["grade"])]),
        Measurement(name=SCALE, value=float(row["expected_grade"]), unit=NO_UNITS),
    ]


def sentence(row: Row) -> str:
    """One line for captions."""
    return f"Wear of grade {int(row['grade'])}, probability {row['p_' + str(int(row['grade']))]:.2f}."


def error(held: HeldOut) -> NDArray[np.float64]:
    """Grades [N] between the expected and the true one."""
    return np.abs(held.predicted["expected_grade"].astype(np.float64) - held.truth["grade"])


def _right(held: HeldOut) -> float:
    return float((held.predicted["grade"] == held.truth["grade"]).mean())


def figures(held: HeldOut, calibration: Facts) -> Figures:
    """Mean error in grades, share of right grades, and both by sex."""

    def of(part: HeldOut) -> tuple[Figure, Figure]:
        mean = float(error(part).mean()) if len(part.uids_N) else None
        right = _right(part) if len(part.uids_N) else None
        return (
            Figure(key="mean_error", words="Mean error", value=mean, unit="grades"),
            Figure(key="right", words="Share of right grades", value=right),
        )

    headline, right = of(held)
    groups = tuple(
        Group(name=sex, heading="Sex", instances=int(members_N.sum()), figures=of(held.chosen(members_N)))
        for sex, members_N in by_sex(held)
    )
    return Figures(headline=headline, more=(right,), groups=groups)


def blocks(held: HeldOut, calibration: Facts) -> list[Block]:
    """Which grade was taken for which."""
    truth_N, said_N = held.truth["grade"].astype(int), held.predicted["grade"].astype(int)
    counts = [
        [int(((truth_N == true) & (said_N == said)).sum()) for said in range(GRADES)]
        for true in range(GRADES)
    ]
    header = ("True grade", *(f"read as {grade}" for grade in range(GRADES)))
    table = tuple((str(true), *map(str, row)) for true, row in enumerate(counts))
    words = f"Temperature {calibration['temperature']:.2f}." if calibration else "Not calibrated."
    return [Text(words=words), Grid(title="Grades against truth", header=header, rows=table)]


def _departs(torch: Raw, engine: Raw, labels: Raw) -> float:
    return float(np.abs(torch["probabilities"] - engine["probabilities"]).max())


def _loses(torch: Raw, engine: Raw, labels: Raw) -> float:
    is_known_B = np.isfinite(labels["grade"])
    if not is_known_B.any():
        return 0.0
    grade_B = labels["grade"]
    before, after = (
        float((raw["probabilities"].argmax(1) == grade_B)[is_known_B].mean()) for raw in (torch, engine)
    )
    return before - after


GRADE = Answer(
    outputs=("probabilities",),
    columns=COLUMNS,
    value="expected_grade",
    doubt="entropy",
    rows=rows,
    gates=(
        Gate(name="probability", unit="", limit=1e-3, departure=_departs),
        Gate(name="right grades lost", unit="", limit=0.02, departure=_loses),
    ),
    error=error,
    figures=figures,
    blocks=blocks,
    measurements=measurements,
    sentence=sentence,
)
