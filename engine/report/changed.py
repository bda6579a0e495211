"""Two models over the same archive: what changes for which instances, before one takes the other's place.

Instances are joined by their SOP instance UID. No truth is asked: this says how far the models are apart, not
which is right. A is the model in use, B the one that would follow it; changes are B minus A of the value that
the task's answer names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup
from numpy.typing import NDArray

from engine.errors import UsageError
from engine.evaluation.answer import Answer, Plot
from engine.report import plots
from engine.report.facts import backbone, recorded_figures, role
from engine.report.folders import ScoreFolder, read_score_folder, sexes_of
from engine.report.page import render
from engine.report.tables import finite_rows
from engine.report.thumbnails import Case, Images, ReadAgain, cases
from engine.tasks import task_named
from engine.tasks.task import Task

NUM_MOVERS, NUM_PICTURED = 20, 6
PERCENTILES = (50, 90, 95, 99)
_PLOTTED_PERCENT = 99
_QUARTERS_FROM = 40


def changed_page(
    folder_a: Path, folder_b: Path, again: ReadAgain | None = None
) -> tuple[str, dict[str, Any]]:
    """The HTML page of two score folders, and what it says; ``again`` reads images of their archive.

    ``rows`` and ``movers`` are groups and single instances, ``moved`` counts by where A and B ended.

    Raises:
        UsageError: the folders are of two tasks or one is of several, the task's answer has no value to
            compare, or no instance was scored by both.
        TableError: a manifest or table is damaged.
    """
    a, b = read_score_folder(folder_a), read_score_folder(folder_b)
    of_a, of_b = _task(a), _task(b)
    if of_a != of_b:
        raise UsageError(f"the folders are of two tasks: {of_a} and {of_b}")
    task = task_named(of_a)
    value = task.answer.value
    if value is None:
        raise UsageError(f"the answer of {of_a} has no value that two models could be compared by")
    both = _joined(a.predictions[of_a], b.predictions[of_a], task.answer, value)
    if both.is_empty():
        raise UsageError("no instance was scored in both folders: compare scores of the same archive")
    found: dict[str, Any] = {
        "task": task,
        "unit": task.answer.unit_of(value),
        "instances": len(both),
        "rows": _rows(both, value),
        "movers": _movers(both, value, task.answer.doubt),
        "moved": _moved(a, b),
    }
    pictured = both.head(NUM_PICTURED)
    images = again(a.models[0]["task"]["rule"], pictured["path"].to_list()) if again and a.models else {}
    page = render(
        "changed.html.j2",
        title=f"{folder_a.resolve().name} and {folder_b.resolve().name}",
        a=_model(folder_a, a),
        b=_model(folder_b, b),
        changes=found,
        percentiles=PERCENTILES,
        plot=_plot(both["change"].to_numpy(), found["unit"]),
        pictures=_pairs(a, b, pictured, task, images) if images else [],
        code_version=b.manifest["code_version"],
    )
    return page, found


def _task(score: ScoreFolder) -> str:
    """The task that was scored.

    Raises:
        UsageError: several were, or none.
    """
    names = list(score.predictions)
    if len(names) > 1:
        raise UsageError(
            f"{score.root} was scored with several bundles ({', '.join(names)}): values of two tasks cannot "
            "be compared, score with one bundle each and compare those folders"
        )
    if not names:
        raise UsageError(f"{score.root} holds no score")
    return names[0]


def _joined(a: pl.DataFrame, b: pl.DataFrame, answer: Answer, value: str) -> pl.DataFrame:
    """One row a UID that both scored with finite numbers, the largest change first.

    Columns of B have the suffix ``_b``; ``change`` is B minus A.
    """
    kept = [
        finite_rows(frame, answer).unique("sop_instance_uid", keep="first", maintain_order=True)
        for frame in (a, b)
    ]
    names = ["path", "shard", "instance_index", *(column.name for column in answer.columns)]
    both = kept[0].join(
        kept[1].select("sop_instance_uid", *names), on="sop_instance_uid", how="inner", suffix="_b"
    )
    change = (pl.col(f"{value}_b").cast(pl.Float64) - pl.col(value).cast(pl.Float64)).alias("change")
    return both.with_columns(change).sort(
        pl.col("change").abs(), "sop_instance_uid", descending=[True, False], maintain_order=True
    )


def _rows(both: pl.DataFrame, value: str) -> list[dict[str, Any]]:
    """All, by sex, and by quarters of what A said where there are enough for quarters."""
    sex_N = sexes_of(both)
    change_N, value_N = both["change"].to_numpy(), both[value].to_numpy()
    groups = [("All", np.ones(len(both), bool))]
    groups += [(sex.capitalize(), sex_N == sex) for sex in ("female", "male", "not stated")]
    if len(both) >= _QUARTERS_FROM:
        for places in np.array_split(np.argsort(value_N, kind="stable"), 4):
            low, high = value_N[places[[0, -1]]]
            members_N = np.zeros(len(both), bool)
            members_N[places] = True
            groups.append((f"A said {low:.4g} to {high:.4g}", members_N))
    return [_row(name, change_N[members_N]) for name, members_N in groups if members_N.any()]


def _row(group: str, change_N: NDArray[Any]) -> dict[str, Any]:
    """Changes of one group; ``percentiles`` of the absolute changes follow PERCENTILES."""
    absolute_N = np.abs(change_N)
    return {
        "group": group,
        "instances": len(change_N),
        "mean": float(change_N.mean()),
        "mean_absolute": float(absolute_N.mean()),
        "percentiles": np.percentile(absolute_N, PERCENTILES).tolist(),
    }


def _movers(both: pl.DataFrame, value: str, doubt: str) -> list[dict[str, Any]]:
    """The largest changes, and how sure each model was."""
    names = {"before": value, "after": f"{value}_b", "doubt_before": doubt, "doubt_after": f"{doubt}_b"}
    shown = both.head(NUM_MOVERS).select(
        "change",
        pl.col("sop_instance_uid").str.tail(12).alias("uid_tail"),
        *(pl.col(column).alias(name) for name, column in names.items()),
    )
    return shown.to_dicts()


def _moved(a: ScoreFolder, b: ScoreFolder) -> list[tuple[str, str, int]]:
    """(outcome in A, outcome in B, instances) of every pair, by path, the most frequent first."""
    outcomes = [
        pl.concat(
            frame.select("path", pl.lit(name).alias("outcome"))
            for name, frame in (
                *(("scored", scored) for scored in folder.predictions.values()),
                ("filtered", folder.filtered),
                ("abstained", folder.abstained),
                ("quarantined", folder.quarantined),
            )
        )
        for folder in (a, b)
    ]
    joined = outcomes[0].join(outcomes[1], on="path", how="full", suffix="_b", coalesce=True)
    counts = (
        joined.fill_null("not in this folder")
        .group_by("outcome", "outcome_b")
        .agg(pl.len().alias("instances"))
    )
    ordered = counts.sort(["instances", "outcome", "outcome_b"], descending=[True, False, False])
    return list(ordered.iter_rows())


def _model(folder: Path, score: ScoreFolder) -> dict[str, Any]:
    facts = score.models[0] if score.models else {}
    return {
        "folder": folder.resolve().name,
        "backbone": backbone(facts),
        "role": role(facts),
        "digest": facts.get("model_sha256", ""),
        "headline": figures.headline if (figures := recorded_figures(facts)) else None,
        "scored": sum(len(frame) for frame in score.predictions.values()),
        "abstained": len(score.abstained),
        "images_per_second": score.manifest["speed"].get("images_per_second"),
    }


def _plot(change_N: NDArray[Any], unit: str) -> Markup:
    """Histogram of the changes; those beyond the 99th percentile are counted in the outermost bars."""
    limit = float(np.percentile(np.abs(change_N), _PLOTTED_PERCENT))
    words = f"B minus A, {unit}" if unit else "B minus A"
    series = {"values": np.clip(change_N, -limit, limit)}
    plot = Plot(kind="histogram", title="Changes between two models", x=words, y="Images", series=series)
    return plots.draw(plot, "changes")


def _pairs(
    a: ScoreFolder, b: ScoreFolder, pictured: pl.DataFrame, task: Task, images: Images
) -> list[tuple[Case, Case]]:
    """The same instance as each model saw it."""
    names = ["path", "shard", "instance_index", *(column.name for column in task.answer.columns)]
    of_b = pictured.select("sop_instance_uid", "patient_sex", *(pl.col(f"{n}_b").alias(n) for n in names))
    seen_by_b = {
        row["path_b"]: images[row["path"]] for row in pictured.iter_rows(named=True) if row["path"] in images
    }
    return list(zip(cases(a.root, pictured, task, images), cases(b.root, of_b, task, seen_by_b), strict=True))
