"""Score folders, runs and label tables, read back from disk into what a report needs.

Predictions are frames of header and answer columns, under the names that the tables have. Text stays as it
was read: making it harmless is the page's work.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from engine.errors import TableError, UsageError
from engine.evaluation.held_out import HeldOut, in_words, read_held_out
from engine.store import ledger, schema
from engine.store.counts import predictions_of
from engine.store.files import MANIFEST_NAME, read_json
from engine.store.labels import Label, read_label_table
from engine.tasks import task_named
from engine.tasks.task import Task
from engine.training.run_folder import EVALUATION_NAME, RUN_NAME, read_metrics

HELD_OUT = "test"
"""The split of a label table that no training has seen."""

_HEADER = ("sop_instance_uid", "patient_key", "patient_sex", "age_months")
_SCORE_COLUMNS = ("instance_index", "path", "shard", *_HEADER, "task", "model_sha256")
_UNFINISHED: dict[str, Any] = {
    "complete": False, "counts": {}, "speed": {}, "models": [], "source": None,
    "code_version": None, "started": None, "finished": None,
}  # fmt: skip
"""What the manifest of a score that was killed does not say yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreFolder:
    """What ``osteoray score`` left: the manifest, and each table of all finished shards as one frame."""

    root: Path
    manifest: dict[str, Any]
    planned: int
    predictions: dict[str, pl.DataFrame]
    """By task: header and answer columns; without a patient key every instance is its own patient."""
    filtered: pl.DataFrame
    abstained: pl.DataFrame
    quarantined: pl.DataFrame
    grouped: pl.DataFrame

    @property
    def models(self) -> list[dict[str, Any]]:
        """Facts of the bundles, in the order in which they were named."""
        return list(self.manifest["models"])


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """What ``osteoray train`` left; ``held`` is None where nothing was held out."""

    name: str
    facts: dict[str, Any]
    epochs: tuple[dict[str, Any], ...]
    task: Task | None
    held: HeldOut | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Frame of ``sop_instance_uid``, the label columns and ``split``; without a split column it is null."""

    frame: pl.DataFrame
    has_split: bool


def is_run(folder: Path) -> bool:
    """True for a training run, False for a score folder.

    Raises:
        UsageError: the folder is neither.
    """
    if (folder / RUN_NAME).is_file():
        return True
    if (folder / MANIFEST_NAME).is_file():
        return False
    raise UsageError(f"{folder} holds neither {MANIFEST_NAME} nor {RUN_NAME}: name a score folder or a run")


def read_score_folder(folder: Path) -> ScoreFolder:
    """The ledger and tables of a score folder; shards without their end marker are left out.

    Raises:
        UsageError: the folder was written by another verb than score.
        TableError: the manifest or a table is absent or damaged.
    """
    manifest = read_json(folder / MANIFEST_NAME)
    if manifest.get("kind") != "score":
        raise UsageError(f"{folder} was written by '{manifest.get('kind')}': a report needs a score folder")
    rejects = tuple(schema.REJECTS.names)
    gone = ledger.superseded(folder).to_pylist()

    def rows(table: str, columns: Sequence[str]) -> pl.DataFrame:
        paths = [path for path in ledger.tables_of(folder, table) if (path.parent / "shard.json").exists()]
        frame = _frame(paths, columns)
        return frame.filter(~pl.col("instance_index").is_in(gone)) if gone else frame

    tasks = rows("predictions", ["instance_index", "task"])["task"].unique(maintain_order=True).to_list()
    named = [model["task"]["name"] for model in manifest.get("models", [])]
    predictions = {}
    for name in dict.fromkeys([*named, *tasks]):
        answer = task_named(name).answer
        frame = rows(predictions_of(name), [*_SCORE_COLUMNS, *(column.name for column in answer.columns)])
        predictions[name] = frame.with_columns(
            pl.coalesce("patient_key", "sop_instance_uid").alias("patient_key")
        )
    return ScoreFolder(
        root=folder,
        manifest={**_UNFINISHED, **manifest},
        planned=ledger.rows_planned(folder),
        predictions=predictions,
        filtered=rows("filtered", rejects),
        abstained=rows("abstained", rejects),
        quarantined=rows("quarantine", rejects),
        grouped=rows("grouped", rejects),
    )


def read_run(folder: Path, name: str | None = None) -> RunFolder:
    """A run's facts, learning curve and held-out predictions; the name is the folder's unless given.

    Raises:
        TableError: run.json is absent, or a table is damaged.
    """
    facts = read_json(folder / RUN_NAME)
    path = folder / EVALUATION_NAME
    return RunFolder(
        name=name or folder.resolve().name,
        facts=facts,
        epochs=tuple(read_metrics(folder)),
        task=task_named(facts["task"]) if facts.get("task") else None,
        held=read_held_out(path) if path.is_file() else None,
    )


def read_truth(path: Path, labels: Sequence[Label]) -> Truth:
    """The label table's columns; rows without a value of a required one fall out.

    Raises:
        UsageError: no such file, a column is missing, a value is no number, or a UID stands twice.
    """
    table = read_label_table(path, labels)
    names = [name for label in labels for name in label.columns]
    rows = {
        "sop_instance_uid": list(table.values_by_uid),
        **{name: [values[name] for values in table.values_by_uid.values()] for name in names},
        "split": [table.split_by_uid.get(uid) for uid in table.values_by_uid],
    }
    types = {"sop_instance_uid": pl.String, **dict.fromkeys(names, pl.Float64), "split": pl.String}
    required = [name for label in labels if label.required for name in label.columns]
    frame = pl.DataFrame(rows, schema=types).drop_nulls(required)
    return Truth(frame=frame, has_split=bool(table.split_by_uid))


def held_out_of(frame: pl.DataFrame, task: Task) -> HeldOut:
    """Predictions with label columns beside them, as statistics take them."""
    names = [name for name in task.label_columns if name in frame.columns]
    return HeldOut(
        uids_N=frame["sop_instance_uid"].to_numpy(),
        patients_N=frame["patient_key"].to_numpy(),
        sexes_N=frame["patient_sex"].fill_null("").to_numpy(),
        age_months_N=frame["age_months"].cast(pl.Float32).to_numpy(),
        truth={name: frame[name].to_numpy() for name in names},
        predicted={column.name: frame[column.name].to_numpy() for column in task.answer.columns},
    )


def sexes_of(frame: pl.DataFrame) -> NDArray[Any]:
    """PatientSex in words [N]."""
    return np.array([in_words(sex) for sex in frame["patient_sex"].to_list()], dtype=object)


def read_attention(folder: Path, frame: pl.DataFrame, task: str) -> dict[int, NDArray[np.uint8]]:
    """Attention maps uint8 [h, w] of the instances in ``frame``, by ``instance_index``; some have none."""
    maps: dict[int, NDArray[np.uint8]] = {}
    for (shard,), rows in frame.group_by(["shard"], maintain_order=True):
        wanted = set(rows["instance_index"])
        for path in sorted(ledger.shard_folder(folder, shard).glob(f"{predictions_of(task)}.parquet")):
            table = ledger.read_table(path)
            if "attention_map" not in table.column_names:
                continue
            chosen = table.filter([index in wanted for index in table["instance_index"].to_pylist()])
            stacked_Nhw = schema.tensor_values(chosen["attention_map"])
            maps.update(zip(chosen["instance_index"].to_pylist(), stacked_Nhw, strict=True))
    return maps


def _frame(paths: Iterable[Path], columns: Sequence[str]) -> pl.DataFrame:
    """The named columns of all tables below each other; a table that lacks one is refused."""
    tables = (ledger.read_table(path, columns).replace_schema_metadata(None) for path in paths)
    first = next(tables, None)
    if first is None:
        types = {"instance_index": pl.Int64, "shard": pl.Int32, "age_months": pl.Float32}
        texts = {*_SCORE_COLUMNS, *schema.REJECTS.names}
        kinds = {name: types.get(name, pl.String if name in texts else pl.Float32) for name in columns}
        return pl.DataFrame(schema=kinds)
    frame = pl.from_arrow(ledger.packed(chain([first], tables), first.schema))
    if not isinstance(frame, pl.DataFrame):  # polars types from_arrow as a frame or a series
        raise TableError(f"{columns} do not form a table")
    return frame
