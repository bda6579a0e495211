"""Composes a report: one self-contained HTML page of a score folder, or of a training run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from engine.evaluation.answer import FEW, Block, Figures, Plot
from engine.report import plots, tables
from engine.report.drift import Drift, drift
from engine.report.facts import backbone, flat_facts, main_facts, role
from engine.report.folders import (
    RunFolder,
    ScoreFolder,
    Truth,
    read_run,
    read_score_folder,
    read_truth,
    sexes_of,
)
from engine.report.page import render
from engine.report.reasons import ReasonRow, reason_rows
from engine.report.runs import comparison_of, loss_plot, model_row, validation_plot
from engine.report.tables import Evaluated
from engine.report.thumbnails import Case, Images, ReadAgain, cases, kept_cases
from engine.tasks import task_named
from engine.tasks.task import Task
from engine.training.run_folder import CASES_NAME

OUTCOMES = ("scored", "filtered", "abstained", "quarantined")
NUM_WORST, NUM_LEAST_SURE, NUM_FILES = 8, 4, 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A block of an answer as the page shows it: ``kind`` is text, grid or plot; ``markup`` is the plot's."""

    kind: str
    block: Block
    markup: Markup | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """The accuracy section; ``rows`` are blocks in rows of one or more side by side."""

    title: str
    instances: int
    patients: int
    has_split: bool
    figures: Figures
    rows: list[list[Drawn]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """Cases to look at; ``has_images`` is False where the archive could not be read again."""

    worst: list[Case]
    least_sure: list[Case]
    has_images: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPart:
    """What one model did, of one or several in a folder; ``facts`` are its bundle's, empty where unknown.

    ``mark`` ends the ids of its sections, ``suffix`` their headings; both are empty for a model alone.
    """

    title: str
    mark: str
    suffix: str
    facts: Mapping[str, Any]
    backbone: str
    role: str
    digest: str
    counts: Counts
    who: Evaluated | None
    accuracy: Accuracy | None
    values: Markup | None
    drift: Drift | None
    cases: Cases
    main_facts: list[tuple[str, Any]]
    all_facts: list[tuple[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Where every planned instance ended for one task, counted from the tables, not from the manifest."""

    planned: int
    scored: int
    filtered: int
    abstained: int
    quarantined: int
    manifest: dict[str, int]

    @property
    def balance(self) -> bool:
        """True when the tables add up and say what the manifest says."""
        outcomes = {name: getattr(self, name) for name in OUTCOMES}
        adds_up = self.planned == sum(outcomes.values())
        counted = {"planned": self.planned, **outcomes}
        return adds_up and all(self.manifest.get(name, 0) == number for name, number in counted.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejects:
    """One table of instances that were not scored: by reason, and the first files.

    A file is named by its row in the plan or, where ``has_names``, by its path in the archive.
    """

    total: int
    reasons: list[ReasonRow]
    files: list[dict[str, Any]]
    has_names: bool


def score_report(
    folder: Path,
    *,
    labels: Path | None,
    compare: Mapping[str, Path],
    images: ReadAgain | None,
    has_names: bool = False,
) -> str:
    """The page of a score folder; each of its models has sections of its own.

    Args:
        folder: what ``osteoray score`` wrote.
        labels: label table; with a split column only its held-out rows count for accuracy.
        compare: name -> run folder, for the table of models.
        images: reads images of the archive again for the case pictures; None leaves them out.
        has_names: whether the page says what files are called, which may be what patients are called.

    Raises:
        UsageError: the folder or the label table is not what it should be.
        TableError: a manifest or table is damaged.
    """
    score = read_score_folder(folder)
    parts = [_part(score, place, name, labels, images) for place, name in enumerate(score.predictions)]
    everything = pl.concat(
        [frame.select("patient_key", "model_sha256") for frame in score.predictions.values()]
        or [pl.DataFrame(schema={"patient_key": pl.String, "model_sha256": pl.String})]
    )
    return render(
        "score.html.j2",
        title=" · ".join(dict.fromkeys(part.title for part in parts)) or "Nothing scored",
        manifest=score.manifest,
        parts=parts,
        models_seen=everything["model_sha256"].n_unique(),
        patients=everything["patient_key"].n_unique(),
        planned=score.planned,
        comparison=comparison_of([read_run(path, name) for name, path in compare.items()]),
        abstained=_rejects(score.abstained, has_names),
        quarantined=_rejects(score.quarantined, has_names),
        filtered=_rejects(score.filtered, has_names),
        few=FEW,
    )


def run_report(folder: Path, *, compare: Mapping[str, Path] | None = None) -> str:
    """The page of a training run, beside other runs where ``compare`` names some.

    Raises:
        TableError: run.json, the learning curve or the evaluation table is damaged.
    """
    run = read_run(folder)
    others = [read_run(path, name) for name, path in (compare or {}).items()]
    task, held = run.task, run.held
    errors = {}
    if task and held:
        errors = dict(zip(held.uids_N.tolist(), task.answer.error(held).tolist(), strict=True))
    accuracy = _run_accuracy(run)
    evaluation = run.facts.get("evaluation") or {}
    return render(
        "run.html.j2",
        title=task.title if task else "Unnamed task",
        run=run,
        row=model_row(run),
        code_version=run.facts.get("code_version"),
        is_running=run.facts.get("status") == "running",
        accuracy=accuracy,
        fidelity=evaluation.get("fidelity"),
        value_unit=task.answer.unit_of(task.answer.value) if task else "",
        cases=kept_cases(folder / CASES_NAME, task, errors) if task else [],
        validation=validation_plot([run], "validation"),
        losses=loss_plot(run),
        comparison=comparison_of([run, *others]) if others else None,
        recipe=list(flat_facts(run.facts.get("recipe") or {})),
        data=list(flat_facts(run.facts.get("data") or {})),
        few=FEW,
    )


def _part(
    score: ScoreFolder, place: int, name: str, labels: Path | None, images: ReadAgain | None
) -> ModelPart:
    """The sections of one task's model."""
    task, frame = task_named(name), score.predictions[name]
    facts = next((one for one in score.models if one["task"]["name"] == name), {})
    who = _who(score, name, task, read_truth(labels, task.labels)) if labels else None
    mark = "" if place == 0 else f"-{place + 1}"
    accuracy = None
    if who and len(who.frame):
        figures = task.answer.figures(who.held, facts.get("calibration") or {})
        blocks = task.answer.blocks(who.held, facts.get("calibration") or {})
        accuracy = Accuracy(
            title=task.title, instances=len(who.frame), patients=who.patients, has_split=who.has_split,
            figures=figures, rows=_in_rows(blocks, f"block{mark}"),
        )  # fmt: skip
    return ModelPart(
        title=task.title,
        mark=mark,
        suffix="" if len(score.predictions) == 1 else f": {task.title}",
        facts=facts,
        backbone=backbone(facts),
        role=role(facts),
        digest=_digest(facts, frame),
        counts=_counts(score, name),
        who=who,
        accuracy=accuracy,
        values=_histogram(frame, task, mark),
        drift=drift(frame, task.answer, facts.get("calibration")),
        cases=_cases(
            score.root, frame, task, who, partial(images, facts["task"]["rule"]) if images and facts else None
        ),
        main_facts=main_facts(facts),
        all_facts=list(flat_facts(facts)),
    )


def _who(score: ScoreFolder, name: str, task: Task, truth: Truth) -> Evaluated:
    """Labels of instances that another task's model scored alone are not missing here."""
    frame = score.predictions[name]
    here = set(frame["sop_instance_uid"].to_list())
    elsewhere = {
        uid
        for other, scored in score.predictions.items()
        if other != name
        for uid in scored["sop_instance_uid"].to_list()
    } - here
    kept = truth.frame.filter(~pl.col("sop_instance_uid").is_in(list(elsewhere)))
    return tables.evaluated(frame, Truth(frame=kept, has_split=truth.has_split), task)


def _digest(facts: Mapping[str, Any], predictions: pl.DataFrame) -> str:
    """The model's digest, from its facts or else from the predictions themselves."""
    seen = predictions["model_sha256"].unique(maintain_order=True).to_list()
    return str(facts.get("model_sha256") or (seen[0] if seen else ""))


def _counts(score: ScoreFolder, name: str) -> Counts:
    """A row without a task is one of every task."""

    def ended(frame: pl.DataFrame) -> int:
        return len(frame.filter(pl.col("task").is_null() | (pl.col("task") == name)))

    stated = score.manifest["counts"]
    return Counts(
        planned=score.planned,
        scored=len(score.predictions[name]),
        filtered=ended(score.filtered),
        abstained=ended(score.abstained),
        quarantined=ended(score.quarantined),
        manifest={**stated, **stated.get("tasks", {}).get(name, {})},
    )


def _rejects(frame: pl.DataFrame, has_names: bool) -> Rejects:  # noqa: FBT001
    """Counts by reason, and files taken from the reasons in turn: a frequent one hides no rare one."""
    in_turn = frame.sort("path").with_columns(pl.int_range(pl.len()).over("reason").alias("turn"))
    first = in_turn.sort("turn", "reason").head(NUM_FILES).sort("reason", "path")
    return Rejects(
        total=len(frame),
        reasons=reason_rows(frame),
        files=first.select("path", "instance_index", "reason", "message").to_dicts(),
        has_names=has_names,
    )


def _histogram(frame: pl.DataFrame, task: Task, mark: str) -> Markup | None:
    """Scored instances by the answer's value and sex; None where there is none."""
    column = next((one for one in task.answer.columns if one.name == task.answer.value), None)
    known = tables.finite_rows(frame, task.answer)
    if column is None or known.is_empty():
        return None
    words = f"{column.meaning}, {column.unit}" if column.unit else column.meaning
    series = {"values": known[column.name].to_numpy(), "group": sexes_of(known)}
    plot = Plot(kind="histogram", title=f"Histogram: {words}, by sex", x=words, y="Images", series=series)
    return plots.draw(plot, f"values{mark}")


def _in_rows(blocks: Sequence[Block], name: str) -> list[list[Drawn]]:
    """Plots and tables that take half of the width stand side by side; all else has a row of its own."""
    rows: list[list[Drawn]] = []
    is_open = False
    for place, block in enumerate(blocks):
        markup = plots.draw(block, f"{name}-{place}") if isinstance(block, Plot) else None
        drawn = Drawn(kind=type(block).__name__.lower(), block=block, markup=markup)
        is_half = drawn.kind == "grid" or (isinstance(block, Plot) and not plots.is_wide(block))
        if is_half and is_open:
            rows[-1].append(drawn)
        else:
            rows.append([drawn])
        is_open = is_half
    return rows


def _run_accuracy(run: RunFolder) -> Accuracy | None:
    """Figures as the run recorded them, else of its table; None without held-out predictions."""
    if run.task is None or run.held is None or not len(run.held.uids_N):
        return None
    calibration = run.facts.get("calibration") or {}
    return Accuracy(
        title=run.task.title,
        instances=len(run.held.uids_N),
        patients=len(set(run.held.patients_N.tolist())),
        has_split=True,
        figures=run.figures or run.task.answer.figures(run.held, calibration),
        rows=_in_rows(run.task.answer.blocks(run.held, calibration), "block"),
    )


def _cases(
    root: Path,
    predictions: pl.DataFrame,
    task: Task,
    who: Evaluated | None,
    load: Callable[[Sequence[str]], Images] | None,
) -> Cases:
    """The worst held-out cases where truth is known, and the least sure of all."""
    least_sure = tables.least_sure(predictions, task.answer, NUM_LEAST_SURE)
    worst = predictions.head(0)
    if who is not None:
        judged = tables.worst(who, task.answer, len(who.frame))
        worst = judged.head(NUM_WORST)
        truth = judged.select("instance_index", "error", *task.label_columns)
        least_sure = least_sure.join(truth, on="instance_index", how="left", maintain_order="left")
    paths = list(dict.fromkeys([*worst["path"], *least_sure["path"]]))
    images = load(paths) if load else {}
    return Cases(
        worst=cases(root, worst, task, images),
        least_sure=cases(root, least_sure, task, images),
        has_images=load is not None,
    )
