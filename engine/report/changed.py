"""Two models over the same archive: what changes for which instances, before one takes the other's place.

Instances are joined by their SOP instance UID. No truth is asked: this says how far the models are apart, not
which is right. A is the model in use, B the one that would follow it; changes are B minus A in months.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from engine.errors import UsageError
from engine.report import plots
from engine.report.folders import SEXES, ScoreFolder, read_score_folder
from engine.report.page import render
from engine.report.thumbnails import Case, LoadImage, cases

BEYOND_MONTHS = (6, 12, 24)
NUM_MOVERS, NUM_PICTURED = 20, 6
_PLOTTED_MONTHS = 40.0
_BANDS_MONTHS = ((0, 60), (60, 120), (120, 180), (180, 1200))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRow:
    """Changes of one group, months; ``beyond`` follows BEYOND_MONTHS."""

    group: str
    instances: int
    mean: float
    mean_absolute: float
    p95_absolute: float
    beyond: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mover:
    """One of the largest changes; the pictures show where each model looked."""

    uid_tail: str
    before: float
    after: float
    change: float
    sd_before: float
    sd_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """All of a comparison; ``moved`` counts instances by where they ended in A and in B."""

    instances: int
    rows: list[ChangeRow]
    movers: list[Mover]
    moved: list[tuple[str, str, int]]
    frame: pl.DataFrame


def changes(a: ScoreFolder, b: ScoreFolder) -> Changes:
    """What B says otherwise than A of the instances that both planned.

    Raises:
        UsageError: the folders are of two tasks or one is of several, or no instance was scored by both.
    """
    of_a, of_b = _task(a), _task(b)
    if of_a != of_b:
        raise UsageError(f"the folders are of two tasks: {of_a} and {of_b}")
    both = _joined(a.predictions, b.predictions)
    if both.is_empty():
        raise UsageError("no instance was scored in both folders: compare scores of the same archive")
    return Changes(
        instances=len(both), rows=_rows(both), movers=_movers(both), moved=_moved(a, b), frame=both
    )


def changed_page(folder_a: Path, folder_b: Path, load_image: LoadImage | None = None) -> tuple[str, Changes]:
    """The HTML page of two score folders, and what it says.

    Raises:
        UsageError: see ``changes``.
        TableError: a manifest or table is damaged.
    """
    a, b = read_score_folder(folder_a), read_score_folder(folder_b)
    found = changes(a, b)
    pictured = found.frame.head(NUM_PICTURED)
    page = render(
        "changed.html.j2",
        title=f"{folder_a.resolve().name} and {folder_b.resolve().name}",
        a=_model(folder_a, a),
        b=_model(folder_b, b),
        changes=found,
        beyond=BEYOND_MONTHS,
        plot=_plot(found.frame),
        pictures=_pairs(a, b, pictured, load_image) if load_image else [],
        code_version=b.manifest["code_version"],
    )
    return page, found


def _task(score: ScoreFolder) -> str | None:
    """The task that was scored; None where the manifest does not say it.

    Raises:
        UsageError: several were.
    """
    names = [facts["task"]["name"] for facts in score.models]
    if len(names) > 1:
        raise UsageError(
            f"{score.root} was scored with several bundles ({', '.join(names)}): months of two tasks cannot "
            "be compared, score with one bundle each and compare those folders"
        )
    return names[0] if names else None


def _joined(a: pl.DataFrame, b: pl.DataFrame) -> pl.DataFrame:
    """One row a UID that both scored with finite numbers, the largest change first."""
    kept = [
        frame.filter(pl.col("predicted").is_finite()).unique(
            "sop_instance_uid", keep="first", maintain_order=True
        )
        for frame in (a, b)
    ]
    columns = ["sop_instance_uid", "predicted", "sd", "path", "shard", "instance_index"]
    both = kept[0].join(kept[1].select(columns), on="sop_instance_uid", how="inner", suffix="_b")
    change = (pl.col("predicted_b") - pl.col("predicted")).alias("change")
    return both.with_columns(change).sort(
        pl.col("change").abs(), "sop_instance_uid", descending=[True, False], maintain_order=True
    )


def _rows(both: pl.DataFrame) -> list[ChangeRow]:
    groups = [("All", both), *((sex.capitalize(), both.filter(sex=sex)) for sex in SEXES)]
    for low, high in _BANDS_MONTHS:
        name = (
            f"A said {low // 12} to under {high // 12} years"
            if high < _BANDS_MONTHS[-1][1]
            else "A said 15 and over"
        )
        groups.append((name, both.filter((pl.col("predicted") >= low) & (pl.col("predicted") < high))))
    return [_row(name, frame["change"].to_numpy()) for name, frame in groups if len(frame)]


def _row(group: str, change_N: Any) -> ChangeRow:
    absolute_N = np.abs(change_N)
    return ChangeRow(
        group=group,
        instances=len(change_N),
        mean=float(change_N.mean()),
        mean_absolute=float(absolute_N.mean()),
        p95_absolute=float(np.percentile(absolute_N, 95)),
        beyond=tuple(float((absolute_N > months).mean()) for months in BEYOND_MONTHS),
    )


def _movers(both: pl.DataFrame) -> list[Mover]:
    return [
        Mover(
            uid_tail=row["sop_instance_uid"][-12:], before=row["predicted"], after=row["predicted_b"],
            change=row["change"], sd_before=row["sd"], sd_after=row["sd_b"],
        )
        for row in both.head(NUM_MOVERS).iter_rows(named=True)
    ]  # fmt: skip


def _moved(a: ScoreFolder, b: ScoreFolder) -> list[tuple[str, str, int]]:
    """(end in A, end in B, instances) of every pair, by path in the archive, the most frequent first."""
    ends = [
        pl.concat(
            [
                frame.select("path").with_columns(pl.lit(name).alias("end"))
                for name, frame in (
                    ("scored", folder.predictions), ("filtered", folder.filtered),
                    ("abstained", folder.abstained), ("quarantined", folder.quarantined),
                )
            ]
        )
        for folder in (a, b)
    ]  # fmt: skip
    joined = ends[0].join(ends[1], on="path", how="full", suffix="_b", coalesce=True)
    counts = joined.fill_null("not in this folder").group_by("end", "end_b").agg(pl.len().alias("instances"))
    ordered = counts.sort(["instances", "end", "end_b"], descending=[True, False, False])
    return [(before, after, count) for before, after, count in ordered.iter_rows()]


def _model(folder: Path, score: ScoreFolder) -> dict[str, Any]:
    facts = score.models[0] if score.models else {}
    return {
        "folder": folder.resolve().name,
        "backbone": facts.get("backbone", "unnamed"),
        "role": facts.get("role", "model"),
        "digest": facts.get("model_sha256", ""),
        "mae": (facts.get("evaluation") or {}).get("mae_months"),
        "scored": len(score.predictions),
        "abstained": len(score.abstained),
        "images_per_second": score.manifest["speed"].get("images_per_second"),
    }


def _plot(both: pl.DataFrame) -> Markup:
    return plots.change_plot(both["change"].to_numpy(), _PLOTTED_MONTHS)


def _pairs(
    a: ScoreFolder, b: ScoreFolder, pictured: pl.DataFrame, load_image: LoadImage
) -> list[tuple[Case, Case]]:
    """The same instance as each model saw it."""
    of_b = pictured.select(
        "sop_instance_uid", "sex",
        predicted="predicted_b", sd="sd_b", path="path_b", shard="shard_b", instance_index="instance_index_b",
    )  # fmt: skip
    return list(zip(cases(a.root, pictured, load_image), cases(b.root, of_b, load_image), strict=True))
