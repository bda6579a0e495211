"""Skeletal age as an Answer: columns in months, the gate, the measurements, the sentence.

Figures and blocks are in ``figures`` and ``blocks`` beside this file. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from engine.evaluation.answer import Answer, Code, Column, Facts, Gate, Measurement, Raw, Row, Values
from engine.tasks.ages.accuracy import bands
from engine.tasks.ages.blocks import blocks
from engine.tasks.ages.calibration import calibration_from_facts
from engine.tasks.ages.figures import error, figures

PARITY_MONTHS = 0.01
"""Largest absolute difference between torch and a compiled engine that is let through."""

BONE_AGE = Code("85151-9", "LN", "XR Bone age")
MONTH = Code("mo", "UCUM", "month")
STANDARD_DEVIATION = Code("386136009", "SCT", "Standard Deviation")
LOW = Code("interval-low", "99OSTEORAY", "Lower bound of prediction interval")
HIGH = Code("interval-high", "99OSTEORAY", "Upper bound of prediction interval")


def _column(name: str, meaning: str, *, nullable: bool = False) -> Column:
    return Column(name=name, type=pa.float32(), unit="months", meaning=meaning, nullable=nullable)


_COLUMNS = (
    _column("predicted_months", "Expected bone age"),
    _column("sd_months", "Spread of the predicted age distribution"),
    _column(
        "interval_low_months",
        "Lower end of the conformal 90 % interval; null where the model has none",
        nullable=True,
    ),
    _column("interval_high_months", "Upper end of the same interval", nullable=True),
)


def rows(raw: Raw, samples: Sequence[Row], calibration: Facts) -> dict[str, Values]:
    """Months, sd and interval of each sample; the interval is null where the calibration has none."""
    months_B, sd_B = raw["months"], raw["sd_months"]
    interval = calibration_from_facts(calibration).interval(months_B, sd_B)
    low_B, high_B = interval or ([None] * len(months_B), [None] * len(months_B))
    return dict(zip((column.name for column in _COLUMNS), (months_B, sd_B, low_B, high_B), strict=True))


def measurements(row: Row) -> list[Measurement]:
    """Bone age, its standard deviation, and the ends of its interval where there is one; months."""
    found = [
        _months(BONE_AGE, row["predicted_months"], words="Bone age predicted by a model"),
        _months(BONE_AGE, row["sd_months"], derivation=STANDARD_DEVIATION),
    ]
    low, high = row.get("interval_low_months"), row.get("interval_high_months")
    if low is not None and high is not None:
        found += [_months(LOW, low), _months(HIGH, high)]
    return found


def _months(name: Code, value: float, derivation: Code | None = None, words: str = "") -> Measurement:
    return Measurement(
        name=name, value=float(value), unit=MONTH, derivation=derivation, words=words, unit_words="months"
    )


def sentence(row: Row) -> str:
    """One line for captions."""
    return f"Predicted bone age {row['predicted_months']:.0f} months, sd {row['sd_months']:.0f}."


def _departs(output: str) -> Gate:
    def departure(torch: Raw, engine: Raw, labels: Raw) -> float:
        return float(np.abs(torch[output] - engine[output]).max())

    return Gate(name=output, unit="months", limit=PARITY_MONTHS, departure=departure)


AGE = Answer(
    outputs=("months", "sd_months"),
    columns=_COLUMNS,
    value="predicted_months",
    doubt="sd_months",
    rows=rows,
    gates=(_departs("months"), _departs("sd_months")),
    error=error,
    error_unit="months",
    bands=bands,
    figures=figures,
    blocks=blocks,
    measurements=measurements,
    sentence=sentence,
)
