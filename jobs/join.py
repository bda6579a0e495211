"""`osteoray join`: joins samples of several regions into samples with several views."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.store import lease
from jobs.console import finish


def join(
    data: Annotated[
        list[Path],
        typer.Argument(
            exists=True, metavar="DIR...", help="Folders of `osteoray ingest`, one a region, of one archive."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; the same command again resumes it.")],
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON, for scripts.")] = False,
) -> None:
    """Join ingest folders into one whose samples have several views, for a teacher that sees them all.

    Each folder shows another region of the same instances: the whole image, or one of `ingest --crop`. The
    recipe's `fusion` says how a network sees them. What is trained on this is a teacher: record it with
    `osteoray record-teacher`, and train a student of one view on that.
    """
    from engine.ingest.join_views import join as join_views

    with lease.hold(out):
        counts = join_views(data, out)
    finish("join", {"out": str(out), "views": len(data), **counts}, as_json=json)
