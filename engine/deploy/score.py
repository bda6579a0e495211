"""Samples to result rows: for bulk scoring and for HTTP alike, by one function. Without Ray.

A block of read rows goes through the predictors of one or several bundles, each sample through that of the
bundle whose rule took it (``engine.ingest.routing``), and back to tables.

Legend: B samples of one bundle, V views, H, W of its view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.deploy import quality
from engine.deploy.abstained import AbstainedError
from engine.deploy.bundle import ATTENTION, EMBEDDING, Bundle, open_bundle
from engine.deploy.engines import Predictor, open_predictor
from engine.evaluation.answer import Raw, Row
from engine.ingest import covariates
from engine.ingest.reuse import TABLES, reused
from engine.store import ledger, schema
from engine.store.counts import PREDICTIONS, predictions_of
from engine.store.files import code_version
from engine.tasks import task_named
from engine.tasks.task import Task

PROVENANCE = ("task", "model_sha256", "code_version")
"""Columns that say what made a row."""
MAP = "attention_map"
"""Column of the attention map."""
FAR = "is_far"
"""Column of a block, in no table: ``Checks.is_far`` of each film; null where nothing was judged here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """An opened bundle, the task that it answers, and its predictor."""

    bundle: Bundle
    task: Task
    predictor: Predictor

    @property
    def provenance(self) -> dict[str, str]:
        """The values of PROVENANCE."""
        values = (self.task.name, self.bundle.sha256, code_version())
        return dict(zip(PROVENANCE, values, strict=True))


def open_model(
    folder: Path, engine: str | None = None, *, threads: int, expected: str | None = None
) -> Model:
    """Open a bundle with its own engine, or with another one; ``expected`` as in ``open_bundle``.

    Raises:
        BundleError, MissingDependencyError: the bundle or the engine cannot be used.
        UnknownNameError: this release has no such task.
    """
    bundle = open_bundle(folder, expected)
    predictor = open_predictor(folder, engine or bundle.engine, threads=threads)
    open_bundle(folder, bundle.sha256)  # the files that were loaded are those that were checked
    return Model(bundle=bundle, task=task_named(bundle.task), predictor=predictor)


def score_rows(
    model: Model, samples: Sequence[Row], images_BVHW: NDArray[np.uint8]
) -> list[dict[str, Any] | AbstainedError]:
    """The result row of each sample, or why its score is withheld.

    A row holds the columns of the sample, those that say what made it, the answer's own, and the attention
    map [h, w] where the graph gives one.
    """
    return _rows(model, samples, images_BVHW, _raw(model, samples, images_BVHW))


def _raw(model: Model, samples: Sequence[Row], images_BVHW: NDArray[np.uint8]) -> Raw:
    return model.predictor.predict(images_BVHW, covariates.columns(samples, model.bundle.covariates))


def _rows(
    model: Model, samples: Sequence[Row], images_BVHW: NDArray[np.uint8], raw: Raw
) -> list[dict[str, Any] | AbstainedError]:
    answer = model.task.answer
    columns = answer.rows(raw, samples, model.bundle.calibration)
    maps = {MAP: raw[ATTENTION]} if ATTENTION in raw else {}
    found = verdicts(model, samples, images_BVHW, raw, columns[answer.doubt])
    said = {**columns, **maps}
    return [
        verdict or {**sample, **model.provenance, **dict(zip(said, values, strict=True))}
        for sample, verdict, *values in zip(samples, found, *said.values(), strict=True)
    ]


def verdicts(
    model: Model, samples: Sequence[Row], images_BVHW: NDArray[np.uint8], raw: Raw, doubt_B: Any
) -> list[AbstainedError | None]:
    """Why each score should be withheld, by all that the bundle knows; None where nothing says so."""
    checks = model.bundle.checks
    return quality.verdicts(
        samples, images_BVHW, doubt_B,
        limits=model.task.limits, max_doubt=model.bundle.calibration["max_doubt"],
        by_embedding=checks.findings(raw[EMBEDDING]) if checks else None,
    )  # fmt: skip


def predictions_schema(bundle: Bundle) -> pa.Schema:
    """The stamped schema of a bundle's table of predictions."""
    fields = [column.field() for column in task_named(bundle.task).answer.columns]
    return schema.stamped(schema.predictions(fields, bundle.map_HW), PREDICTIONS)


class Scorer:
    """The models of some bundles, each opened once."""

    def __init__(
        self, folders: Sequence[Path], engines: Sequence[str], expected: Sequence[str], *, threads: int
    ) -> None:
        """Open the bundles, each with its engine, its expected identity, and ``threads``.

        Raises:
            BundleError, MissingDependencyError: a bundle or engine cannot be used.
        """
        self._models = [
            open_model(folder, engine, threads=threads, expected=sha256)
            for folder, engine, sha256 in zip(folders, engines, expected, strict=True)
        ]
        # a block has the columns of predictions, all nullable and maps as bytes, whatever its rows are
        fields = [field for model in self._models for field in predictions_schema(model.bundle)]
        types = {field.name: pa.binary() if field.name == MAP else field.type for field in fields}
        self._empty = pa.schema({**types, FAR: pa.list_(pa.bool_())}).empty_table()

    def score(self, rows: pa.Table) -> pa.Table:
        """The rows of ``shard.read_rows`` without images: samples scored or abstained, the rest as it was."""
        is_sample = pc.equal(rows["table"], "samples")
        parts = [self._empty, rows.filter(pc.invert(is_sample)).drop_columns(["image"])]
        for place, model in enumerate(self._models):
            samples = rows.filter(pc.and_(is_sample, pc.equal(rows["rule"], place)))
            if samples.num_rows:
                parts.append(_scored(model, samples))
        return pa.concat_tables(parts, promote_options="default")


def _scored(model: Model, samples: pa.Table) -> pa.Table:
    """The samples of one model as rows of predictions, or of ``abstained`` with their reason."""
    size_HW = model.bundle.rule.view.size_HW
    images_BVHW = np.stack(
        [np.frombuffer(data.as_buffer(), np.uint8).reshape(-1, *size_HW) for data in samples["image"]]
    )
    read = samples.drop_columns(["image"])
    rows = read.to_pylist()
    raw = _raw(model, rows, images_BVHW)
    results = _rows(model, rows, images_BVHW, raw)
    withheld = [result if isinstance(result, AbstainedError) else None for result in results]
    scored = [{} if isinstance(result, AbstainedError) else result for result in results]
    texts = {
        "table": ["abstained" if verdict else "samples" for verdict in withheld],
        "reason": [verdict and verdict.reason for verdict in withheld],
        "code": [verdict and verdict.code for verdict in withheld],
        "message": [verdict and str(verdict) for verdict in withheld],
        **{name: [fact] * len(results) for name, fact in model.provenance.items()},
    }
    columns = {name: pa.array(values, pa.string()) for name, values in texts.items()}
    for column in model.task.answer.columns:
        columns[column.name] = pa.array([row.get(column.name) for row in scored], column.type)
    checks = model.bundle.checks
    far = checks.is_far(raw[EMBEDDING]).tolist() if checks else [None] * len(results)
    columns[FAR] = pa.array(far, pa.list_(pa.bool_()))
    columns[MAP] = pa.array([row[MAP].tobytes() if MAP in row else None for row in scored], pa.binary())
    kept = read.drop_columns([name for name in columns if name in read.column_names])
    for name, values in columns.items():
        kept = kept.append_column(name, values)
    return kept


def result_tables(parts: Sequence[pa.Table], schemas: Mapping[str, pa.Schema]) -> dict[str, pa.Table]:
    """The tables of one scored shard in their declared schemas, rows in the order of the plan.

    ``schemas`` are those of the predictions, by task: there is a table for each.
    """
    rows = pa.concat_tables(parts, promote_options="default").sort_by(
        [("instance_index", "ascending"), ("task", "ascending")]
    )
    is_scored = pc.is_in(rows["table"], pa.array(["samples", reused(PREDICTIONS)]))
    tables = {}
    for task, full in schemas.items():
        scored = rows.filter(pc.and_(is_scored, pc.equal(rows["task"], task)))
        columns = [
            _map_column(scored[MAP], field.type.shape) if field.name == MAP else scored[field.name]
            for field in full
        ]
        tables[predictions_of(task)] = pa.Table.from_arrays(columns, names=full.names).cast(full)
    for name in ledger.REJECT_TABLES:
        full = schema.rejects(name)
        here = rows.filter(pc.is_in(rows["table"], pa.array([name, TABLES.get(name, name)])))
        if here.num_rows or name != "grouped":
            tables[name] = here.select(full.names).cast(full)
    return tables


def _map_column(maps: pa.ChunkedArray, map_HW: Sequence[int]) -> pa.ExtensionArray:
    values = [np.frombuffer(data.as_buffer(), np.uint8) for data in maps]
    return schema.tensor_column(np.concatenate([np.zeros(0, np.uint8), *values]).reshape(-1, *map_HW))
