"""One shard of the plan: every planned input becomes one row of samples, filtered, quarantine or grouped.

For a table of samples of one task (``read_shard``), or for the predictors of several bundles (``read_rows``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.errors import AlreadyScoredError, FilteredError, InstanceError, PartOfSeriesError
from engine.ingest import deidentified, reuse
from engine.ingest.decode_process import Isolation, reader
from engine.ingest.sample import Outcome, Reading, Row, samples
from engine.ingest.series import SLICE_UIDS, in_series
from engine.ingest.throttle import Pace, meter
from engine.store import schema
from engine.store.labels import Labels, label_columns


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSpec(Reading):
    """A Reading, and what else reading a shard needs beside its plan rows."""

    folder: Path
    tasks: tuple[str, ...] = ()
    """Of the models, in the order of the rules; empty where samples are written and nothing is scored."""
    label_names: tuple[str, ...] = ()
    labels: Labels | None = None
    covariate_names: tuple[str, ...] = ()
    """Columns of the covariates that come from a table."""
    covariates: Mapping[str, Mapping[str, float | None]] | None = None
    """Their values by SOP instance UID and column; an instance that the table lacks has none."""
    pace: Pace = Pace()
    """When and how fast to read, and the staging folder of the lease."""
    isolation: Isolation | None = Isolation()
    """Bounds of the process that decodes; None decodes here, where a bad file can end the caller."""

    @property
    def staging(self) -> Path | None:
        """That of the lease; None where the folder is not held."""
        return self.pace.staging


@dataclass(slots=True)
class _Ends:
    """Where the planned rows of a shard ended; ``images``, [H, W] or [slices, H, W], go with ``samples``."""

    samples: list[Row] = field(default_factory=list)
    images: list[NDArray[np.uint8]] = field(default_factory=list)
    known: list[Row] = field(default_factory=list)
    filtered: list[Row] = field(default_factory=list)
    quarantine: list[Row] = field(default_factory=list)
    grouped: list[Row] = field(default_factory=list)

    def add(self, planned: Row, outcome: Outcome, rule: int, task: str | None) -> None:
        """Put what one rule makes of a planned row into its table; no ``task`` is every task."""
        place = {name: planned[name] for name in ("instance_index", "path", "shard", "version")}
        if isinstance(outcome, AlreadyScoredError):
            digest, route = outcome.content_sha256, outcome.route
            self.known.append({**place, "content_sha256": digest, "rule": rule, "route": route})
        elif isinstance(outcome, PartOfSeriesError):
            uids = {name: getattr(outcome, name) for name in ("sop_instance_uid", "series_instance_uid")}
            self.grouped.append({**place, **_reason(outcome), **uids, "task": task})
        elif isinstance(outcome, FilteredError | InstanceError):
            rows = self.filtered if isinstance(outcome, FilteredError) else self.quarantine
            rows.append({**place, **_reason(outcome), "task": task})
        else:
            columns, image_HW = outcome
            self.samples.append({**place, **columns})
            self.images.append(image_HW)

    def rejects(self) -> dict[str, pa.Table]:
        return {
            name: pa.Table.from_pylist(rows, schema=schema.rejects(name))
            for name, rows in (
                ("filtered", self.filtered), ("quarantine", self.quarantine), ("grouped", self.grouped)
            )
            if rows or name != "grouped"
        }  # fmt: skip


def read_shard(planned: Iterable[Row], spec: ReadSpec) -> dict[str, pa.Table]:
    """Tables ``samples``, ``filtered``, ``quarantine`` and, with slices of series, ``grouped``.

    Their rows add up to the planned ones.
    """
    ends = _read_all(list(planned), spec)
    if spec.deidentified:
        _write_deidentified(ends.samples, spec)
    return {"samples": _samples_table(ends.samples, ends.images, spec), **ends.rejects()}


def read_rows(planned: Iterable[Row], spec: ReadSpec) -> pa.Table:
    """The same as one table for predictors, all columns nullable; ``table`` is where a row stands.

    An instance has a sample for each rule that takes it, its image as bytes in that rule's size: ``rule`` is
    the place of the rule, ``route`` why it took the instance. What ends alike for every task is one row
    without a task. Earlier rows of bytes that were scored before (``spec.known``) stand where
    ``reuse.reused`` says.
    """
    ends = _read_all(list(planned), spec)
    read = pa.Table.from_pylist(ends.samples, schema=schema.routed(spec.covariate_names))
    images = pa.array([image_HW.tobytes() for image_HW in ends.images], pa.binary())
    tables = [("samples", read.append_column("image", images)), *ends.rejects().items()]
    if spec.known and ends.known:
        earlier = reuse.rows(spec.known, ends.known).items()
        tables += [(reuse.reused(name), rows) for name, rows in earlier]
    return pa.concat_tables(
        [
            _nullable(_maps_as_bytes(table)).append_column("table", _repeated(name, table))
            for name, table in tables
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
    read = _outcomes([row["path"] for row in rows], spec)
    if any(rule.grain == "series" for rule in spec.rules):
        read = _by_series(read, spec)
    for row, found in zip(rows, read, strict=True):
        outcomes = [_labelled(outcome, spec) for outcome in found]
        if _is_for_all(outcomes):
            ends.add(row, outcomes[0], 0, None)
            continue
        for rule, outcome in enumerate(outcomes):
            ends.add(row, outcome, rule, spec.tasks[rule] if spec.tasks else None)
    return ends


def _is_for_all(outcomes: Sequence[Outcome]) -> bool:
    """Whether every rule refuses an instance for one reason."""
    first = outcomes[0]
    if isinstance(first, AlreadyScoredError) or not isinstance(first, FilteredError | InstanceError):
        return False
    return all(type(outcome) is type(first) for outcome in outcomes)


def _by_series(read: list[list[Outcome]], spec: ReadSpec) -> list[list[Outcome]]:
    """The outcomes of each row, one sample a series where a rule takes series."""
    by_rule = [
        in_series(of_rule, rule.slices) if rule.grain == "series" else of_rule
        for rule, of_rule in zip(spec.rules, zip(*read, strict=True), strict=True)
    ]
    return [list(found) for found in zip(*by_rule, strict=True)]


def _outcomes(paths: list[str], spec: ReadSpec) -> list[list[Outcome]]:
    outcomes: list[list[Outcome]] = []
    for count in spec.pace.turns(len(paths)):
        meter(spec.pace.per_second).take(count)
        outcomes += _read(paths[len(outcomes) : len(outcomes) + count], spec)
    return outcomes


def _read(paths: list[str], spec: ReadSpec) -> list[list[Outcome]]:
    if spec.isolation is not None:
        return reader(spec.isolation).read(spec, paths)
    return [samples(path, spec) for path in paths]


def _labelled(outcome: Outcome, spec: ReadSpec) -> Outcome:
    """A sample with its labels and covariates; what is none, or lacks a label that is asked, as the error.

    A series has those of the first of its slices that the table names.
    """
    if isinstance(outcome, FilteredError | InstanceError):
        return outcome
    columns, image = outcome
    uids = columns.pop(SLICE_UIDS, (columns["sop_instance_uid"],))
    labelled = spec.labels.values_by_uid if spec.labels else {}
    try:
        uid = next((uid for uid in uids if uid in labelled), uids[0])
        labels = label_columns(spec.labels, uid, spec.label_names)
    except FilteredError as error:
        error.content_sha256 = columns["content_sha256"]
        if spec.deidentified:
            deidentified.withdraw(spec.deidentified, columns[deidentified.FOLDER])
        return error
    table = spec.covariates or {}
    given = next((table[uid] for uid in uids if uid in table), {})
    known = {name: given.get(name) for name in spec.covariate_names}
    return {**columns, **labels, **known}, image


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
    shape = spec.rules[0].image_shape
    full = schema.stamped(schema.samples(shape, spec.label_names, spec.covariate_names), "samples")
    without_image = pa.schema([field for field in full if field.name != "image"])
    stack = np.stack(images) if images else np.zeros((0, *shape), np.uint8)
    table = pa.Table.from_pylist(rows, schema=without_image)
    return table.append_column(full.field("image"), schema.tensor_column(stack)).cast(full)
