"""The numbers of a report: who is counted, errors by group with intervals by patient, and what sd is worth.

Errors are predicted minus truth in months. Every interval is the 95 % percentile bootstrap that resamples
patients, as one patient may have several instances.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import polars as pl

from engine.evaluation import agreement, metrics
from engine.evaluation.metrics import AGE_EDGES_YEARS, Floats, Interval, PairedDifference, Statistic
from engine.report.folders import HELD_OUT, SEXES, RunFolder, Truth

WITHIN_MONTHS = (6, 12, 24)
FEW = 20
"""Below this many instances a group is marked: its figures may be chance."""
LEVEL = 0.05
"""Of the test behind a claim about one of several pairs or groups."""
_QUARTERS_FROM = 40
_DRAWS_A_PAIR = 100
"""The smallest p of D draws is 2 / (D + 1): times the number of pairs it stays at 0.02."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """Instances that count for accuracy, and how many fell out on the way and why."""

    frame: pl.DataFrame
    has_split: bool
    unlabelled: int
    seen_in_training: int
    repeated: int
    not_finite: int
    labelled_not_scored: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its interval by patient."""

    value: float
    interval: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRow:
    """Errors of one group; ``within`` follows WITHIN_MONTHS, ``heading`` opens a block of rows."""

    group: str
    heading: str
    instances: int
    patients: int
    mae: Estimate
    rmse: Estimate
    within: tuple[Estimate, ...]
    bias: Estimate
    lower_limit: Estimate
    upper_limit: Estimate

    @property
    def is_small(self) -> bool:
        """True when the group is too small to lean on."""
        return self.instances < FEW


@dataclass(frozen=True, slots=True, kw_only=True)
class SpreadRow:
    """How the model's own sd compares with the errors it made, for one group of instances."""

    group: str
    instances: int
    mean_sd: float
    rmse: float
    within_one_sd: float
    within_two_sd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedRow:
    """Two runs on the instances that both evaluated against the same truth."""

    first: str
    second: str
    paired: PairedDifference
    p_holm: float
    """Adjusted by Holm for looking at all pairs; NaN without any."""
    draws: int

    @property
    def is_claimed(self) -> bool:
        """Whether one of the two may be called the better one."""
        return self.paired.interval.excludes_zero and self.p_holm < LEVEL


def evaluated(predictions: pl.DataFrame, truth: Truth) -> Evaluated:
    """Join truth to predictions; where the labels name a split, only held-out instances stay."""
    finite = predictions.filter(pl.col("predicted").is_finite() & pl.col("sd").is_finite())
    single = finite.unique("sop_instance_uid", keep="first", maintain_order=True)
    counted = truth.frame.filter(split=HELD_OUT) if truth.has_split else truth.frame
    known = single.join(truth.frame, on="sop_instance_uid", how="semi")
    kept = single.join(
        counted.select("sop_instance_uid", "truth"), on="sop_instance_uid", how="inner", maintain_order="left"
    )
    return Evaluated(
        frame=kept,
        has_split=truth.has_split,
        unlabelled=len(single) - len(known),
        seen_in_training=len(known) - len(kept),
        repeated=len(finite) - len(single),
        not_finite=len(predictions) - len(finite),
        labelled_not_scored=len(counted) - len(kept),
    )


def evaluated_run(evaluation: pl.DataFrame) -> Evaluated:
    """The same for a run, whose evaluation table holds held-out instances only."""
    finite = evaluation.filter(pl.all_horizontal(pl.col("predicted", "sd", "truth").is_finite()))
    return Evaluated(
        frame=finite,
        has_split=True,
        unlabelled=0,
        seen_in_training=0,
        repeated=0,
        not_finite=len(evaluation) - len(finite),
        labelled_not_scored=0,
    )


def errors(frame: pl.DataFrame) -> Floats:
    """Signed errors [N], months, of a frame with ``predicted`` and ``truth``."""
    return metrics.signed_errors(frame["predicted"].to_numpy(), frame["truth"].to_numpy())


def error_rows(frame: pl.DataFrame) -> list[ErrorRow]:
    """All instances, then by sex, then by bone-age band; groups without an instance are left out."""
    rows = [_error_row(frame, "All", "")]
    rows += [_error_row(frame.filter(sex=sex), sex.capitalize(), "By sex") for sex in SEXES]
    years = pl.col("truth") / 12
    for low, high in pairwise((*AGE_EDGES_YEARS, math.inf)):
        name = f"{low} to under {high} years" if math.isfinite(high) else f"{low} years and over"
        rows.append(_error_row(frame.filter((years >= low) & (years < high)), name, "By true bone age"))
    return [row for row in rows if row.instances]


def _error_row(frame: pl.DataFrame, group: str, heading: str) -> ErrorRow:
    errors_N, patients_N = errors(frame), frame["patient"].to_numpy()

    def estimate(value: float, statistic: Statistic) -> Estimate:
        interval = metrics.bootstrap_by_patient(errors_N, patients_N, statistic=statistic)
        return Estimate(value=value, interval=interval)

    limits = agreement.bland_altman(errors_N, np.zeros_like(errors_N))
    zeros_N = np.zeros_like(errors_N)
    return ErrorRow(
        group=group,
        heading=heading,
        instances=len(frame),
        patients=frame["patient"].n_unique(),
        mae=estimate(metrics.mae(errors_N, zeros_N), metrics.MEAN_ABSOLUTE),
        rmse=estimate(metrics.rmse(errors_N, zeros_N), metrics.ROOT_MEAN_SQUARE),
        within=tuple(
            estimate(metrics.share_within(errors_N, zeros_N, months), metrics.share_statistic(months))
            for months in WITHIN_MONTHS
        ),
        bias=estimate(limits.bias, metrics.MEAN),
        lower_limit=estimate(limits.lower_limit, metrics.LOWER_LIMIT),
        upper_limit=estimate(limits.upper_limit, metrics.UPPER_LIMIT),
    )


def spread_rows(frame: pl.DataFrame) -> list[SpreadRow]:
    """All instances, then quarters from the surest to the least sure, when there are enough for quarters."""
    if frame.is_empty():
        return []
    rows = [_spread_row(frame, "All")]
    if len(frame) >= _QUARTERS_FROM:
        names = ("Surest quarter", "Second quarter", "Third quarter", "Least sure quarter")
        ordered = frame.sort("sd", maintain_order=True)
        places = np.array_split(np.arange(len(frame)), len(names))
        rows += [_spread_row(ordered[part], name) for name, part in zip(names, places, strict=True)]
    return rows


def _spread_row(frame: pl.DataFrame, group: str) -> SpreadRow:
    errors_N, sd_N = errors(frame), frame["sd"].to_numpy()
    return SpreadRow(
        group=group,
        instances=len(frame),
        mean_sd=float(sd_N.mean()),
        rmse=metrics.rmse(errors_N, np.zeros_like(errors_N)),
        within_one_sd=metrics.share_within_sd(errors_N, sd_N, 1),
        within_two_sd=metrics.share_within_sd(errors_N, sd_N, 2),
    )


def worst(frame: pl.DataFrame, count: int) -> pl.DataFrame:
    """The ``count`` instances with the largest absolute error, largest first."""
    return frame.sort(
        (pl.col("predicted") - pl.col("truth")).abs(), descending=True, maintain_order=True
    ).head(count)


def least_sure(frame: pl.DataFrame, count: int) -> pl.DataFrame:
    """The ``count`` instances with the largest sd, largest first."""
    return frame.filter(pl.col("sd").is_finite()).sort("sd", descending=True, maintain_order=True).head(count)


def paired_rows(runs: list[RunFolder]) -> list[PairedRow]:
    """Every pair of runs, on instances with the same truth in both; no common instance gives NaN.

    There are as many draws as the smallest p that they can give needs to stand up to Holm over all pairs.
    """
    tables = [(run.name, evaluated_run(run.evaluation).frame) for run in runs]
    pairs = list(combinations(tables, 2))
    draws = max(metrics.DRAWS, _DRAWS_A_PAIR * len(pairs))
    differences = [_paired(a, b, draws) for (_, a), (_, b) in pairs]
    adjusted = metrics.holm([paired.p_value for paired in differences])
    return [
        PairedRow(first=first, second=second, paired=paired, p_holm=p, draws=draws)
        for ((first, _), (second, _)), paired, p in zip(pairs, differences, adjusted, strict=True)
    ]


def _paired(a: pl.DataFrame, b: pl.DataFrame, draws: int) -> PairedDifference:
    both = a.join(b, on=["sop_instance_uid", "truth"], how="inner", suffix="_b", maintain_order="left")
    truth_N = both["truth"].to_numpy()
    return metrics.paired_bootstrap(
        np.abs(metrics.signed_errors(both["predicted"].to_numpy(), truth_N)),
        np.abs(metrics.signed_errors(both["predicted_b"].to_numpy(), truth_N)),
        both["patient"].to_numpy(),
        draws=draws,
    )
