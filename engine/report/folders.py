"""Score folders, runs and label tables, read back from disk into frames with the columns a report needs.

Column names inside the report: ``truth``, ``predicted`` and ``sd`` in months, ``sex`` one of SEXES,
``patient`` the patient key. Text stays as it was read: making it harmless is the page's work.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from engine.errors import TableError, UsageError
from engine.store import ledger, schema
from engine.store.files import MANIFEST_NAME, read_json
from engine.store.labels import read_labels

RUN_NAME = "run.json"
SEXES = ("female", "male", "not stated")
HELD_OUT = "test"
"""The split of a label table that no training has seen."""

_EVALUATION_COLUMNS = ("sop_instance_uid", "patient_key", "patient_sex", "predicted_months", "sd_months")
_SCORE_COLUMNS = ("instance_index", "path", "shard", *_EVALUATION_COLUMNS, "model_sha256")
_UNFINISHED: dict[str, Any] = {
    "complete": False, "counts": {}, "speed": {}, "models": [], "source": None,
    "code_version": None, "started": None, "finished": None,
}  # fmt: skip
"""What the manifest of a score that was killed does not say yet."""
_SHORT_NAMES = {
    "patient_key": "patient",
    "patient_sex": "sex",
    "predicted_months": "predicted",
    "sd_months": "sd",
    "truth_bone_age_months": "truth",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreFolder:
    """What ``osteoray score`` left: the manifest, and each table of all finished shards as one frame."""

    root: Path
    manifest: dict[str, Any]
    planned: int
    predictions: pl.DataFrame
    filtered: pl.DataFrame
    abstained: pl.DataFrame
    quarantined: pl.DataFrame

    @property
    def models(self) -> list[dict[str, Any]]:
        """Facts of the bundles, in the order in which they were named."""
        return list(self.manifest["models"])


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """What ``osteoray train`` left; ``evaluation`` has no rows where nothing was held out."""

    name: str
    facts: dict[str, Any]
    epochs: tuple[dict[str, Any], ...]
    evaluation: pl.DataFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Frame of ``sop_instance_uid``, ``truth`` and ``split``; without a split column the last is null."""

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
    """The books and tables of a score folder; shards without their end marker are left out.

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

    return ScoreFolder(
        root=folder,
        manifest={**_UNFINISHED, **manifest},
        planned=ledger.rows_planned(folder),
        predictions=_predictions(rows("predictions", _SCORE_COLUMNS)),
        filtered=rows("filtered", rejects),
        abstained=rows("abstained", rejects),
        quarantined=rows("quarantine", rejects),
    )


def read_run(folder: Path, name: str | None = None) -> RunFolder:
    """A run's facts, learning curve and held-out predictions; the name is the folder's unless given.

    Raises:
        TableError: run.json is absent, or a table is damaged.
    """
    facts = read_json(folder / RUN_NAME)
    path = folder / "evaluation.parquet"
    frame = _frame([path] if path.is_file() else [], (*_EVALUATION_COLUMNS, "truth_bone_age_months"))
    return RunFolder(
        name=name or folder.resolve().name,
        facts=facts,
        epochs=tuple(_json_lines(folder / "metrics.jsonl")),
        evaluation=_predictions(frame),
    )


def read_truth(path: Path, column: str) -> Truth:
    """The label table's ``column`` as truth, in months; rows without an age fall out.

    Raises:
        UsageError: no such file, a column is missing, a value is no number, or a UID stands twice.
    """
    labels = read_labels(path, (column,))
    rows = {
        "sop_instance_uid": list(labels.values_by_uid),
        "truth": [values[column] for values in labels.values_by_uid.values()],
        "split": [labels.split_by_uid.get(uid) for uid in labels.values_by_uid],
    }
    types = {"sop_instance_uid": pl.String, "truth": pl.Float64, "split": pl.String}
    frame = pl.DataFrame(rows, schema=types).filter(pl.col("truth").is_finite())
    return Truth(frame=frame, has_split=bool(labels.split_by_uid))


def read_attention(folder: Path, frame: pl.DataFrame) -> dict[int, NDArray[np.uint8]]:
    """Attention maps uint8 [h, w] of the instances in ``frame``, by ``instance_index``."""
    maps: dict[int, NDArray[np.uint8]] = {}
    for (shard,), rows in frame.group_by(["shard"], maintain_order=True):
        wanted = set(rows["instance_index"])
        models = set(rows["model_sha256"]) if "model_sha256" in rows.columns else None
        for path in sorted(ledger.shard_folder(folder, shard).glob("predictions-*.parquet")):
            table = ledger.read_table(path, ["instance_index", "model_sha256", "attention_map"])
            keys = zip(table["instance_index"].to_pylist(), table["model_sha256"].to_pylist(), strict=True)
            is_here = [index in wanted and (not models or model in models) for index, model in keys]
            chosen = table.filter(is_here)
            found = zip(
                chosen["instance_index"].to_pylist(),
                schema.tensor_values(chosen["attention_map"]),
                strict=True,
            )
            maps.update(found)
    return maps


def read_kept_cases(path: Path) -> tuple[pl.DataFrame, NDArray[np.uint8], NDArray[np.uint8]]:
    """Test cases that a run kept: their frame, images [N, H, W] and attention maps [N, h, w].

    Raises:
        TableError: the table is damaged or lacks a column.
    """
    table = ledger.read_table(path, [*_EVALUATION_COLUMNS, "truth_bone_age_months", "image", "attention_map"])
    try:
        images_NHW, maps_Nhw = (schema.tensor_values(table[name]) for name in ("image", "attention_map"))
    except (AttributeError, KeyError) as error:
        raise TableError(f"{path} holds no images: train the run again") from error
    frame = _frame([path], (*_EVALUATION_COLUMNS, "truth_bone_age_months"))
    return _predictions(frame), images_NHW, maps_Nhw


def _frame(paths: Iterable[Path], columns: Sequence[str]) -> pl.DataFrame:
    """The named columns of all tables below each other; a table that lacks one is refused."""
    tables = (ledger.read_table(path, columns).replace_schema_metadata(None) for path in paths)
    first = next(tables, None)
    if first is None:
        return _empty(columns)
    frame = pl.from_arrow(ledger.packed(chain([first], tables), first.schema))
    if not isinstance(frame, pl.DataFrame):  # polars types from_arrow as a frame or a series
        raise TableError(f"{columns} do not form a table")
    return frame


def _empty(columns: Sequence[str]) -> pl.DataFrame:
    types = {"instance_index": pl.Int64, "shard": pl.Int32}
    months = dict.fromkeys(("predicted_months", "sd_months", "truth_bone_age_months"), pl.Float32)
    return pl.DataFrame(schema={name: {**types, **months}.get(name, pl.String) for name in columns})


def _predictions(frame: pl.DataFrame) -> pl.DataFrame:
    """Short names, ages as float64, sex in words; without a patient key every instance is its own patient."""
    renamed = frame.rename({old: new for old, new in _SHORT_NAMES.items() if old in frame.columns})
    sex = pl.col("sex").replace_strict({"F": "female", "M": "male"}, default="not stated")
    patient = pl.coalesce(pl.col("patient"), pl.col("sop_instance_uid"))
    months = [
        pl.col(name).cast(pl.Float64) for name in ("predicted", "sd", "truth") if name in renamed.columns
    ]
    return renamed.with_columns(sex.alias("sex"), patient.alias("patient"), *months)


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; a last line torn by a kill is dropped, an absent file is empty."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise TableError(f"{path}, line {number}, is no JSON: the file was damaged") from error
        if isinstance(row, dict):
            rows.append(row)
    return rows
