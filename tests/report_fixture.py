"""For the tests of the report: folders and label tables as the contract has them, and a reader of pages."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from engine import schema

MAP_HW = (14, 14)
MODEL_SHA256 = "ab" * 32
_RULE = {
    "sop_classes": ["1.2.840.10008.5.1.4.1.1.1.1"],
    "view": {"size_HW": [64, 64], "steps": ["resize_pad", "stretch"], "stretch_percentiles": [0.5, 99.5]},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One scored instance."""

    uid: str
    predicted: float
    patient: str = ""
    sex: str | None = "F"
    sd: float = 6.0
    path: str = ""
    model_sha256: str = MODEL_SHA256
    attention_hw: np.ndarray | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """One instance that was filtered or quarantined."""

    path: str
    reason: str
    code: str
    message: str = "a message"


def write_score(
    folder: Path,
    scored: Sequence[Scored] = (),
    *,
    quarantined: Sequence[Rejected] = (),
    filtered: Sequence[Rejected] = (),
    abstained: Sequence[Rejected] = (),
    shard_size: int = 1000,
    **changes: Any,
) -> Path:
    """A score folder; ``changes`` replace manifest entries. Indexes run in the order of the arguments."""
    scored = [
        replace(one, path=one.path or f"{one.uid}.dcm", patient=one.patient or one.uid) for one in scored
    ]
    everything = [*scored, *filtered, *abstained, *quarantined]
    folder.mkdir(parents=True, exist_ok=True)
    inputs = [
        {"instance_index": i, "path": one.path, "shard": i // shard_size, "version": 1}
        for i, one in enumerate(everything)
    ]
    plan = pa.Table.from_pylist([{**row, "size_bytes": 1000} for row in inputs], schema=schema.PLAN)
    pq.write_table(plan, folder / "plan.parquet")
    for shard in sorted({row["shard"] for row in inputs}):
        here = [(row, one) for row, one in zip(inputs, everything, strict=True) if row["shard"] == shard]
        part = folder / f"shards/{shard:05d}"
        part.mkdir(parents=True)
        _write_predictions(part / "predictions.parquet", [(r, o) for r, o in here if isinstance(o, Scored)])
        for name, rejects in (("filtered", filtered), ("abstained", abstained), ("quarantine", quarantined)):
            _write_rejects(
                part / f"{name}.parquet", [(r, o) for r, o in here if any(o is x for x in rejects)]
            )
        (part / "shard.json").write_text("{}")
    counts = {
        "scored": len(scored),
        "filtered": len(filtered),
        "abstained": len(abstained),
        "quarantined": len(quarantined),
    }
    (folder / "manifest.json").write_text(json.dumps(_manifest(counts, changes)))
    return folder


def model_facts(task: str, model_sha256: str) -> dict[str, Any]:
    """What a manifest says of one model."""
    return {
        "task": {"name": task, "label": "bone_age_months", "rule": _RULE},
        "role": "student",
        "backbone": "mobilenetv3_small_100",
        "parameters": 1_550_000,
        "distill": {"kd": 1.0, "attention": 0.5},
        "engine": "openvino",
        "parity": {"instances": 64, "max_abs_months": 0.021},
        "evaluation": {"split": "test", "instances": 200, "mae_months": 7.25, "mean_predictor_mae": 34.1},
        "data": {"counts": {"samples": 800}},
        "written": "2026-11-20T18:00:00+00:00",
        "code_version": "0.1.0+0123456789ab",
        "model_sha256": model_sha256,
    }


def _manifest(counts: Mapping[str, int], changes: Mapping[str, Any]) -> dict[str, Any]:
    total = sum(counts.values())
    changes = dict(changes)
    task = changes.pop("task", "hand-age")
    return {
        "kind": "score",
        "source": "/archives/hands",
        "config": {"shard_size": 1000},
        "models": [model_facts(task, MODEL_SHA256)],
        "counts": {"planned": total, **counts},
        "speed": {
            "wall_s": 12.5,
            "images_per_second": 80.0,
            "scored_this_run": counts["scored"],
            "reused": 0,
        },
        "code_version": "0.1.0+0123456789ab",
        "started": "2026-11-21T09:00:00+00:00",
        "finished": "2026-11-21T09:02:00+00:00",
        "complete": True,
        **changes,
    }


def _write_predictions(path: Path, rows: Sequence[tuple[dict[str, Any], Any]]) -> None:
    table_schema = schema.predictions(MAP_HW)
    columns: dict[str, list[Any]] = {field.name: [] for field in table_schema}
    blank = np.zeros(MAP_HW, np.uint8)
    for inputs, one in rows:
        known = {
            **inputs,
            "sop_instance_uid": one.uid,
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "patient_sex": one.sex,
            "patient_key": one.patient,
            "content_sha256": "0" * 64,
            "original_to_network": [1.0, 0, 0, 0, 1, 0, 0, 0, 1],
            "task": "hand-age",
            "route": "only_fit",
            "predicted_months": one.predicted,
            "sd_months": one.sd,
            "model_sha256": one.model_sha256,
            "code_version": "0.1.0",
            "attention_map": blank if one.attention_hw is None else one.attention_hw,
        }
        for name, column in columns.items():
            column.append(known.get(name))
    maps_Nhw = np.array(columns.pop("attention_map"), np.uint8).reshape(-1, *MAP_HW)
    arrays = [pa.array(columns[field.name], field.type) for field in table_schema if field.name in columns]
    storage = pa.FixedSizeListArray.from_arrays(pa.array(maps_Nhw.ravel()), MAP_HW[0] * MAP_HW[1])
    arrays.append(pa.ExtensionArray.from_storage(table_schema.field("attention_map").type, storage))
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema.stamped(table_schema, "predictions")), path)


def _write_rejects(path: Path, rows: Sequence[tuple[dict[str, Any], Any]]) -> None:
    records = [{**i, "reason": o.reason, "code": o.code, "message": o.message} for i, o in rows]
    pq.write_table(pa.Table.from_pylist(records, schema=schema.REJECTS), path)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """One row of a run's evaluation table."""

    uid: str
    truth: float
    predicted: float
    patient: str = ""
    sex: str | None = "F"
    sd: float = 6.0


def write_run(
    folder: Path, rows: Sequence[HeldOut] = (), *, epochs: Sequence[Mapping[str, Any]] = (), **changes: Any
) -> Path:
    """A run folder; ``changes`` replace entries of run.json. No rows: no evaluation table."""
    folder.mkdir(parents=True, exist_ok=True)
    errors = [abs(row.predicted - row.truth) for row in rows]
    mae = sum(errors) / len(errors) if errors else None
    facts = {
        "recipe": {"epochs": len(epochs), "optimiser": {"name": "adamw", "rate": 3e-4}, "size": [128, 128]},
        "task": "hand-age",
        "role": "student",
        "distill": {"kd": 1.0, "attention": 0.5},
        "backbone": "mobilenetv3_small_100",
        "parameters": 1_550_000,
        "code_version": "0.1.0+0123456789ab",
        "data": {"instances": 800, "labels": "labels.csv"},
        "seconds": 754.0,
        "evaluation": {"split": "test", "instances": len(rows), "mae_months": mae},
        "speed": {"images_per_second_eager": 62.0},
        **changes,
    }
    (folder / "run.json").write_text(json.dumps(facts))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    if rows:
        months = {"truth_months": "truth", "predicted_months": "predicted", "sd_months": "sd"}
        table = pa.table(
            {
                "sop_instance_uid": [row.uid for row in rows],
                "patient_key": [row.patient or row.uid for row in rows],
                "patient_sex": pa.array([row.sex for row in rows], pa.string()),
                **{k: pa.array([getattr(row, v) for row in rows], pa.float32()) for k, v in months.items()},
            }
        )
        pq.write_table(table, folder / "evaluation.parquet")
    return folder


def write_labels(path: Path, rows: Sequence[tuple[str, float | str, str]], *, split: bool = True) -> Path:
    """A label table of (uid, months, split)."""
    header = "sop_instance_uid,bone_age_months" + (",split" if split else "")
    lines = [",".join([uid, str(months), *([part] if split else [])]) for uid, months, part in rows]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


class Page(HTMLParser):
    """Rows of cell texts, sections by id, all links, and the text without plots."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.rows: list[list[str]] = []
        self.pieces: list[str] = []
        self._quiet = 0
        self._in_cell = False
        self.feed(html)
        self.text = " ".join(" ".join(self.pieces).split())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self._quiet += tag in {"svg", "style"}
        facts = dict(attrs)
        self.ids += [facts["id"]] if "id" in facts else []
        self.links += [
            facts[k] for k in ("href", "src", "xlink:href", "action", "srcset", "data") if k in facts
        ]
        if tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"}:
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag):
        self._quiet -= tag in {"svg", "style"}
        self._in_cell &= tag not in {"td", "th"}

    def handle_data(self, data):
        if self._quiet:
            return
        self.pieces.append(data)
        if self._in_cell:
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())

    def row(self, start: str) -> list[str]:
        return next(row for row in self.rows if row and row[0].startswith(start))

    def has_row(self, start: str) -> bool:
        return any(row and row[0].startswith(start) for row in self.rows)


def decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))
