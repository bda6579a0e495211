"""``osteoray compare``: two runs on the same held-out instances, as JSON and one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from engine.errors import UsageError
from engine.store.files import code_version, write_json
from jobs.console import finish
from jobs.report import archive_images, write_page

if TYPE_CHECKING:
    from engine.evaluation.held_out import HeldOut

FACTS_NAME, PAGE_NAME = "comparison.json", "comparison.html"


def compare(
    run_a: Annotated[
        Path,
        typer.Argument(exists=True, help="Run that may be better; or the scores of the model in use."),
    ],
    run_b: Annotated[
        Path,
        typer.Argument(
            exists=True, help="Run to compare with; or the scores of the new model on the same archive."
        ),
    ],
    out: Annotated[Path, typer.Option(help=f"Folder for {FACTS_NAME} and {PAGE_NAME}.")],
    teacher: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="Run of the teacher: adds fidelity, and how much of the gap to the teacher is closed.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON, for scripts.")] = False,
) -> None:
    """Say whether RUN_A is better than RUN_B on the instances that both held out.

    Patients are resampled with all their instances, and pairs stay together. Below zero, RUN_A is better.
    Of two score folders it says which instances would get another value, and how far (no truth is asked).
    """
    from engine.report.folders import is_run

    if not is_run(run_a) and not is_run(run_b):
        _compare_scores(run_a, run_b, out, as_json=json)
    from engine.report.compared import comparison_page

    facts = compared(run_a, run_b, teacher)
    write_json(out / FACTS_NAME, facts)
    title = f"{facts['a']['name']} against {facts['b']['name']}"
    write_page(comparison_page(facts, title=title), out / PAGE_NAME)
    overall, taught = facts["differences"][0], facts["teacher"]
    summary: dict[str, object] = {
        "report": str(out / PAGE_NAME),
        "instances": facts["instances"],
        "unit": facts["unit"],
        "error_a": round(overall["error_a"], 3),
        "error_b": round(overall["error_b"], 3),
        "difference": round(overall["difference"], 3),
        "interval_95": _bounds(overall["interval"]),
        "p_holm": overall["p_holm"],
    }
    if taught:
        summary |= {
            "error_teacher": round(taught["error"], 3),
            "gap_closed": taught["gap_closed"],
            "gap_closed_interval_95": _bounds(taught["gap_closed_interval"]),
        }
        if taught["fidelity"]:
            summary |= {f"fidelity_{one}": round(taught["fidelity"][one]["mean"], 3) for one in "ab"}
    finish("compare", summary, as_json=json)


def _compare_scores(scores_a: Path, scores_b: Path, out: Path, *, as_json: bool) -> NoReturn:
    """The page of two score folders, with pictures where the archive can still be read."""
    from engine.report.changed import PERCENTILES, changed_page

    with archive_images(scores_a) as again:
        page, changes = changed_page(scores_a, scores_b, again)
    write_page(page, out / PAGE_NAME)
    overall = changes["rows"][0]
    facts: dict[str, Any] = {
        "instances": overall["instances"],
        "unit": changes["unit"],
        "mean_change": round(overall["mean"], 3),
        "mean_absolute": round(overall["mean_absolute"], 3),
        "p95_absolute": round(overall["percentiles"][PERCENTILES.index(95)], 3),
        "outcomes": [
            {"a": before, "b": after, "instances": count} for before, after, count in changes["moved"]
        ],
    }
    write_json(out / FACTS_NAME, {**facts, "code_version": code_version()})
    shown = {name: fact for name, fact in facts.items() if name != "outcomes"}
    finish("compare", {"report": str(out / PAGE_NAME), **shown}, as_json=as_json)


def compared(run_a: Path, run_b: Path, teacher: Path | None) -> dict[str, Any]:
    """Facts of a comparison of finished runs, as ``comparison.json`` holds them.

    Raises:
        TrainingError: a run has not finished.
        UsageError: the runs are of two tasks.
        TableError: the runs hold no instance in common, or contradict each other.
    """
    from engine.evaluation.comparison import compare as compare_tables
    from engine.evaluation.held_out import read_held_out
    from engine.tasks import task_named
    from engine.training.run_folder import EVALUATION_NAME, read_run

    runs = [run_a, run_b, *([teacher] if teacher else [])]
    facts = [read_run(run) for run in runs]
    names = {fact["task"] for fact in facts}
    if len(names) > 1:
        raise UsageError(f"the runs are of several tasks: {', '.join(sorted(names))}")
    answer = task_named(names.pop()).answer
    tables = [read_held_out(run / EVALUATION_NAME) for run in runs]
    named = [_network(run, fact) for run, fact in zip(runs, facts, strict=True)]
    return {
        "a": named[0],
        "b": named[1],
        "taught_by": named[2] if teacher else None,
        "same_split": _hold_out_the_same(facts, tables),
        **compare_tables(answer, tables[0], tables[1], tables[2] if teacher else None),
        "value_unit": answer.unit_of(answer.value),
        "code_version": code_version(),
    }


def _network(run: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    recipe = facts["recipe"]
    return {
        "name": run.resolve().name,
        "role": recipe["role"],
        "backbone": facts["model"]["backbone"],
        "distill": ", ".join(f"{k} ({v:g})" for k, v in recipe["distill"].items()) or "none",
        "parameters_millions": facts["parameters"] / 1e6,
        "gigaflops": facts["gigaflops"],
        "images_per_second": facts["speed"]["images_per_second_eager"],
    }


def _hold_out_the_same(facts: Sequence[Mapping[str, Any]], tables: Sequence[HeldOut]) -> bool:
    """Whether one archive was divided in one way, so that no run was trained on what another holds out."""
    archives = {fact["data"]["plan_sha256"] for fact in facts}
    tests = {frozenset(table.uids_N.tolist()) for table in tables}
    return len(archives) == len(tests) == 1


def _bounds(interval: list[float] | None) -> str:
    return f"{interval[0]:.3f}..{interval[1]:.3f}" if interval else "none"
