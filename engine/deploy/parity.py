"""The parity gate: a compiled engine must answer as torch does, on real samples, by the gates of its task.

Legend: B samples, V views, Q covariate columns, H, W network view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.deploy.engines import Predictor
from engine.errors import ParityError, TableError
from engine.evaluation.answer import Gate, Raw
from engine.ingest import covariates
from engine.ingest.covariates import Covariate
from engine.ingest.samples_folder import batches, numbers
from engine.store import ledger
from engine.store.schema import tensor_values


@dataclass(frozen=True, slots=True, kw_only=True)
class ParitySamples:
    """Real samples as a predictor takes them, and their labels [B] by column (NaN where one is absent)."""

    images_BVHW: NDArray[np.uint8]
    covariates_BQ: NDArray[np.float32]
    labels: Raw


def parity_samples(
    folder: Path, count: int, given: Sequence[Covariate], labels: Sequence[str] = ()
) -> ParitySamples:
    """Up to ``count`` real samples of an ingest folder, spread over its shards.

    With their covariates ``given`` and the columns ``labels``. Held-out samples come first where the label
    table has a split.

    Raises:
        TableError: the folder holds no samples.
    """
    per_shard = max(count // max(len(ledger.tables_of(folder, "samples")), 1), 1)
    wanted = ["image", "split", *covariates.sources(given), *labels]
    parts = [table.sort_by([("split", "ascending")]).slice(0, per_shard) for table in batches(folder, wanted)]
    if not sum(part.num_rows for part in parts):
        raise TableError(f"{folder} holds no samples: the parity gate needs real ones")
    images = np.concatenate([tensor_values(part["image"]) for part in parts])[:count]
    rows = pa.concat_tables(
        [part.drop_columns(["image"]) for part in parts], promote_options="default"
    ).slice(0, count)
    return ParitySamples(
        images_BVHW=images.reshape(len(images), -1, *images.shape[-2:]),
        covariates_BQ=covariates.columns(rows.to_pylist(), given),
        labels={name: numbers(rows, name, pa.float64()) for name in labels},
    )


def require_parity(
    torch: Predictor, engine: Predictor, samples: ParitySamples, gates: Sequence[Gate]
) -> dict[str, dict[str, Any]]:
    """What ``engine`` departs by from ``torch``, by name of the gate: unit, limit and departure.

    Raises:
        ParityError: a departure is above its limit, or is not finite.
    """
    expected, found = (
        predictor.predict(samples.images_BVHW, samples.covariates_BQ) for predictor in (torch, engine)
    )
    facts, broken = {}, []
    for gate in gates:
        departure = float(gate.departure(expected, found, samples.labels))
        facts[gate.name] = {"unit": gate.unit, "limit": gate.limit, "departure": departure}
        if not departure <= gate.limit:
            by = f"{departure:.3g} {gate.unit}".rstrip()
            broken.append(f"{gate.name} by {by}, at most {gate.limit:g} is allowed")
    if broken:
        raise ParityError(
            f"the engine departs from torch in {'; '.join(broken)}: no bundle was written; "
            "try --engine onnxruntime"
        )
    return facts
