"""``osteoray report``: one self-contained HTML page of a score folder or a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from engine.errors import UsageError
from engine.store.files import MANIFEST_NAME, read_json, replacing
from jobs.console import finish

if TYPE_CHECKING:
    from engine.report.thumbnails import LoadImage

REPORT_NAME = "report.html"


def report(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR_OR_RUN", help="Folder of `osteoray score`, or run of `osteoray train`."),
    ],
    out: Annotated[
        Path | None, typer.Option(help=f"HTML file; default: {REPORT_NAME} in the folder.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Label table; with a split column only its test rows are judged.")
    ] = None,
    compare: Annotated[
        list[str] | None, typer.Option(help="NAME=RUN, may be repeated: runs for the table of models.")
    ] = None,
    images: Annotated[
        bool, typer.Option(help="Show cases as pictures: reads a dozen files of the archive again.")
    ] = True,
    names: Annotated[
        bool, typer.Option("--names", help="Say what files are called: a name may be that of a patient.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a machine-readable last line.")] = False,
) -> None:
    """Write tables, plots and the cases worth a look as one HTML page that needs no network.

    Pictures show what the network saw, burned-in text included: give --no-images before it leaves the house.
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
    with replacing(place) as temporary:
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

    reader = image_reader(folder) if images else None
    return score_report(folder, labels=labels, compare=compare or {}, load_image=reader, has_names=has_names)


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


def image_reader(folder: Path) -> LoadImage | None:
    """Path in the archive -> the image the network saw; None where the folder does not say how it was made.

    Among several models it goes to the same one again. The header that comes with an image is dropped, so
    the site's salt is not needed.
    """
    from engine import sources
    from engine.ingest.instance import rule_from_facts
    from engine.ingest.sample import Reading, samples_of

    manifest = read_json(folder / MANIFEST_NAME)
    rules = [rule_from_facts(model["task"]["rule"]) for model in manifest.get("models", [])]
    if not rules or not manifest.get("source"):
        return None
    source = str(manifest["source"])
    reading = Reading(source=source, rules=tuple(rules), salt=bytes(32))

    def image(path: str) -> NDArray[np.uint8]:
        outcomes = samples_of(sources.read(source, path), reading)
        for outcome in outcomes:
            if isinstance(outcome, tuple):
                return outcome[1]
        raise next(outcome for outcome in outcomes if isinstance(outcome, Exception))

    return image
