"""One shard of the plan: every planned input becomes one row of samples, filtered or quarantine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine import schema, sources
from engine.dicom.guard import Limits
from engine.errors import FilteredError, InstanceError
from engine.instance import InputRule, prepare
from engine.labels import Labels, label_columns

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSpec:
    """What reading a shard needs beside its plan rows."""

    source: str
    folder: Path
    rule: InputRule
    salt: bytes
    label_names: tuple[str, ...] = ()
    labels: Labels | None = None
    limits: Limits = Limits()


def read_shard(planned: Iterable[Row], spec: ReadSpec) -> dict[str, pa.Table]:
    """Tables ``samples``, ``filtered`` and ``quarantine``; their rows add up to the planned ones."""
    samples: list[Row] = []
    images: list[Any] = []
    rejects: dict[str, list[Row]] = {"filtered": [], "quarantine": []}
    for row in planned:
        place = {name: row[name] for name in ("instance_index", "path", "shard")}
        try:
            sample, image_HW = _sample(row["path"], spec)
        except FilteredError as error:
            rejects["filtered"].append({**place, **_reason(error)})
        except InstanceError as error:
            rejects["quarantine"].append({**place, **_reason(error)})
        else:
            samples.append({**place, **sample})
            images.append(image_HW)
    tables = {"samples": _samples_table(samples, images, spec)}
    for name, rows in rejects.items():
        tables[name] = pa.Table.from_pylist(rows, schema=schema.stamped(schema.REJECTS, name))
    return tables


def _sample(path: str, spec: ReadSpec) -> tuple[Row, Any]:
    data = sources.read(spec.source, path, max_bytes=spec.limits.file_bytes)
    instance = prepare(data, spec.rule, spec.salt, spec.limits)
    labels = label_columns(spec.labels, instance.columns["sop_instance_uid"], spec.label_names)
    row = {
        **instance.columns,
        **labels,
        "content_sha256": instance.content_sha256,
        "original_to_network": instance.geometry.matrix_33.reshape(-1).tolist(),
    }
    return row, instance.image_HW


def _reason(error: FilteredError | InstanceError) -> Row:
    return {"reason": error.reason, "code": error.code, "message": str(error), "sop_instance_uid": None}


def _samples_table(rows: list[Row], images: list[Any], spec: ReadSpec) -> pa.Table:
    size = spec.rule.view.size_HW
    full = schema.stamped(schema.samples(size, spec.label_names), "samples")
    without_image = pa.schema([field for field in full if field.name != "image"])
    stack = np.stack(images) if images else np.zeros((0, *size), np.uint8)
    table = pa.Table.from_pylist(rows, schema=without_image)
    return table.append_column(full.field("image"), schema.tensor_column(stack)).cast(full)
