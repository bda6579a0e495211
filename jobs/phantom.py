"""`osteoray phantom`: an archive to try everything on, with no patient in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.datasets.phantom.archive import write_archive
from engine.datasets.phantom.knee_archive import write_knee_archive
from engine.errors import UnknownNameError
from jobs.console import finish, progress

PHANTOMS: dict[str, Callable[..., dict[str, Any]]] = {
    "hand-age": write_archive,
    "knee-age": write_knee_archive,
}
"""Task -> the function that writes its archive."""


def phantom(  # noqa: PLR0913  one parameter an option
    count: Annotated[int, typer.Option(min=1, help="How many radiographs to write, for example 200.")],
    out: Annotated[Path, typer.Option(help="Folder to write to; it must be new or empty.")],
    *,
    task: Annotated[
        str,
        typer.Option(
            help="What the archive is for: hand-age (bone age from a left hand), or knee-age (knees, each "
            "with the hand of the same child on top of the count)."
        ),
    ] = "hand-age",
    seed: Annotated[
        int, typer.Option(min=0, help="Another number gives other patients; the same number the same bytes.")
    ] = 0,
    size: Annotated[int, typer.Option(help="Rows of each image, 64 to 4096 pixels.")] = 512,
    syntax: Annotated[
        str,
        typer.Option(
            help="How pixels are stored: explicit or implicit (uncompressed), jpeg-ls, jpeg-lossless, "
            "jpeg-2000, or mixed, which takes explicit and the three compressed ones in turn."
        ),
    ] = "mixed",
    faults: Annotated[
        bool,
        typer.Option(
            "--faults",
            help="Add one unusable file of each kind that archives hold, on top of the count: cut off, "
            "damaged, of another syntax, no DICOM at all, and so on. The file is named after its kind.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON, for scripts.")] = False,
) -> None:
    """Write a synthetic DICOM archive whose truth is known.

    Draws left-hand radiographs of invented children of 1 to 18 years: carpal
    bones appear, growth plates close. For knee-age a knee, left or right, and
    the hand of the same child, whose age in the header departs from its bone
    age; labels.csv then also says which films are a pair. Bone ages and a train/test split by
    patient are in labels.csv. Good to try and test the product; says nothing
    about how well a model reads real films.

    Example: osteoray phantom --task hand-age --count 200 --out /tmp/hands --faults
    """
    if task not in PHANTOMS:
        raise UnknownNameError("task", task, PHANTOMS)
    with progress("phantom") as report:
        counts = PHANTOMS[task](
            out, count=count, seed=seed, size=size, syntax=syntax, faults=faults, on_progress=report
        )
    summary = {"archive": str(out), "task": task, **counts, "labels": str(out / "labels.csv")}
    finish("phantom", summary, as_json=as_json)
