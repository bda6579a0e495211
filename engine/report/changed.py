"""Two models over the same archive: what changes for which instances, before one takes the other's place.

Instances are joined by their SOP instance UID. No truth is asked: this says how far the models are apart, not
which is right. A is the model in use, B the one that would follow it; changes are B minus A of the value that
the task's answer names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from engine.errors import UsageError
from engine.evaluation.answer import Answer, Plot
from engine.report import plots
from engine.report.facts import backbone, role
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRow:
    """Changes of one group; ``percentiles`` of the absolute changes follow PERCENTILES."""

    group: str
    instances: int
    mean: float
    mean_absolute: float
    percentiles: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mover:
    """One of the largest changes, and how sure each model was."""

    uid_tail: str
    before: float
    after: float
    change: float
    doubt_before: float
    doubt_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """All of a comparison; ``moved`` counts instances by where they ended in A and in B."""

    task: Task
    unit: str
    instances: int
    rows: list[ChangeRow]
    movers: list[Mover]
    moved: list[tuple[str, str, int]]
    frame: pl.DataFrame
    """Predictions of A, those of B with the suffix ``_b``, and ``change``; the largest change first."""


def changes(a: ScoreFolder, b: ScoreFolder) -> Changes:
    """What B says otherwise than A of the instances that both planned.

    Raises:
        UsageError: the folders are of two tasks or one is of several, the task's answer has no value to
            compare, or no instance was scored by both.
    """
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
    return Changes(
        task=task,
        unit=task.answer.unit_of(value),
        instances=len(both),
        rows=_rows(both, value),
        movers=_movers(both, value, task.answer.doubt),
        moved=_moved(a, b),
        frame=both,
    )


def changed_page(folder_a: Path, folder_b: Path, again: ReadAgain | None = None) -> tuple[str, Changes]:
    """The HTML page of two score folders, and what it says; ``again`` reads images of their archive.

    Raises:
        UsageError: see ``changes``.
        TableError: a manifest or table is damaged.
    """
    a, b = read_score_folder(folder_a), read_score_folder(folder_b)
    found = changes(a, b)
    pictured = found.frame.head(NUM_PICTURED)
    images = again(a.models[0]["task"]["rule"], pictured["path"].to_list()) if again and a.models else {}
    page = render(
        "changed.html.j2",
        title=f"{folder_a.resolve().name} and {folder_b.resolve().name}",
        a=_model(folder_a, a),
        b=_model(folder_b, b),
        changes=found,
        percentiles=PERCENTILES,
        plot=_plot(found),
        pictures=_pairs(a, b, pictured, found.task, images) if images else [],
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
    """One row a UID that both scored with finite numbers, the largest change first."""
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


def _rows(both: pl.DataFrame, value: str) -> list[ChangeRow]:
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


def _row(group: str, change_N: Any) -> ChangeRow:
    absolute_N = np.abs(change_N)
    return ChangeRow(
        group=group,
        instances=len(change_N),
        mean=float(change_N.mean()),
        mean_absolute=float(absolute_N.mean()),
        percentiles=tuple(float(value) for value in np.percentile(absolute_N, PERCENTILES)),
    )


def _movers(both: pl.DataFrame, value: str, doubt: str) -> list[Mover]:
    return [
        Mover(
            uid_tail=row["sop_instance_uid"][-12:], before=row[value], after=row[f"{value}_b"],
            change=row["change"], doubt_before=row[doubt], doubt_after=row[f"{doubt}_b"],
        )
        for row in both.head(NUM_MOVERS).iter_rows(named=True)
    ]  # fmt: skip


def _moved(a: ScoreFolder, b: ScoreFolder) -> list[tuple[str, str, int]]:
    """(outcome in A, outcome in B, instances) of every pair, by path, the most frequent first."""
    outcomes = [
        pl.concat(
            [
                frame.select("path").with_columns(pl.lit(name).alias("outcome"))
                for name, frame in (
                    *(("scored", scored) for scored in folder.predictions.values()),
                    ("filtered", folder.filtered),
                    ("abstained", folder.abstained), ("quarantined", folder.quarantined),
                )
            ]
        )
        for folder in (a, b)
    ]  # fmt: skip
    joined = outcomes[0].join(outcomes[1], on="path", how="full", suffix="_b", coalesce=True)
    counts = (
        joined.fill_null("not in this folder")
        .group_by("outcome", "outcome_b")
        .agg(pl.len().alias("instances"))
    )
    ordered = counts.sort(["instances", "outcome", "outcome_b"], descending=[True, False, False])
    return [(before, after, count) for before, after, count in ordered.iter_rows()]


def _model(folder: Path, score: ScoreFolder) -> dict[str, Any]:
    facts = score.models[0] if score.models else {}
    return {
        "folder": folder.resolve().name,
        "backbone": backbone(facts),
        "role": role(facts),
        "digest": facts.get("model_sha256", ""),
        "headline": ((facts.get("evaluation") or {}).get("figures") or {}).get("headline"),
        "scored": sum(len(frame) for frame in score.predictions.values()),
        "abstained": len(score.abstained),
        "images_per_second": score.manifest["speed"].get("images_per_second"),
    }


def _plot(found: Changes) -> Markup:
    """Histogram of the changes; those beyond the 99th percentile are counted in the outermost bars."""
    change_N = found.frame["change"].to_numpy()
    limit = float(np.percentile(np.abs(change_N), _PLOTTED_PERCENT))
    words = f"B minus A, {found.unit}" if found.unit else "B minus A"
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
