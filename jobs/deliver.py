"""``osteoray deliver``: the results of a score folder, to where they are wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.errors import SinkError
from jobs.console import PARTIAL, finish, progress


def deliver(
    scores: Annotated[Path, typer.Argument(metavar="SCORES", help="Folder that `osteoray score` wrote.")],
    to: Annotated[
        str,
        typer.Option(
            help="A folder; dicomweb+http(s)://host/path (STOW-RS); dimse://host:port/AET (C-STORE); "
            "results.csv or results.xlsx; fhir:FOLDER."
        ),
    ],
    maps: Annotated[
        bool, typer.Option("--map", help="Also a secondary capture of each image under its attention map.")
    ] = False,
    retry: Annotated[
        list[str] | None, typer.Option(help="Reason of failed objects to try again; may be repeated.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=32, help="Objects under way at the same time.")] = 4,
    json: Annotated[bool, typer.Option("--json", help="Print a machine-readable last line.")] = False,
) -> None:
    """Deliver scores as DICOM structured reports, as a table, or as FHIR bundles. Research use only.

    Patient and study are read from each source file for the DICOM object alone; tables and FHIR hold the
    patient's key. What was sent is noted in SCORES/outbox: the same command again sends what is missing, and
    under a result's UID there is never a second object. Exit code 3 says that some objects failed.
    """
    counts = delivered(scores, to, maps=maps, retry=tuple(retry or ()), threads=threads)
    finish("deliver", {"to": to, **counts}, as_json=json, exit_code=PARTIAL if is_partial(counts) else 0)


def is_partial(counts: Mapping[str, Any]) -> bool:
    """Whether the counts of a delivery say that some objects did not arrive."""
    return bool(counts.get("failed") or counts.get("uid_conflict"))


def require_sinks(sinks: Sequence[str]) -> None:
    """Refuse what names no sink, before hours are spent on what is to go there; nothing is reached yet.

    Raises:
        UsageError: one of them is none.
    """
    from engine.delivery import whole_files
    from engine.delivery.send import kind_of

    for to in sinks:
        if whole_files.writer_for(to) is None:
            kind = kind_of(to)
            if "://" in to:  # opening a folder would make it
                kind.open(to).close()


def delivered_to_all(scores: Path, sinks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Deliver ``scores`` to each sink; gives the counts by sink.

    Raises:
        SinkError: one takes nothing. The others have got their share before.
    """
    counts, down = {}, []
    for to in sinks:
        try:
            counts[to] = delivered(scores, to)
        except SinkError as error:
            down.append(error)
    if down:
        raise down[0]
    return counts


def delivered(
    scores: Path, to: str, *, maps: bool = False, retry: tuple[str, ...] = (), threads: int = 4
) -> dict[str, Any]:
    """Deliver ``scores`` to one sink with a progress line; what another verb calls, too. Gives the counts."""
    from engine.delivery import uids, whole_files
    from engine.delivery.send import Options
    from engine.delivery.send import deliver as send

    writer = whole_files.writer_for(to)
    if writer is not None:
        return writer(scores)
    kinds = uids.KINDS if maps else (uids.SR,)
    with progress("deliver", "objects") as report:
        return send(scores, to, Options(kinds=kinds, retry=retry, threads=threads), report)
