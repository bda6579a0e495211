"""`osteoray verify`: proves from its files that a folder is complete and unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.distillation import teacher_cache
from engine.ingest import deidentified
from engine.store import ledger, passed_over, verification
from engine.store.counts import shown
from jobs.console import finish


def verify(
    folder: Annotated[
        Path,
        typer.Argument(exists=True, help="Folder written by `osteoray ingest`, `score` or `record-teacher`."),
    ],
    audit_head: Annotated[
        str | None,
        typer.Option(
            metavar="DIGEST",
            help="The audit_sha256 that the run printed: also finds a folder that was rewritten as a whole.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON, for scripts.")] = False,
) -> None:
    """Prove that every planned instance of a folder ended exactly once and no file was changed.

    Reads all tables, and the files of a de-identified export. Needs neither the archive nor a cluster. Of a
    recorded teacher it checks every shard and the teachers' digests. Exit code 1 names the first
    contradiction.
    """
    if teacher_cache.is_cache(folder):
        taught = teacher_cache.open_cache(folder).facts["counts"]
        teacher_cache.require_intact(folder)
        finish("verify", {"folder": str(folder), **taught, "ledger": "balances"}, as_json=json)
    counts = verification.verify(folder, audit_head)
    exported = deidentified.verify(folder)
    beside = passed_over.said(folder / ledger.PLAN_NAME)
    summary = {"folder": str(folder), **shown(counts), **exported, **beside, "ledger": "balances"}
    finish("verify", summary, as_json=json)
