"""Composes a report: one self-contained HTML page of a score folder, or of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from engine.evaluation.agreement import BlandAltman, bland_altman
from engine.report import plots, tables
from engine.report.drift import Drift, drift
from engine.report.facts import distillation, flat_facts, main_facts
from engine.report.folders import RunFolder, ScoreFolder, read_run, read_score_folder, read_truth
from engine.report.page import render
from engine.report.reasons import ReasonRow, reason_rows
from engine.report.tables import Estimate, Evaluated
from engine.report.thumbnails import Case, LoadImage, cases, kept_cases
from engine.training.run_folder import CASES_NAME

ENDS = ("scored", "filtered", "abstained", "quarantined")
NUM_WORST, NUM_LEAST_SURE, NUM_FILES = 8, 4, 20
TITLES = {"hand-age": "Bone age of the hand", "knee-age": "Bone age of the knee"}
_LABEL = "bone_age_months"
_VALIDATION = "val/error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """The accuracy section: who counts, tables and plots."""

    who: Evaluated
    rows: list[tables.ErrorRow]
    agreement: BlandAltman
    spread: list[tables.SpreadRow]
    truth_plot: Markup
    agreement_plot: Markup
    coverage_plot: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPart:
    """What one model did, of one or several in a folder; ``facts`` are its bundle's, empty where unknown.

    ``mark`` ends the ids of its sections, ``suffix`` their headings; both are empty for a model alone.
    """

    title: str
    mark: str
    suffix: str
    facts: Mapping[str, Any]
    digest: str
    scored: int
    who: Evaluated | None
    accuracy: Accuracy | None
    ages: Markup | None
    drift: Drift | None
    looks: Looks
    main_facts: list[tuple[str, Any]]
    all_facts: list[tuple[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """Where every planned instance ended, counted from the tables, not copied from the manifest."""

    planned: int
    scored: int
    filtered: int
    abstained: int
    quarantined: int
    manifest: dict[str, int]

    @property
    def balance(self) -> bool:
        """True when the tables add up and say what the manifest says."""
        ends = {name: getattr(self, name) for name in ENDS}
        adds_up = self.planned == sum(ends.values())
        counted = {"planned": self.planned, **ends}
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """One run in the table of models; ``within_12`` and ``mae`` are on its own held-out instances."""

    name: str
    role: str
    backbone: str
    parameters: int | None
    distillation: str
    instances: int
    mae: Estimate | None
    within_12: Estimate | None
    images_per_second: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Runs beside each other; ``curves`` is None where no run kept a validation curve."""

    models: list[ModelRow]
    pairs: list[tables.PairedRow]
    level: float
    curves: Markup | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """Cases to look at; ``has_images`` is False where the archive could not be read again."""

    worst: list[Case]
    least_sure: list[Case]
    has_images: bool


def score_report(
    folder: Path,
    *,
    labels: Path | None,
    compare: Mapping[str, Path],
    load_image: LoadImage | None,
    has_names: bool = False,
) -> str:
    """The page of a score folder; each of its models has sections of its own.

    Args:
        folder: what ``osteoray score`` wrote.
        labels: label table; with a split column only its held-out rows count for accuracy.
        compare: name -> run folder, for the table of models.
        load_image: reads an image of the archive again for the case pictures; None leaves them out.
        has_names: whether the page says what files are called, which may be what patients are called.

    Raises:
        UsageError: the folder or the label table is not what it should be.
        TableError: a manifest or table is damaged.
    """
    score = read_score_folder(folder)
    parts = [_part(score, place, labels, load_image) for place in range(max(len(score.models), 1))]
    return render(
        "score.html.j2",
        title=" · ".join(dict.fromkeys(part.title for part in parts)),
        manifest=score.manifest,
        parts=parts,
        models_seen=score.predictions["model_sha256"].n_unique(),
        patients=score.predictions["patient"].n_unique(),
        books=_books(score),
        comparison=_comparison([read_run(path, name) for name, path in compare.items()]),
        abstained=_rejects(score.abstained, has_names),
        quarantined=_rejects(score.quarantined, has_names),
        filtered=_rejects(score.filtered, has_names),
        few=tables.FEW,
    )


def run_report(folder: Path, *, compare: Mapping[str, Path] | None = None) -> str:
    """The page of a training run, beside other runs where ``compare`` names some.

    Raises:
        TableError: run.json, the learning curve or the evaluation table is damaged.
    """
    run = read_run(folder)
    others = [read_run(path, name) for name, path in (compare or {}).items()]
    who = tables.evaluated_run(run.evaluation)
    return render(
        "run.html.j2",
        title=_title(run.facts.get("task")),
        run=run,
        row=_model_row(run),
        code_version=run.facts.get("code_version"),
        is_running=run.facts.get("status") == "running",
        accuracy=_accuracy(who) if len(who.frame) else None,
        evaluation=run.facts.get("evaluation") or {},
        calibration=run.facts.get("calibration"),
        cases=kept_cases(folder / CASES_NAME),
        validation=_validation_plot([run], "validation"),
        losses=_loss_plot(run),
        comparison=_comparison([run, *others]) if others else None,
        recipe=list(flat_facts(run.facts.get("recipe") or {})),
        data=list(flat_facts(run.facts.get("data") or {})),
        few=tables.FEW,
    )


def _title(task: str | None) -> str:
    return TITLES.get(task or "", task or "Unnamed task")


def _part(score: ScoreFolder, place: int, labels: Path | None, load_image: LoadImage | None) -> ModelPart:
    """The sections of one model; where the manifest names one or none, of all that was scored."""
    facts = score.models[place] if score.models else {}
    flat = dict(flat_facts(facts))
    title = _title(flat.get("task.name"))
    is_alone = len(score.models) <= 1
    frame = score.predictions if is_alone else score.predictions.filter(model_sha256=facts["model_sha256"])
    who = None
    if labels:
        truth = read_truth(labels, str(flat.get("task.label", _LABEL)))
        elsewhere = score.predictions.join(frame, on="sop_instance_uid", how="anti")
        of_this = truth.frame.join(elsewhere, on="sop_instance_uid", how="anti", maintain_order="left")
        who = tables.evaluated(frame, replace(truth, frame=of_this))
    mark = "" if place == 0 else f"-{place + 1}"
    return ModelPart(
        title=title,
        mark=mark,
        suffix="" if is_alone else f": {title}",
        facts=facts,
        digest=_digest(facts, frame),
        scored=len(frame),
        who=who,
        accuracy=_accuracy(who) if who and len(who.frame) else None,
        ages=plots.age_plot(frame, mark) if len(frame) else None,
        drift=drift(frame, facts.get("calibration")),
        looks=_looks(score.root, frame, who, load_image),
        main_facts=main_facts(facts),
        all_facts=list(flat.items()),
    )


def _digest(facts: Mapping[str, Any], predictions: pl.DataFrame) -> str:
    """The model's digest, from its facts or else from the predictions themselves."""
    seen = predictions["model_sha256"].unique(maintain_order=True).to_list()
    return str(facts.get("model_sha256") or (seen[0] if seen else ""))


def _books(score: ScoreFolder) -> Books:
    """Of several models each planned instance counts once for each; a row without a task is one of every."""
    tasks = max(len(score.models), 1)

    def ended(frame: pl.DataFrame) -> int:
        return len(frame) + (tasks - 1) * int(frame["task"].null_count())

    stated = score.manifest["counts"]
    if "tasks" in stated:
        of_tasks = stated["tasks"].values()
        sums = {name: sum(of_one.get(name, 0) for of_one in of_tasks) for name in ENDS}
        stated = {"planned": stated["planned"] * len(of_tasks), **sums}
    return Books(
        planned=score.planned * tasks,
        scored=len(score.predictions),
        filtered=ended(score.filtered),
        abstained=len(score.abstained),
        quarantined=ended(score.quarantined),
        manifest=stated,
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


def _accuracy(who: Evaluated) -> Accuracy:
    frame = who.frame
    agreement = bland_altman(frame["predicted"].to_numpy(), frame["truth"].to_numpy())
    return Accuracy(
        who=who,
        rows=tables.error_rows(frame),
        agreement=agreement,
        spread=tables.spread_rows(frame),
        truth_plot=plots.truth_plot(frame),
        agreement_plot=plots.bland_altman_plot(frame, agreement),
        coverage_plot=plots.coverage_plot(frame),
    )


def _looks(
    root: Path, predictions: pl.DataFrame, who: Evaluated | None, load_image: LoadImage | None
) -> Looks:
    """The worst held-out cases where truth is known, and the least sure of all."""
    least_sure = tables.least_sure(predictions, NUM_LEAST_SURE)
    worst = predictions.head(0)
    if who is not None:
        worst = tables.worst(who.frame, NUM_WORST)
        truth = who.frame.select("instance_index", "truth")
        least_sure = least_sure.join(truth, on="instance_index", how="left", maintain_order="left")
    return Looks(
        worst=cases(root, worst, load_image),
        least_sure=cases(root, least_sure, load_image),
        has_images=load_image is not None,
    )


def _comparison(runs: list[RunFolder]) -> Comparison | None:
    if not runs:
        return None
    return Comparison(
        models=[_model_row(run) for run in runs],
        pairs=tables.paired_rows(runs),
        level=tables.LEVEL,
        curves=_validation_plot(runs, "compared"),
    )


def _model_row(run: RunFolder) -> ModelRow:
    facts = run.facts
    frame = tables.evaluated_run(run.evaluation).frame
    overall = tables.error_rows(frame)[0] if len(frame) else None
    return ModelRow(
        name=run.name,
        role=str(facts.get("role") or "model"),
        backbone=str(facts.get("backbone") or "unnamed"),
        parameters=facts.get("parameters"),
        distillation=distillation(facts),
        instances=len(frame),
        mae=overall.mae if overall else None,
        within_12=overall.within[tables.WITHIN_MONTHS.index(12)] if overall else None,
        images_per_second=(facts.get("speed") or {}).get("images_per_second_eager"),
    )


def _validation_plot(runs: list[RunFolder], name: str) -> Markup | None:
    curves = {run.name: plots.finite_curve(run.epochs, _VALIDATION) for run in runs}
    drawn = {label: curve for label, curve in curves.items() if curve[0]}
    return plots.curve_plot(drawn, name, unit="Validation MAE, months") if drawn else None


def _loss_plot(run: RunFolder) -> Markup | None:
    """Training loss and each weighted term, on a logarithmic axis; values that are not positive fall out."""
    keys = dict.fromkeys(key for row in run.epochs for key in row)
    shown = [
        key for key in keys if key == "train/loss" or (key.startswith("term/") and key.endswith("/weighted"))
    ]
    drawn = {}
    for key in shown:
        epochs, values = plots.finite_curve(run.epochs, key)
        points = [(e, v) for e, v in zip(epochs, values, strict=True) if v > 0]
        if points:
            drawn[key.removesuffix("/weighted")] = ([e for e, _ in points], [v for _, v in points])
    return plots.curve_plot(drawn, "losses", unit="Loss (logarithmic)", log=True) if drawn else None
