"""The ages' own part of a report and of a model card: agreement, uncertainty, coverage, controls.

The controls ask whether the image is used: a model that leans on the chronological age fails just where bone
age departs from it, and there the test is wanted. Legend: N instances; ages in months, NaN where not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.evaluation import metrics
from engine.evaluation.agreement import bland_altman
from engine.evaluation.answer import FEW, Block, Facts, Figure, Grid, Plot, Text
from engine.evaluation.held_out import Bools, HeldOut, in_words
from engine.evaluation.metrics import Interval
from engine.tasks.ages.accuracy import PREDICTED, SD, TRUTH, errors, mean_absolute_error
from engine.tasks.ages.calibration import Calibration, calibration_from_facts, coverage
from engine.tasks.ages.inputs import PSEUDO_COLUMNS

_QUARTERS = ("Surest quarter", "Second quarter", "Third quarter", "Least sure quarter")
_QUARTERS_FROM = 40
_CLAIMED = np.linspace(0.05, 0.95, 19)
APART_MONTHS = 12.0
_KINDS = {"sd": "multiple of the sd", "months": "same for all"}


def blocks(held: HeldOut, calibration: Facts) -> list[Block]:
    """Plots and tables of predicted against true ages; those of the intervals need a calibration."""
    if not len(held.uids_N):
        return []
    parts: list[Block] = [_bias(held), _truth_plot(held), _bland_altman_plot(held), *_spread(held)]
    if calibration:
        parts += _coverage(held, calibration_from_facts(calibration))
    return [*parts, *_controls(held)]


def _bias(held: HeldOut) -> Text:
    errors_N = errors(held)
    found = bland_altman(errors_N, np.zeros_like(errors_N))
    interval = metrics.bootstrap_by_patient(errors_N, held.patients_N, statistic=metrics.MEAN)
    span = f", 95 % interval {_span(interval)}" if interval.is_known else ""
    words = f"No constant shift towards old or young can be claimed (bias {found.bias:+.1f} months{span})."
    if interval.excludes_zero:
        side = "old" if found.bias > 0 else "young"
        words = f"The model reads too {side}: by {abs(found.bias):.1f} months on average{span}."
    if np.isfinite(found.sd):
        low, high = found.lower_limit, found.upper_limit
        words += f" For 19 in 20 images the error lies between {low:+.1f} and {high:+.1f} months."
    return Text(words=words)


def _truth_plot(held: HeldOut) -> Plot:
    return Plot(
        kind="scatter",
        title="True against predicted bone age",
        x="True bone age, years",
        y="Predicted bone age, years",
        series={
            "x": np.asarray(held.truth[TRUTH], np.float64) / 12,
            "y": np.asarray(held.predicted[PREDICTED], np.float64) / 12,
            "group": _sexes(held),
        },
        note="Each point is one image. On the line the prediction is right; above it the model reads too "
        "old, below it too young.",
    )


def _bland_altman_plot(held: HeldOut) -> Plot:
    """Error against the mean of truth and prediction, with limits and the t intervals of Bland and Altman."""
    predicted_N, truth_N = (np.asarray(v, np.float64) for v in (held.predicted[PREDICTED], held.truth[TRUTH]))
    found = bland_altman(predicted_N, truth_N)
    levels = {
        "bias": (found.bias, found.bias_interval),
        "upper limit": (found.upper_limit, found.upper_interval),
        "lower limit": (found.lower_limit, found.lower_interval),
    }
    limits = ""
    if np.isfinite(found.lower_limit):
        spans = ", ".join(f"{name} {_span(interval)}" for name, (_, interval) in levels.items())
        limits = (
            f"19 in 20 errors are expected between the dashed limits ({found.lower_limit:+.1f} and "
            f"{found.upper_limit:+.1f} months); grey bands are 95 % intervals by the t formulas: {spans}. "
        )
    slope = (
        f"The error changes with age, by {12 * found.slope:+.1f} months for each year of age "
        f"({_span(found.slope_interval, 12)})."
        if found.slope_interval.excludes_zero
        else "No change of the error with age can be claimed."
    )
    return Plot(
        kind="difference",
        title="Bland–Altman plot of the error against the mean age",
        x="Mean of truth and prediction, years",
        y="Predicted minus true, months",
        series={
            "x": (truth_N + predicted_N) / 24,
            "y": errors(held),
            "group": _sexes(held),
            "level_names": np.array(list(levels)),
            "levels": np.array([(level, at.low, at.high) for level, at in levels.values()]),
        },
        note=f"Bland–Altman plot: {limits}{slope}",
    )


def _spread(held: HeldOut) -> Iterator[Block]:
    """How the model's own sd compares with the errors it made."""
    errors_N, sd_N = errors(held), np.asarray(held.predicted[SD], np.float64)
    multiples = [NormalDist().inv_cdf(0.5 + share / 2) for share in _CLAIMED]
    found = [metrics.share_within_sd(errors_N, sd_N, multiple) for multiple in multiples]
    parts = [("All", np.arange(len(errors_N)))]
    if len(errors_N) >= _QUARTERS_FROM:
        places = np.array_split(np.argsort(sd_N, kind="stable"), len(_QUARTERS))
        parts += list(zip(_QUARTERS, places, strict=True))
    yield Text(
        title="Does the model know when it is unsure?",
        words="Honest uncertainty puts about 68 % of errors within one sd and 95 % within two, and the root "
        "mean square error near the stated sd. If the errors grow from the surest quarter to the least sure, "
        "the sd can be used to pick images for a second look.",
    )
    yield Plot(
        kind="curve",
        title="Calibration of the uncertainty",
        x="Share the model claims, %",
        y="Share found, %",
        series={
            "honest uncertainty": np.array([[0.0, 100], [0, 100]]),
            "this model": 100 * np.array([_CLAIMED, found]),
        },
        note="On the line the stated sd is honest; below it the model is surer than it should be, above it "
        "not sure enough.",
    )
    yield Grid(
        title="Stated sd and errors",
        header=("Images", "Number", "Stated sd, months", "RMSE, months", "Within 1 sd, %", "Within 2 sd, %"),
        rows=tuple(
            (
                name,
                f"{len(rows):,}",
                f"{sd_N[rows].mean():.1f}",
                f"{metrics.rmse(errors_N[rows], np.zeros(len(rows))):.1f}",
                *(f"{100 * metrics.share_within_sd(errors_N[rows], sd_N[rows], k):.1f}" for k in (1, 2)),
            )
            for name, rows in parts
        ),
    )


def _coverage(held: HeldOut, calibration: Calibration) -> Iterator[Block]:
    """What the intervals of the scores are worth on these instances."""
    facts = coverage(held, calibration)
    level = f"{100 * facts['level']:.0f} %"
    title = "Do the intervals hold what they promise?"
    if not facts["levels"]:
        yield Text(title=title, words="No interval. The validation split is too small for any of them.")
    else:
        yield Text(
            title=title,
            words=f"Each score carries an interval that is to hold the true age in {level} of images. Its "
            f"width was fitted on {calibration.instances:,} images of the validation split.",
        )
        whole = [row for row in facts["levels"] if (row["level"], row["kind"]) == (facts["level"], "sd")]
        rows = [*({**row, "group": "all"} for row in whole), *facts["subgroups"]]
        yield Grid(
            title=f"Interval of {level}, by group",
            header=("Group", "Images", "Found, %", "95 % interval", "Mean half width, months"),
            rows=tuple((r["group"].capitalize(), f"{r['instances']:,}", *_covered(r)) for r in rows),
            small=tuple(row["instances"] < FEW for row in rows),
            note="The promise is kept on average over all images, not in each group: one that is covered "
            "less often has intervals that are too narrow for it. Intervals are by patient.",
        )
        yield Grid(
            title="Intervals of other levels",
            header=("Promised", "Half width", "Found, %", "95 % interval", "Mean half width, months"),
            rows=tuple(
                (f"{100 * row['level']:.0f} %", _KINDS[row["kind"]], *_covered(row))
                for row in facts["levels"]
            ),
            note="Scores carry the first kind, which is wider where the network is less sure.",
        )
    yield Text(
        words=f"The sd is that of the predicted distribution at temperature {calibration.temperature:.2f}, "
        f"fitted on {calibration.instances:,} images of the validation split; predicted ages stay as "
        f"they are. The linear bias seen there, error = {calibration.slope:.4f} x predicted "
        f"{calibration.intercept:+.2f}, is not applied."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """Errors of some instances, and those of what they are held against, months."""

    name: str
    instances: int
    error: Figure
    against: str
    against_mae: float


def is_discordant(truth_N: NDArray[Any], age_N: NDArray[Any]) -> Bools:
    """Whether true bone age and known chronological age differ by more than APART_MONTHS, [N]."""
    apart: Bools = np.abs(truth_N - age_N) > APART_MONTHS
    return apart


def controls(held: HeldOut) -> list[Control]:
    """Errors where bone age is discordant, and errors against pseudo-labels; what the data lack is left out.

    The first stand beside those of the chronological age, the second beside those of the pseudo-labels: they
    tell a student that copies its teachers' errors.
    """
    truth_N, age_N = held.truth[TRUTH], held.age_months_N
    pseudo_N = held.truth.get(PSEUDO_COLUMNS[0], np.full(len(held.uids_N), np.nan, np.float32))
    discordant = f"Bone age over {APART_MONTHS:.0f} months from chronological age"
    copied = "Against the pseudo-label in place of the truth"
    found = []
    for name, members_N, against, guess_N, aim_N in (
        (discordant, is_discordant(truth_N, age_N), "chronological age", age_N, truth_N),
        (copied, np.isfinite(pseudo_N), "the pseudo-label", pseudo_N, pseudo_N),
    ):
        if members_N.any():
            chosen = replace(held.chosen(members_N), truth={TRUTH: aim_N[members_N]})
            found.append(
                Control(
                    name=name,
                    instances=int(members_N.sum()),
                    error=mean_absolute_error(chosen),
                    against=f"{against} as the prediction",
                    against_mae=metrics.mae(guess_N[members_N], truth_N[members_N]),
                )
            )
    return found


def _controls(held: HeldOut) -> Iterator[Block]:
    found = controls(held)
    if found:
        yield Grid(
            title="Is the image used?",
            header=("Instances", "Number", "Mean absolute error, months", "95 % interval", "Held against"),
            rows=tuple(
                (
                    one.name,
                    f"{one.instances:,}",
                    f"{one.error.value:.2f}",
                    f"{one.error.low:.2f} to {one.error.high:.2f}" if one.error.low is not None else "–",
                    f"{one.against}: {one.against_mae:.2f}",
                )
                for one in found
            ),
            small=tuple(one.instances < FEW for one in found),
            note="A model that leans on the chronological age fails where bone age departs from it; a "
            "student that copies its teachers is nearer to the pseudo-labels than to the truth.",
        )


def _sexes(held: HeldOut) -> Any:
    return np.array([in_words(sex) for sex in held.sexes_N.tolist()])


def _covered(row: Mapping[str, Any]) -> tuple[str, str, str]:
    bounds: Sequence[float] | None = row["covered_interval"]
    span = f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}" if bounds else "–"
    return f"{100 * row['covered']:.1f}", span, f"± {row['half_width_months']:.1f}"


def _span(interval: Interval, scale: float = 1) -> str:
    return f"{scale * interval.low:.1f} to {scale * interval.high:.1f}" if interval.is_known else ""
