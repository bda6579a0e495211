"""``osteoray report``: one self-contained HTML page of a score folder or a training run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.errors import UsageError
from engine.store.files import MANIFEST_NAME, PRIVATE, read_json, replacing
from jobs.console import finish

if TYPE_CHECKING:
    from engine.report.thumbnails import Images, ReadAgain

REPORT_NAME = "report.html"


def report(
    folder: Annotated[
        Path,
        typer.Argument(
            exists=True,
            metavar="DIR_OR_RUN",
            help="Folder that `osteoray score` wrote, or a run of `osteoray train`.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help=f"HTML file; default: {REPORT_NAME} in the folder.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(exists=True, help="Label table; if it has a split, only its test rows are used."),
    ] = None,
    compare: Annotated[
        list[str] | None, typer.Option(help="A run for the table of models, as NAME=RUN; may be repeated.")
    ] = None,
    images: Annotated[
        bool, typer.Option(help="Show cases as pictures; reads some files of the archive again.")
    ] = True,
    names: Annotated[
        bool, typer.Option("--names", help="Show file names, which may be names of patients.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON, for scripts.")] = False,
) -> None:
    """Write tables, plots and selected cases as one HTML page that needs no network.

    Pictures show what the network saw, with any text that was burned into the image. Use --no-images before
    the page leaves the hospital.
    """
    from engine.report.build import run_report
    from engine.report.folders import is_run

    runs = _named_runs(compare or [])
    of_run = is_run(folder)
    if of_run and labels is not None:
        raise UsageError("--labels goes with a score folder: a run holds the truth of its held-out instances")
    if of_run:
        page = run_report(folder, compare=runs)
    else:
        page = score_page(folder, labels=labels, compare=runs, images=images, has_names=names)
    place = write_page(page, out or folder / REPORT_NAME)
    kind = "run" if of_run else "score"
    finish("report", {"report": str(place), "kind": kind, "bytes": place.stat().st_size}, as_json=json)


def write_page(html: str, place: Path) -> Path:
    """Put a page in its place, whole or not at all; gives the place."""
    with replacing(place, mode=PRIVATE) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return place


def score_page(
    folder: Path,
    *,
    labels: Path | None = None,
    compare: Mapping[str, Path] | None = None,
    images: bool = True,
    has_names: bool = False,
) -> str:
    """The page of a score folder, with pictures read again from its archive unless ``images`` is false."""
    from engine.report.build import score_report

    with archive_images(folder) as again:
        return score_report(
            folder,
            labels=labels,
            compare=compare or {},
            images=again if images else None,
            has_names=has_names,
        )


def _named_runs(words: Sequence[str]) -> dict[str, Path]:
    runs: dict[str, Path] = {}
    for word in words:
        name, sign, path = word.partition("=")
        if not sign or not name or not path:
            raise UsageError(f"--compare {word}: write NAME=RUN")
        if name in runs:
            raise UsageError(f"--compare names '{name}' twice: give each run its own name")
        runs[name] = Path(path)
    return runs


@contextmanager
def archive_images(folder: Path) -> Iterator[ReadAgain]:
    """Input rule and paths in the archive of a score folder -> images that the network saw.

    A process of its own decodes them, and ends with the context. What cannot be read again is left out: the
    archive may have moved.
    """
    from engine.ingest.decode_process import Isolation, Reader
    from engine.ingest.instance import rule_from_facts

    source = read_json(folder / MANIFEST_NAME).get("source")
    reader = Reader(Isolation())

    def again(rule: Mapping[str, Any], paths: Sequence[str]) -> Images:
        if not source or not paths:
            return {}
        images = reader.images(str(source), rule_from_facts(rule), paths)
        return {
            path: image for path, image in zip(paths, images, strict=True) if not isinstance(image, Exception)
        }

    try:
        yield again
    finally:
        reader.close()
