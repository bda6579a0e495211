"""Who counts for accuracy, which cases are worth a look, and pairs of runs on the same instances.

Legend: N instances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import polars as pl

from engine.evaluation import metrics
from engine.evaluation.answer import Answer
from engine.evaluation.held_out import HeldOut
from engine.evaluation.metrics import PairedDifference
from engine.report.folders import HELD_OUT, RunFolder, Truth, held_out_of
from engine.tasks.task import Task

LEVEL = 0.05
"""Of the test behind a claim about one of several pairs or groups."""
_DRAWS_A_PAIR = 100
"""The smallest p of D draws is 2 / (D + 1): times the number of pairs it stays at 0.02."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """Instances that count for accuracy, and how many fell out on the way and why.

    ``frame`` and ``held`` hold the same rows: predictions with the label columns beside them.
    """

    frame: pl.DataFrame
    held: HeldOut
    has_split: bool
    unlabelled: int
    seen_in_training: int
    repeated: int
    not_finite: int
    labelled_not_scored: int


def evaluated(predictions: pl.DataFrame, truth: Truth, task: Task) -> Evaluated:
    """Join truth to predictions; where the labels name a split, only held-out instances stay."""
    finite = finite_rows(predictions, task.answer)
    single = finite.unique("sop_instance_uid", keep="first", maintain_order=True)
    counted = truth.frame.filter(split=HELD_OUT) if truth.has_split else truth.frame
    known = single.join(truth.frame, on="sop_instance_uid", how="semi")
    labels = counted.select("sop_instance_uid", *task.label_columns)
    kept = single.join(labels, on="sop_instance_uid", how="inner", maintain_order="left")
    return Evaluated(
        frame=kept,
        held=held_out_of(kept, task),
        has_split=truth.has_split,
        unlabelled=len(single) - len(known),
        seen_in_training=len(known) - len(kept),
        repeated=len(finite) - len(single),
        not_finite=len(predictions) - len(finite),
        labelled_not_scored=len(counted) - len(kept),
    )


def finite_rows(predictions: pl.DataFrame, answer: Answer) -> pl.DataFrame:
    """Those whose numbers are all numbers; a column that may be null is not asked."""
    asked = [column.name for column in answer.columns if not column.nullable]
    numbers = [name for name in asked if predictions[name].dtype.is_float()]
    return predictions.filter(
        pl.all_horizontal(pl.lit(value=True), *(pl.col(n).is_finite() for n in numbers))
    )


def paired_rows(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """Every pair of runs, on instances with the same truth in both; no common instance gives NaN.

    There are as many ``draws`` as the smallest p that they can give needs to stand up to Holm over all pairs;
    ``is_claimed`` says whether one of the two may be called the better one.
    """
    pairs = list(combinations(runs, 2))
    draws = max(metrics.DRAWS, _DRAWS_A_PAIR * len(pairs))
    differences = [_paired(a, b, draws) for a, b in pairs]
    adjusted = metrics.holm([paired.p_value for paired in differences])
    return [
        {
            "first": a.name,
            "second": b.name,
            "paired": paired,
            "p_holm": p,
            "draws": draws,
            "is_claimed": paired.interval.excludes_zero and p < LEVEL,
        }
        for (a, b), paired, p in zip(pairs, differences, adjusted, strict=True)
    ]


def _paired(a: RunFolder, b: RunFolder, draws: int) -> PairedDifference:
    of_a, of_b = _errors(a), _errors(b)
    is_one_task = a.task is not None and b.task is not None and a.task.name == b.task.name
    shared = [key for key in of_a if key in of_b] if is_one_task else []
    return metrics.paired_bootstrap(
        [of_a[key][0] for key in shared],
        [of_b[key][0] for key in shared],
        [of_a[key][1] for key in shared],
        draws=draws,
    )


def _errors(run: RunFolder) -> dict[tuple[Any, ...], tuple[float, str]]:
    """Error and patient by UID and truth, where the error is finite."""
    if run.held is None or run.task is None:
        return {}
    columns = (values.astype(str).tolist() for values in run.held.truth.values())  # so that NaN is NaN
    keys = zip(run.held.uids_N.tolist(), *columns, strict=True)
    values = zip(run.task.answer.error(run.held).tolist(), run.held.patients_N.tolist(), strict=True)
    return {key: value for key, value in zip(keys, values, strict=True) if math.isfinite(value[0])}
