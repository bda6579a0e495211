"""How many planned instances ended where, from the tables of a shard.

A score folder has a table of predictions a task, and each planned instance ends once for every task: scored,
abstained, filtered, quarantined or, as a slice of a series, grouped. Rows of the other tables name their
task, or none where they hold for all. Other folders know no tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

PREDICTIONS = "predictions"
COUNT_NAMES = {
    "samples": "samples",
    PREDICTIONS: "scored",
    "filtered": "filtered",
    "abstained": "abstained",
    "quarantine": "quarantined",
    "grouped": "grouped",
}
"""Table to the name of its row count in manifests and summaries; ``grouped`` is there with series alone."""

Counts = dict[str, Any]
"""Instances by the names of COUNT_NAMES; of a score folder ``tasks`` with those of each task."""


def predictions_of(task: str) -> str:
    """The table of predictions of a task."""
    return f"{PREDICTIONS}-{task}"


def kind_of(table: str) -> str:
    """The table as COUNT_NAMES knows it: ``predictions`` for that of any task."""
    return table.partition("-")[0]


def tasks_of(tables: Iterable[str]) -> list[str]:
    """The tasks that have a table of predictions among these."""
    return [name.partition("-")[2] for name in tables if kind_of(name) == PREDICTIONS]


def of_task(name: str, table: pa.Table, task: str | None) -> pa.Table:
    """The rows of a table that hold for a task; all rows where there are no tasks."""
    if task is None:
        return table
    if kind_of(name) == PREDICTIONS:
        return table if name == predictions_of(task) else table.slice(0, 0)
    return table.filter(pc.or_kleene(pc.is_null(table["task"]), pc.equal(table["task"], task)))


def ended(tables: Mapping[str, pa.Table]) -> Counts:
    """Counts of the tables of one shard."""
    tasks = tasks_of(tables)
    if not tasks:
        return {COUNT_NAMES[name]: table.num_rows for name, table in tables.items()}
    return {"tasks": {task: _of_one(tables, task) for task in tasks}}


def total(planned: int, parts: Iterable[Counts]) -> Counts:
    """``planned`` and the sum of the counts of some shards."""
    flat: Counter[str] = Counter(planned=planned)
    tasks: dict[str, Counter[str]] = {}
    for part in parts:
        flat.update({name: count for name, count in part.items() if name != "tasks"})
        for task, counts in part.get("tasks", {}).items():
            tasks.setdefault(task, Counter()).update(counts)
    by_task = {"tasks": {task: dict(counts) for task, counts in tasks.items()}} if tasks else {}
    return {**flat, **by_task}


def sums(counts: Counts) -> dict[str, int]:
    """Instances that ended, by task; under an empty name where there are no tasks."""
    if "tasks" in counts:
        return {task: sum(of_one.values()) for task, of_one in counts["tasks"].items()}
    return {"": sum(counts.values()) - counts["planned"]}


def shown(counts: Counts) -> Counts:
    """Counts for people: those of a single task stand beside ``planned``."""
    tasks = counts.get("tasks", {})
    return {"planned": counts["planned"], **next(iter(tasks.values()))} if len(tasks) == 1 else counts


def _of_one(tables: Mapping[str, pa.Table], task: str) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for name, table in tables.items():
        counts[COUNT_NAMES[kind_of(name)]] += of_task(name, table, task).num_rows
    return dict(counts)
