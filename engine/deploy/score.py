"""A block of read rows through the predictors of one or several bundles, and back to tables; without Ray.

Each sample goes to the bundle whose rule took it (``engine.ingest.routing``), with that bundle's view,
covariates, calibration and checks. Its row says which one it was.

Legend: B samples of one bundle, H, W of its view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.deploy import quality
from engine.deploy.abstained import AbstainedError
from engine.deploy.bundle import Bundle, open_bundle
from engine.deploy.engines import Scores, open_predictor
from engine.imaging.overlay import enlarged
from engine.ingest import covariates
from engine.ingest.reuse import TABLES, Grid, common_grid
from engine.store import ledger, schema
from engine.store.files import code_version

_SCORED = pa.schema(
    [
        pa.field(field.name, pa.binary() if field.name == "attention_map" else field.type)
        for field in schema.predictions((1, 1))
    ]
)
"""The columns of predictions with maps as bytes: a block has them, whatever its rows are."""


class Scorer:
    """The predictors of some bundles, each opened once."""

    def __init__(self, folders: Sequence[Path], engines: Sequence[str], *, threads: int) -> None:
        """Open the bundles, each with its engine and ``threads``.

        Raises:
            BundleError, MissingDependencyError: a bundle or engine cannot be used.
        """
        bundles = [open_bundle(folder) for folder in folders]
        map_HW = common_grid(bundle.map_HW for bundle in bundles)
        self._members = [
            _Member(bundle, engine, map_HW, threads) for bundle, engine in zip(bundles, engines, strict=True)
        ]

    def score(self, rows: pa.Table) -> pa.Table:
        """The rows of ``shard.read_rows`` without images: samples scored or abstained, the rest as it was."""
        is_sample = pc.equal(rows["table"], "samples")
        parts = [_SCORED.empty_table(), rows.filter(pc.invert(is_sample)).drop_columns(["image"])]
        for place, member in enumerate(self._members):
            samples = rows.filter(pc.and_(is_sample, pc.equal(rows["rule"], place)))
            if samples.num_rows:
                parts.append(member.score(samples))
        return pa.concat_tables(parts, promote_options="default")


class _Member:
    """One bundle and its predictor."""

    def __init__(self, bundle: Bundle, engine: str, map_HW: Grid, threads: int) -> None:
        self._bundle, self._map_HW = bundle, map_HW
        self._predictor = open_predictor(bundle.folder, engine, threads=threads)
        self._told = {"task": bundle.task, "model_sha256": bundle.sha256, "code_version": code_version()}

    def score(self, samples: pa.Table) -> pa.Table:
        size_HW = self._bundle.rule.view.size_HW
        images_BHW = np.stack(
            [np.frombuffer(data.as_buffer(), np.uint8).reshape(size_HW) for data in samples["image"]]
        )
        given = self._bundle.covariates
        told_BQ = covariates.columns(samples.select(covariates.sources(given)).to_pylist(), given)
        scores = self._predictor.predict(images_BHW, told_BQ)
        maps = [enlarged(map_hw, self._map_HW).tobytes() for map_hw in scores.attention_Bhw]
        columns = {
            **{name: pa.repeat(pa.scalar(fact), samples.num_rows) for name, fact in self._told.items()},
            "predicted_months": pa.array(scores.months_B, pa.float32()),
            "sd_months": pa.array(scores.sd_B, pa.float32()),
            **_interval_columns(self._bundle, scores),
            "attention_map": pa.array(maps, pa.binary()),
        }
        found = verdicts(self._bundle, samples.select(quality.COLUMNS).to_pylist(), images_BHW, scores)
        kept = [name for name in samples.column_names if name not in {"image", *columns}]
        scored = samples.select(kept)
        for name, column in columns.items():
            scored = scored.append_column(name, column)
        return _withheld(scored, found)


def verdicts(
    bundle: Bundle, columns: Sequence[Mapping[str, Any]], images_BHW: NDArray[np.uint8], scores: Scores
) -> list[AbstainedError | None]:
    """Why each scored instance should be withheld, by all that the bundle knows; None where nothing says so.

    ``columns`` are header columns and ``original_to_network`` of each instance.
    """
    return quality.verdicts(
        columns, images_BHW, scores.sd_B,
        task=bundle.task, widest_sd=bundle.calibration.max_doubt,
        by_embedding=bundle.checks.findings(scores.embedding_BC) if bundle.checks else None,
    )  # fmt: skip


def result_tables(parts: Sequence[pa.Table], map_HW: Grid) -> dict[str, pa.Table]:
    """The tables of one scored shard in their declared schemas, rows in the order of the plan."""
    rows = pa.concat_tables(parts, promote_options="default").sort_by("instance_index")
    full = schema.stamped(schema.predictions(map_HW), "predictions")
    scored = rows.filter(pc.is_in(rows["table"], pa.array(["samples", TABLES["predictions"]])))
    maps = [np.frombuffer(data.as_buffer(), np.uint8) for data in scored["attention_map"]]
    stack = np.concatenate(maps).reshape(-1, *map_HW) if maps else np.zeros((0, *map_HW), np.uint8)
    columns = [
        schema.tensor_column(stack) if field.name == "attention_map" else scored[field.name] for field in full
    ]
    tables = {"predictions": pa.Table.from_arrays(columns, names=full.names).cast(full)}
    for name in ledger.REJECT_TABLES:
        full = schema.rejects(name)
        here = pa.array([name, TABLES.get(name, name)])
        tables[name] = rows.filter(pc.is_in(rows["table"], here)).select(full.names).cast(full)
    return tables


def _withheld(scored: pa.Table, verdicts: Sequence[AbstainedError | None]) -> pa.Table:
    """The rows with a verdict as rows of the table ``abstained``, their reason beside them."""
    told = {
        "table": ["abstained" if verdict else "samples" for verdict in verdicts],
        "reason": [verdict and verdict.reason for verdict in verdicts],
        "code": [verdict and verdict.code for verdict in verdicts],
        "message": [verdict and str(verdict) for verdict in verdicts],
    }
    for name, values in told.items():
        place = scored.column_names.index(name)
        scored = scored.set_column(place, name, pa.array(values, pa.string()))
    return scored


def _interval_columns(bundle: Bundle, scores: Scores) -> dict[str, pa.Array]:
    names = ("interval_low_months", "interval_high_months")
    interval = bundle.calibration.interval(scores.months_B, scores.sd_B)
    ends = interval or [pa.nulls(len(scores.months_B), pa.float32())] * len(names)
    return {name: pa.array(end, pa.float32()) for name, end in zip(names, ends, strict=True)}
