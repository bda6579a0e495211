"""A run over a folder of text files, without decoding or Ray: lease, plan, shards, log and books alone.

A file that says ``good`` is filtered, any other one is quarantined for the reason that it says; spaces do not
count.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine import books, schema, sources
from engine.errors import EngineError
from engine.manifest import sha256_of_bytes, sha256_of_facts
from engine.shard import ReadSpec
from engine.tasks.hand_age import HAND_AGE
from jobs.plan import begun_plan
from jobs.running import Run, Terms, running

SHARD_SIZE = 3
Step = tuple[Any, str]
"""A module or a class, and its function that is a step."""

STEPS: tuple[Step, ...] = ((os, "rename"), (os, "replace"), (os, "link"))
"""The calls of the system that make something durable appear."""
Read = Callable[[Path, list[dict[str, Any]]], dict[str, pa.Table]]


def spec_of(root: Path) -> ReadSpec:
    return ReadSpec(source=str(root / "in"), folder=root / "out", rule=HAND_AGE.rule, salt=bytes(32))


def manifest_of(source: str, shard_size: int) -> dict[str, Any]:
    config = {"shard_size": shard_size}
    return {
        "kind": "score", "source": sources.identity(source), "config_sha256": sha256_of_facts(config),
        "config": config,
    }  # fmt: skip


def write(root: Path, **contents: str) -> None:
    (root / "in").mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (root / "in" / name).write_text(content)


def tables_of(root: Path, planned: list[dict[str, Any]]) -> dict[str, pa.Table]:
    rows: dict[str, list[dict[str, Any]]] = {"filtered": [], "quarantine": []}
    for row in planned:
        content = (root / "in" / row["path"]).read_bytes()
        reason = content.decode().strip()
        rows["filtered" if reason == "good" else "quarantine"].append(
            {
                **{name: row[name] for name in ("instance_index", "path", "shard", "version")},
                "sop_instance_uid": None,
                "reason": reason,
                "code": "ORY-I00",
                "message": "m",
                "content_sha256": sha256_of_bytes(content),
            }  # fmt: skip
        )
    return {name: pa.Table.from_pylist(some, schema=schema.REJECTS) for name, some in rows.items()}


def finish(root: Path, spec: ReadSpec, read: Read, run: Run, plan: pa.Table) -> dict[str, int]:
    missing = books.missing_shards(spec.folder, plan)
    if missing or not books.is_complete(spec.folder):
        run.begin("score", plan, missing)
    with run.draining():
        for shard in missing:
            if run.is_stopping() or not spec.pace.may_start():
                break
            planned = [row for row in plan.to_pylist() if row["shard"] == shard]
            counts = books.commit_shard(spec.folder, shard, read(root, planned), spec.staging)
            run.on_shard(shard, counts)
            run.on_failed(counts["quarantine"])
    run.require_whole(plan)
    return books.close(spec.folder, plan, {}, run.staging, run.log)


def night(
    root: Path,
    terms: Terms | None = None,
    *,
    incremental: bool = False,
    source: str = "",
    read: Read = tables_of,
    shard_size: int | None = SHARD_SIZE,
) -> dict[str, int]:
    """What `osteoray score` does, but for the scoring; ``read`` turns planned rows into tables."""
    with running(root / "out", terms) as run:
        spec = replace(spec_of(root), pace=run.terms.pace(run.staging))
        spec = replace(spec, source=source) if source else spec
        going = partial(finish, root, spec, read, run)
        plan = begun_plan(
            spec,
            partial(manifest_of, spec.source),
            shard_size,
            grow=going if incremental else None,
            retry=run.terms.retry,
        )
        return going(plan)


def steps_of(
    action: Callable[[], object],
    *,
    die_at: int | None = None,
    after: bool = False,
    steps: Collection[Step] = STEPS,
) -> int:
    """Do something in a child process that is killed before or after its n-th durable step; its exit status.

    Without ``die_at`` the status is the number of steps; otherwise that of an osteoray command, or -9.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _be_a_child(action, die_at, steps, after=after)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _be_a_child(
    action: Callable[[], object], die_at: int | None, steps: Collection[Step], *, after: bool
) -> None:
    done = [0]

    def counted(step: Callable[..., Any], *words: Any, **more: Any) -> Any:
        done[0] += 1
        if done[0] == die_at and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = step(*words, **more)
        if done[0] == die_at and after:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    for owner, name in steps:
        setattr(owner, name, _bindable(counted, getattr(owner, name)))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    status = 1
    try:
        action()
        status = done[0] if die_at is None else 0
    except EngineError as error:
        status = error.exit_code
    finally:
        os._exit(status)


def _bindable(counted: Callable[..., Any], step: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function: as the method of a class it is bound, a partial is not."""
    return lambda *words, **more: counted(step, *words, **more)


def ends(root: Path) -> list[tuple[str, int, str]]:
    """Path, version and reason of every row, in the order of the plan."""
    columns = ["instance_index", "path", "version", "reason"]
    parts = [
        books.read_table(path).select(columns)
        for table in books.REJECT_TABLES
        for path in books.tables_of(root / "out", table)
    ]
    rows = pa.concat_tables(parts).sort_by("instance_index").to_pylist() if parts else []
    return [(row["path"], row["version"], row["reason"]) for row in rows]


def retry(*reasons: str) -> Terms:
    return Terms(retry=reasons)


def named(names: Collection[str], content: str = "good") -> dict[str, str]:
    return dict.fromkeys(names, content)
