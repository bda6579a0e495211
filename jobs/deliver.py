"""`osteoray deliver`: sends the results of a score folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.errors import SinkError
from jobs.console import PARTIAL, finish, progress


def deliver(
    scores: Annotated[
        Path, typer.Argument(exists=True, metavar="SCORES", help="Folder that `osteoray score` wrote.")
    ],
    to: Annotated[
        str,
        typer.Option(
            help="A folder; dicomweb+http(s)://host/path (STOW-RS); dimse://host:port/AET (C-STORE); "
            "results.csv or results.xlsx; fhir:FOLDER."
        ),
    ],
    maps: Annotated[
        bool,
        typer.Option("--map", help="Also send each image under its attention map, as a secondary capture."),
    ] = False,
    retry: Annotated[
        list[str] | None, typer.Option(help="Try objects again that failed for this reason; may be repeated.")
    ] = None,
    names: Annotated[
        bool,
        typer.Option("--names", help="Write file names into a table; they may be names of patients."),
    ] = False,
    threads: Annotated[
        int, typer.Option(min=1, max=32, help="How many objects are sent at the same time.")
    ] = 4,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON, for scripts.")] = False,
) -> None:
    """Deliver scores as DICOM structured reports, as a table, or as FHIR bundles. Research use only.

    DICOM objects carry the patient and study of their source file, which is read again. Tables and FHIR
    bundles carry the patient's key only; instance_index is the row in SCORES/plan.parquet.

    SCORES/outbox records what was sent. The same command sends what is missing; a result that is sent again
    keeps its UID. Exit code 3: some objects failed.
    """
    require_sinks([to])
    counts = delivered(scores, to, maps=maps, retry=tuple(retry or ()), threads=threads, has_names=names)
    finish("deliver", {"to": to, **counts}, as_json=json, exit_code=PARTIAL if is_partial(counts) else 0)


def is_partial(counts: Mapping[str, Any]) -> bool:
    """Whether some objects of a delivery did not arrive."""
    return bool(counts.get("failed") or counts.get("uid_conflict"))


def require_sinks(sinks: Sequence[str]) -> None:
    """Refuse addresses that name no sink before scoring starts; no connection is made.

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
        SinkError: a sink takes nothing; the other sinks got their results before.
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
    scores: Path,
    to: str,
    *,
    maps: bool = False,
    retry: tuple[str, ...] = (),
    threads: int = 4,
    has_names: bool = False,
) -> dict[str, Any]:
    """Deliver ``scores`` to one sink, with a progress line; gives the counts."""
    from engine.delivery import uids, whole_files
    from engine.delivery.send import Options
    from engine.delivery.send import deliver as send

    writer = whole_files.writer_for(to, has_names=has_names)
    if writer is not None:
        return writer(scores)
    kinds = uids.KINDS if maps else (uids.SR,)
    with progress("deliver", "objects") as report:
        return send(scores, to, Options(kinds=kinds, retry=retry, threads=threads), report)
