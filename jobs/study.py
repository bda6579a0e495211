"""``osteoray study``: the whole chain of a task and its ablations, step by step, to one table."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.errors import UnknownNameError, UsageError
from engine.store.files import write_json
from engine.training.run_folder import read_run
from jobs.__main__ import main
from jobs.console import finish, progress
from jobs.report import write_page
from jobs.studies import STUDIES, Row, Study, View

_FINE = (0, 3)
"""Exit codes after which a study goes on: done, and done with quarantined rows."""


def study(
    name: Annotated[str, typer.Argument(help=f"Study: {', '.join(STUDIES)}.")],
    archive: Annotated[
        Path, typer.Option(exists=True, help="Archive of DICOM files, as for `osteoray ingest`.")
    ],
    labels: Annotated[Path, typer.Option(exists=True, help="Label table, as for `osteoray ingest`.")],
    out: Annotated[Path, typer.Option(help="Folder of the study; the same command again goes on.")],
    size: Annotated[int, typer.Option(min=32, max=4096, help="Side of every view in pixels.")] = 112,
    workers: Annotated[
        int, typer.Option(min=1, max=1024, help="Ray Train workers; on GPUs one per GPU.")
    ] = 2,
    gpu: Annotated[bool, typer.Option("--gpu", help="Give each worker a GPU.")] = False,
    together: Annotated[
        bool, typer.Option("--together", help="Find regions over all images, as `osteoray regions` does.")
    ] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a field of every recipe, e.g. epochs=2.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Rows of the table; may be repeated. Default: all.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON, for scripts.")] = False,
) -> None:
    """Train what a study of a task compares, step by step, down to one table.

    Every step is a verb of its own with its own folder below --out, so what is done is not done again. The
    table is OUT/study.json, and OUT/study.html with learning curves.
    """
    if name not in STUDIES:
        raise UnknownNameError("study", name, STUDIES)
    chosen = STUDIES[name]
    rows = _chosen(chosen, only)
    place = _Place(
        archive=archive, labels=labels, out=out, size=size, workers=workers, gpu=gpu, together=together,
        changes=tuple(set_ or []),
    )  # fmt: skip
    steps = list(_steps(chosen, rows, place))
    with progress("study", "steps") as report:
        report(0, len(steps))
        for done, words in enumerate(steps, start=1):
            _run(words)
            report(done, len(steps))
    table = [_table_row(row, out / "runs" / row.folder) for row in rows]
    write_json(out / "study.json", {"study": name, "size": size, "rows": table})
    _write_page(rows, out)
    key = table[0]["headline"]["key"]
    errors = {row["name"]: round(row["headline"]["value"], 2) for row in table}
    finish("study", {"out": str(out), "rows": len(table), key: errors}, as_json=json)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    archive: Path
    labels: Path
    out: Path
    size: int
    workers: int
    gpu: bool
    together: bool
    changes: tuple[str, ...]

    def boxes(self, view: str) -> Path:
        """Table of the boxes that the network of ``view`` found."""
        return self.out / f"boxes-{view}.parquet"


def _chosen(study: Study, only: list[str] | None) -> list[Row]:
    known = {row.name: row for row in study.rows}
    for name in only or []:
        if name not in known:
            raise UnknownNameError("row", name, known)
    return [row for row in study.rows if not only or row.name in only]


def _steps(study: Study, rows: list[Row], place: _Place) -> Iterator[list[str]]:
    """The command lines, in order: views with the networks that find them, joins, the teacher, the rows."""
    is_taught = any(row.is_taught for row in rows)
    needed = [*rows, *([study.row(study.teacher)] if is_taught else [])]
    wanted = {view for row in needed for view in row.views.split("+")}
    for view in reversed(study.views):  # what finds a view stands before it
        wanted |= {view.found_by} if view.name in wanted and view.found_by else set()
    found: set[str] = set()
    for view in study.views:
        if view.name not in wanted and view.found_by:
            continue
        if view.found_by and view.found_by not in found:
            found.add(view.found_by)
            yield _train(study.row(view.found_by), place)
            yield _regions(view.found_by, place)
        yield _ingest(study, view, place)
    joins = {row.views for row in needed if "+" in row.views}
    for views in sorted(joins, key=[row.views for row in study.rows].index):
        folders = [f"{place.out / 'data' / view}" for view in views.split("+")]
        yield ["join", *folders, "--out", f"{place.out / 'data' / views}"]
    if is_taught:
        teacher = study.row(study.teacher)
        yield _train(teacher, place)
        yield [
            "record-teacher", f"{place.out / 'runs' / teacher.folder}", "--data",
            f"{place.out / 'data' / teacher.views}", "--out", f"{place.out / 'taught'}", *_on_gpu(place),
        ]  # fmt: skip
    yield from (_train(row, place) for row in rows)


def _ingest(study: Study, view: View, place: _Place) -> list[str]:
    crop = ["--crop", f"{place.boxes(view.found_by)}", "--region", view.region] if view.found_by else []
    return [
        "ingest", f"{place.archive}", "--task", study.task, "--labels", f"{place.labels}",
        "--size", f"{place.size}", "--out", f"{place.out / 'data' / view.name}", *crop,
    ]  # fmt: skip


def _regions(view: str, place: _Place) -> list[str]:
    together = ["--together"] if place.together else []
    return [
        "regions", f"{place.out / 'runs' / view}", "--data", f"{place.out / 'data' / view}", *together,
        "--out", f"{place.boxes(view)}",
    ]  # fmt: skip


def _on_gpu(place: _Place) -> list[str]:
    return ["--gpu"] if place.gpu else []


def _train(row: Row, place: _Place) -> list[str]:
    changes = [word for change in (*place.changes, *row.changes) for word in ("--set", change)]
    teacher = ["--teacher", f"{place.out / 'taught'}"] if row.is_taught else []
    return [
        "train", row.recipe, "--data", f"{place.out / 'data' / row.views}",
        "--out", f"{place.out / 'runs' / row.folder}", "--workers", f"{place.workers}", *_on_gpu(place),
        *teacher, *changes,
    ]  # fmt: skip


def _run(words: list[str]) -> None:
    """One verb in this process; its summary is not shown, its errors are ours.

    Raises:
        UsageError: the verb ended otherwise than done.
    """
    if words[0] == "regions" and Path(words[-1]).exists():
        return  # the one verb that does not go on by itself: its table is written at once, at its end
    try:
        with redirect_stdout(io.StringIO()):
            main(words)
    except SystemExit as end:
        if end.code not in _FINE:
            raise UsageError(f"the step `osteoray {' '.join(words)}` failed: see its message above") from end


def _table_row(row: Row, run: Path) -> dict[str, Any]:
    facts = read_run(run)
    evaluation = facts["evaluation"]
    return {
        "name": row.name,
        "run": str(run),
        "backbone": facts["model"]["backbone"],
        "parameters": facts["parameters"],
        "seconds": facts["seconds"],
        "distill": facts["recipe"]["distill"],
        "instances": evaluation["instances"],
        "headline": evaluation["figures"]["headline"],
    }


def _write_page(rows: list[Row], out: Path) -> None:
    """The report of the last row's run, with the table of all rows and their learning curves."""
    from engine.report.build import run_report

    runs = {row.name: out / "runs" / row.folder for row in rows}
    last = runs.pop(rows[-1].name)
    write_page(run_report(last, compare=runs), out / "study.html")
