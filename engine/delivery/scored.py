"""What a result says: one row of predictions, the model that made it, and the task that it answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.delivery import uids
from engine.errors import TableError, UnknownNameError, UsageError
from engine.evaluation.answer import Measurement, Row
from engine.store import ledger
from engine.store.files import MANIFEST_NAME, read_json
from engine.tasks import task_named
from engine.tasks.task import Task

RESEARCH_USE = "Research use only, not for diagnosis"
MANUFACTURER = "osteoray"
MAP = "attention_map"
"""Column of the attention map."""
_NO_MODEL = "the manifest does not say which model scored: score into a new folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model of a score folder. ``scored_at`` is when its scoring was begun: stable over resumes."""

    sha256: str
    task: Task
    name: str
    version: str
    scored_at: datetime


@dataclass(frozen=True, slots=True)
class Scored:
    """One row of predictions and the model that made it."""

    row: Row
    model: Model

    @property
    def sop_instance_uid(self) -> str:
        """UID of the source image."""
        return str(self.row["sop_instance_uid"])

    @property
    def measurements(self) -> list[Measurement]:
        """What the task measured in this instance."""
        return self.model.task.answer.measurements(self.row)

    def uid(self, kind: str) -> str:
        """SOP instance UID of the result of one of ``uids.KINDS``."""
        return uids.result_uid(self.sop_instance_uid, self.model.sha256, self.model.task.name, kind)

    def series_uid(self, kind: str) -> str:
        """UID of the series of that result."""
        return uids.series_uid(self.sop_instance_uid, self.model.sha256, self.model.task.name, kind)


class Models:
    """The models that a score folder's manifest names, one or several."""

    def __init__(self, scores: Path) -> None:
        """Read their facts.

        Raises:
            UsageError: the folder is of another verb.
            TableError: it is of an earlier release, its manifest lacks a fact, or a task is not installed.
        """
        self._scores = scores
        manifest = read_json(scores / MANIFEST_NAME)
        if manifest.get("kind") != "score":
            raise UsageError(f"{scores} is no folder of `osteoray score`: there is nothing to deliver")
        if any(scores.glob("shards/*/predictions.parquet")):
            raise TableError(f"{scores} was written by an earlier release: score into a new folder")
        self.manifest: Mapping[str, Any] = manifest
        try:
            self._by_digest = {
                facts["model_sha256"]: Model(
                    sha256=facts["model_sha256"],
                    task=_task_named(facts["task"]["name"]),
                    name=f"osteoray {facts['task']['name']} {facts['model']['backbone']}",
                    version=str(facts.get("code_version", manifest["code_version"])),
                    scored_at=datetime.fromisoformat(manifest["started"]),
                )
                for facts in manifest["models"]
            }
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise TableError(_NO_MODEL) from error
        if not self._by_digest:
            raise TableError(_NO_MODEL)

    @property
    def scored_at(self) -> datetime:
        """When the scoring was begun."""
        return next(iter(self._by_digest.values())).scored_at

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of the folder, in the order of the manifest, each once."""
        return tuple({model.task.name: model.task for model in self._by_digest.values()}.values())

    def results(self, columns: Sequence[str] | None = None) -> Iterator[Scored]:
        """Each row of predictions that no later version superseded, without its map, or some of its columns.

        Raises:
            TableError: a table cannot be read, or the manifest does not name the model of a row.
        """
        gone = set(ledger.superseded(self._scores).to_pylist())
        for path in ledger.tables_of(self._scores, "predictions"):
            table = ledger.read_present(path, columns)
            kept = [name for name in table.column_names if name != MAP]
            for row in table.select(kept).to_pylist():
                if row["instance_index"] not in gone:
                    yield self.scored(row)

    def scored(self, row: Row) -> Scored:
        """The row with its model.

        Raises:
            TableError: the manifest does not name the model.
        """
        if row["model_sha256"] not in self._by_digest:
            raise TableError(_NO_MODEL)
        return Scored(row, self._by_digest[row["model_sha256"]])


def _task_named(name: str) -> Task:
    try:
        return task_named(name)
    except UnknownNameError as error:
        raise TableError(f"the scores are of task '{name}', which is not installed") from error
