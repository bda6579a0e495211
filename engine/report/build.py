"""Composes a report: one self-contained HTML page of a score folder, or of a training run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from engine.errors import UsageError
from engine.evaluation import caveats
from engine.evaluation.answer import FEW, Block, Figures, Grid, Plot
from engine.evaluation.held_out import HeldOut
from engine.report import plots, tables
from engine.report.drift import drift
from engine.report.facts import backbone, flat_facts, main_facts, recorded_figures, role
from engine.report.folders import ScoreFolder, Truth, read_run, read_score_folder, read_truth, sexes_of
from engine.report.page import render
from engine.report.reasons import reason_rows
from engine.report.runs import comparison_of, loss_plot, model_row, validation_plot
from engine.report.tables import Evaluated
from engine.report.thumbnails import Images, ReadAgain, cases, kept_cases
from engine.store.csv_rows import read_rows
from engine.tasks import task_named
from engine.tasks.task import Task
from engine.training.run_folder import CASES_NAME

NUM_WORST, NUM_LEAST_SURE, NUM_FILES = 8, 4, 20


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
    if labels:
        _require_known(score, labels)
    parts = [_part(score, place, labels, images) for place in range(len(score.predictions))]
    everything = pl.concat(
        [frame.select("patient_key", "model_sha256") for frame in score.predictions.values()]
        or [pl.DataFrame(schema={"patient_key": pl.String, "model_sha256": pl.String})]
    )
    return render(
        "score.html.j2",
        title=" · ".join(dict.fromkeys(part["title"] for part in parts)) or "Nothing scored",
        manifest=score.manifest,
        caveats=caveats.of_scores(score.manifest),
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


def _require_known(score: ScoreFolder, labels: Path) -> None:
    """Refuse labels of another archive.

    Raises:
        UsageError: instances were scored, and the table names none of them.
    """
    scored = {uid for frame in score.predictions.values() for uid in frame["sop_instance_uid"].to_list()}
    if scored and scored.isdisjoint(read_rows(labels, "label table").uids()):
        raise UsageError(
            f"the label table {labels} names none of the {len(scored)} scored instances: are its UIDs those "
            "of this archive?"
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
    accuracy = None
    if task and held:
        calibration = run.facts.get("calibration") or {}
        accuracy = _accuracy(task, held, calibration, "block", recorded=recorded_figures(run.facts))
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


def _part(score: ScoreFolder, place: int, labels: Path | None, images: ReadAgain | None) -> dict[str, Any]:
    """The sections of one task's model.

    ``mark`` ends the ids of its sections, ``suffix`` their headings; both are empty for a model alone.
    """
    name, frame = list(score.predictions.items())[place]
    task, mark = task_named(name), "" if place == 0 else f"-{place + 1}"
    facts = next((one for one in score.models if one["task"]["name"] == name), {})
    who = _who(score, name, task, read_truth(labels, task.labels)) if labels else None
    calibration = facts.get("calibration") or {}
    accuracy = (
        _accuracy(task, who.held, calibration, f"block{mark}", has_split=who.has_split) if who else None
    )
    digests = frame["model_sha256"].unique(maintain_order=True).to_list()
    return {
        "title": task.title,
        "mark": mark,
        "suffix": "" if len(score.predictions) == 1 else f": {task.title}",
        "backbone": backbone(facts),
        "role": role(facts),
        "digest": str(facts.get("model_sha256") or (digests[0] if digests else "")),
        "counts": _counts(score, name),
        "who": who,
        "accuracy": accuracy,
        "histogram": _histogram(frame, task, mark),
        "drift": drift(frame, task.answer, calibration),
        "cases": _cases(
            score.root, frame, task, who, partial(images, facts["task"]["rule"]) if images and facts else None
        ),
        "main_facts": main_facts(facts),
        "all_facts": list(flat_facts(facts)),
    }


def _accuracy(
    task: Task,
    held: HeldOut,
    calibration: Mapping[str, Any],
    name: str,
    *,
    has_split: bool = True,
    recorded: Figures | None = None,
) -> dict[str, Any] | None:
    """The accuracy section, with the figures of the table unless some were recorded; None of no instances.

    ``rows`` are blocks in rows of one or more side by side; ``name`` begins their ids.
    """
    if not len(held.uids_N):
        return None
    return {
        "instances": len(held.uids_N),
        "patients": len(set(held.patients_N.tolist())),
        "has_split": has_split,
        "figures": recorded or task.answer.figures(held, calibration),
        "rows": _in_rows(task.answer.blocks(held, calibration), name),
    }


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


def _counts(score: ScoreFolder, name: str) -> dict[str, Any]:
    """Where every planned instance ended for one task, by the tables and by the manifest.

    A row without a task is one of every task.
    """

    def ended(frame: pl.DataFrame) -> int:
        return len(frame.filter(pl.col("task").is_null() | (pl.col("task") == name)))

    ends = {
        "scored": len(score.predictions[name]),
        "filtered": ended(score.filtered),
        "abstained": ended(score.abstained),
        "quarantined": ended(score.quarantined),
        "grouped": ended(score.grouped),
    }
    stated = score.manifest["counts"]
    stated = {**stated, **stated.get("tasks", {}).get(name, {})}
    counted = {"planned": score.planned, **ends}
    balance = counted["planned"] == sum(ends.values()) and all(
        stated.get(name, 0) == number for name, number in counted.items()
    )
    return {**counted, "manifest": stated, "balance": balance}


def _rejects(frame: pl.DataFrame, has_names: bool) -> dict[str, Any]:  # noqa: FBT001
    """Counts by reason, and files taken from the reasons in turn: a frequent one hides no rare one.

    A file is named by its row in the plan or, where ``has_names``, by its path in the archive.
    """
    in_turn = frame.sort("path").with_columns(pl.int_range(pl.len()).over("reason").alias("turn"))
    first = in_turn.sort("turn", "reason").head(NUM_FILES).sort("reason", "path")
    files = first.select("path", "instance_index", "reason", "message").to_dicts()
    return {"total": len(frame), "reasons": reason_rows(frame), "files": files, "has_names": has_names}


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


def _in_rows(blocks: Sequence[Block], name: str) -> list[list[dict[str, Any]]]:
    """Plots and tables that take half of the width stand side by side; all else has a row of its own."""
    rows: list[list[dict[str, Any]]] = []
    is_open = False
    for place, block in enumerate(blocks):
        markup = plots.draw(block, f"{name}-{place}") if isinstance(block, Plot) else None
        is_half = isinstance(block, Grid) or (isinstance(block, Plot) and not plots.is_wide(block))
        if not (is_half and is_open):
            rows.append([])
        rows[-1].append({"kind": type(block).__name__.lower(), "block": block, "markup": markup})
        is_open = is_half
    return rows


def _cases(
    root: Path,
    predictions: pl.DataFrame,
    task: Task,
    who: Evaluated | None,
    load: Callable[[Sequence[str]], Images] | None,
) -> dict[str, Any]:
    """The worst held-out cases where truth is known, and the least sure of all.

    ``has_images`` is False where the archive could not be read again.
    """
    doubt = task.answer.doubt
    doubted = tables.finite_rows(predictions, task.answer).sort(doubt, descending=True, maintain_order=True)
    least_sure = doubted.head(NUM_LEAST_SURE)
    worst = predictions.head(0)
    if who is not None:
        errors = pl.Series("error", task.answer.error(who.held), pl.Float64)
        judged = who.frame.with_columns(errors).sort("error", descending=True, maintain_order=True)
        worst = judged.head(NUM_WORST)
        truth = judged.select("instance_index", "error", *task.label_columns)
        least_sure = least_sure.join(truth, on="instance_index", how="left", maintain_order="left")
    paths = list(dict.fromkeys([*worst["path"], *least_sure["path"]]))
    images = load(paths) if load else {}
    shown = {"worst": cases(root, worst, task, images), "least_sure": cases(root, least_sure, task, images)}
    return {**shown, "has_images": load is not None}
