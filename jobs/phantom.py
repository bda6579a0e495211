"""`osteoray phantom`: an archive to try everything on, with no patient in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.datasets.phantom.archive import Phantom, write_archive
from engine.datasets.phantom.heads import HEADS
from engine.datasets.phantom.visits import HANDS, KNEES
from engine.errors import UnknownNameError
from jobs.console import finish, progress
from jobs.options import MOST

PHANTOMS: dict[str, Phantom] = {"hand-age": HANDS, "knee-age": KNEES, "sos-stage": HEADS}
"""Task -> what its archive shows."""


def phantom(  # noqa: PLR0913  one parameter an option
    count: Annotated[int, typer.Option(min=1, max=MOST, help="How many visits to draw, for example 200.")],
    out: Annotated[Path, typer.Option(help="Folder to write to; it must be new or empty.")],
    *,
    task: Annotated[
        str,
        typer.Option(
            help="The task it is for: hand-age (one left hand a visit), knee-age (a knee and the hand of "
            "the same child a visit) or sos-stage (a head from the side)."
        ),
    ] = "hand-age",
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=MOST, help="Another number gives other patients; the same number the same bytes."
        ),
    ] = 0,
    size: Annotated[int, typer.Option(min=64, max=4096, help="Rows of each image in pixels.")] = 512,
    syntax: Annotated[
        str,
        typer.Option(
            help="How pixels are stored: explicit or implicit (uncompressed), jpeg-ls, jpeg-lossless, "
            "jpeg-2000, or mixed (explicit and the three compressed ones in turn)."
        ),
    ] = "mixed",
    faults: Annotated[
        bool,
        typer.Option(
            "--faults",
            help="Add one unusable file of each kind: cut off, damaged, not DICOM, and so on. Each file is "
            "named after its fault.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON, for scripts.")] = False,
) -> None:
    """Write a synthetic DICOM archive whose truth is known.

    Draws radiographs of invented children of 1 to 18 years: bones appear,
    growth plates close. labels.csv holds the truth and a split by patient;
    for knee-age also which films are of one visit. Made for trying and
    testing osteoray. It says nothing about accuracy on real films.

    Example: osteoray phantom --task hand-age --count 200 --out /tmp/hands --faults
    """
    if task not in PHANTOMS:
        raise UnknownNameError("task", task, PHANTOMS)
    with progress("phantom") as report:
        counts = write_archive(
            PHANTOMS[task],
            out,
            count=count,
            seed=seed,
            size=size,
            syntax=syntax,
            faults=faults,
            on_progress=report,
        )
    summary = {"archive": str(out), "task": task, **counts, "labels": str(out / "labels.csv")}
    finish("phantom", summary, as_json=as_json)
