"""One shard of the plan: every planned input becomes one row of samples, filtered or quarantine.

For a table of samples of one task (``read_shard``), or for the predictors of several bundles (``read_rows``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.dicom.parse import Limits
from engine.errors import AlreadyScoredError, FilteredError, InstanceError
from engine.imaging.boxes import Crop
from engine.ingest import deidentified, reuse
from engine.ingest.decode_process import Isolation, Outcome, reader
from engine.ingest.instance import InputRule
from engine.ingest.sample import Reading, Row, sample
from engine.ingest.throttle import Pace, meter
from engine.store import schema
from engine.store.labels import Labels, label_columns


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSpec:
    """What reading a shard needs beside its plan rows."""

    source: str
    folder: Path
    rule: InputRule
    salt: bytes
    further_rules: tuple[InputRule, ...] = ()
    """Of the other bundles, where several score in one run (``engine.ingest.routing``)."""
    is_named: bool = False
    """Whether a rule takes only what its header names."""
    label_names: tuple[str, ...] = ()
    labels: Labels | None = None
    limits: Limits = Limits()
    deidentified: Path | None = None
    """Folder that takes a de-identified file of each sample; its table goes to ``folder``."""
    known: Path | None = None
    """Index of what was scored before (``engine.ingest.reuse``)."""
    pace: Pace = Pace()
    """When and how fast to read, and the staging folder of the lease."""
    crop: Crop | None = None
    """The part of each instance that is shown; None is all of it."""
    isolation: Isolation | None = Isolation()
    """Bounds of the process that decodes; None decodes here, where a bad file can end the caller."""

    @property
    def staging(self) -> Path | None:
        """That of the lease; None where the folder is not held."""
        return self.pace.staging

    @property
    def reading(self) -> Reading:
        """What the process that decodes needs to know; the labels stay here."""
        return Reading(
            source=self.source, rule=self.rule, salt=self.salt, further_rules=self.further_rules,
            is_named=self.is_named, limits=self.limits, deidentified=self.deidentified, known=self.known,
            crop=self.crop,
        )  # fmt: skip


@dataclass(slots=True)
class _Ends:
    """Where the planned rows of a shard ended; ``images`` go with ``samples``."""

    samples: list[Row] = field(default_factory=list)
    images: list[NDArray[np.uint8]] = field(default_factory=list)
    known: list[Row] = field(default_factory=list)
    filtered: list[Row] = field(default_factory=list)
    quarantine: list[Row] = field(default_factory=list)

    def rejects(self) -> dict[str, pa.Table]:
        return {
            name: pa.Table.from_pylist(rows, schema=schema.rejects(name))
            for name, rows in (("filtered", self.filtered), ("quarantine", self.quarantine))
        }


def read_shard(planned: Iterable[Row], spec: ReadSpec) -> dict[str, pa.Table]:
    """Tables ``samples``, ``filtered`` and ``quarantine``; their rows add up to the planned ones."""
    ends = _read_all(list(planned), spec)
    if spec.deidentified:
        _write_deidentified(ends.samples, spec)
    return {"samples": _samples_table(ends.samples, ends.images, spec), **ends.rejects()}


def read_rows(planned: Iterable[Row], spec: ReadSpec) -> pa.Table:
    """The same as one table for predictors, all columns nullable; ``table`` is where a row stands.

    Samples have their image as bytes, in the size of the rule that took them: its place is ``rule``, why it
    took them is ``route``. Earlier rows of bytes that were scored before (``spec.known``) stand where
    ``reuse.TABLES`` says.
    """
    ends = _read_all(list(planned), spec)
    samples = pa.Table.from_pylist(ends.samples, schema=schema.ROUTED)
    images = pa.array([image_HW.tobytes() for image_HW in ends.images], pa.binary())
    tables = {"samples": samples.append_column("image", images), **ends.rejects()}
    if spec.known and ends.known:
        tables |= {reuse.TABLES[name]: rows for name, rows in reuse.rows(spec.known, ends.known).items()}
    return pa.concat_tables(
        [
            _nullable(_maps_as_bytes(table)).append_column("table", _repeated(name, table))
            for name, table in tables.items()
        ],
        promote_options="default",
    )


def _nullable(table: pa.Table) -> pa.Table:
    return table.cast(
        pa.schema([field.with_nullable(nullable=True) for field in table.schema.remove_metadata()])
    )


def _repeated(word: str, table: pa.Table) -> pa.Array:
    return pa.repeat(pa.scalar(word), table.num_rows)


def _maps_as_bytes(table: pa.Table) -> pa.Table:
    if "attention_map" not in table.column_names:
        return table
    maps = pa.array(
        [map_hw.tobytes() for map_hw in schema.tensor_values(table["attention_map"])], pa.binary()
    )
    return table.set_column(table.column_names.index("attention_map"), "attention_map", maps)


def _read_all(rows: list[Row], spec: ReadSpec) -> _Ends:
    ends = _Ends()
    for row, outcome in zip(rows, _outcomes([row["path"] for row in rows], spec), strict=True):
        place = {name: row[name] for name in ("instance_index", "path", "shard", "version")}
        labelled = _labelled(outcome, spec)
        if isinstance(labelled, AlreadyScoredError):
            rule, route = labelled.route
            digest = labelled.content_sha256
            ends.known.append({**place, "content_sha256": digest, "rule": rule, "route": route})
        elif isinstance(labelled, FilteredError):
            ends.filtered.append({**place, **_reason(labelled)})
        elif isinstance(labelled, InstanceError):
            ends.quarantine.append({**place, **_reason(labelled)})
        else:
            columns, image_HW = labelled
            ends.samples.append({**place, **columns})
            ends.images.append(image_HW)
    return ends


def _outcomes(paths: list[str], spec: ReadSpec) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for count in spec.pace.turns(len(paths)):
        meter(spec.pace.per_second).take(count)
        outcomes += _read(paths[len(outcomes) : len(outcomes) + count], spec)
    return outcomes


def _read(paths: list[str], spec: ReadSpec) -> list[Outcome]:
    if spec.isolation is not None:
        return reader(spec.isolation).read(spec.reading, paths)
    return [_outcome(path, spec.reading) for path in paths]


def _outcome(path: str, reading: Reading) -> Outcome:
    try:
        return sample(path, reading)
    except (FilteredError, InstanceError) as error:
        return error


def _labelled(outcome: Outcome, spec: ReadSpec) -> Outcome:
    """A sample with its label columns; what is none, or has no label where one is asked, as the error."""
    if isinstance(outcome, FilteredError | InstanceError):
        return outcome
    columns, image_HW = outcome
    try:
        labels = label_columns(spec.labels, columns["sop_instance_uid"], spec.label_names)
    except FilteredError as error:
        error.content_sha256 = columns["content_sha256"]
        if spec.deidentified:
            deidentified.withdraw(spec.deidentified, columns[deidentified.FOLDER])
        return error
    return {**columns, **labels}, image_HW


def _write_deidentified(samples: list[Row], spec: ReadSpec) -> None:
    """Take what the export gave out of the samples, and write it as the shard's table of the export."""
    rows = [{"instance_index": row["instance_index"], **row.pop(deidentified.FOLDER)} for row in samples]
    if samples:
        deidentified.write_table(spec.folder, samples[0]["shard"], rows)


def _reason(error: FilteredError | InstanceError) -> Row:
    return {
        "reason": error.reason,
        "code": error.code,
        "message": str(error),
        "sop_instance_uid": None,
        "content_sha256": error.content_sha256,
    }


def _samples_table(rows: list[Row], images: list[Any], spec: ReadSpec) -> pa.Table:
    size = spec.rule.view.size_HW
    full = schema.stamped(schema.samples(size, spec.label_names), "samples")
    without_image = pa.schema([field for field in full if field.name != "image"])
    stack = np.stack(images) if images else np.zeros((0, *size), np.uint8)
    table = pa.Table.from_pylist(rows, schema=without_image)
    return table.append_column(full.field("image"), schema.tensor_column(stack)).cast(full)
