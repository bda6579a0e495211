"""Ingest folders of one archive, each showing another region, joined to one folder of several views a sample.

The joined folder is an ingest folder like any other, but that its images are [V, H, W]; training, the teacher
cache and `verify` read it as they read one of a single view. Header columns, labels and geometry are those of
the first folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import TableError, UsageError
from engine.ingest.samples_folder import data_facts
from engine.store import ledger
from engine.store.files import code_version, read_json, sha256_of_facts
from engine.store.schema import tensor_column, tensor_values

_LEAST_VIEWS = 2


def join(folders: Sequence[Path], out: Path) -> dict[str, int]:
    """Write ``out`` from finished ingest folders, whose order is that of the views; gives its counts.

    The same call again goes on where it was stopped. Hold the lease of ``out``.

    Raises:
        UsageError: fewer than two folders, or they are of different archives, shards or sizes.
        TableError: a sample is missing in one of them.
    """
    facts = joined_manifest(folders)
    first = folders[0]
    ledger.begin(out, facts)
    plan = ledger.read_plan(first)
    ledger.write_plan(out, plan)
    for shard in ledger.missing_shards(out, plan):
        tables = {
            path.stem: ledger.read_table(path) for path in ledger.shard_folder(first, shard).glob("*.parquet")
        }
        tables["samples"] = _with_views(tables["samples"], folders[1:], shard)
        ledger.commit_shard(out, shard, tables)
    return ledger.close(out, plan, {})


def joined_manifest(folders: Sequence[Path]) -> dict[str, Any]:
    """What the joined folder says of how it was made.

    Raises:
        UsageError, TableError: see ``join``.
    """
    if len(folders) < _LEAST_VIEWS:
        raise UsageError("a join needs at least two folders of `osteoray ingest`")
    data = [data_facts(folder) for folder in folders]
    manifests = [read_json(folder / "manifest.json") for folder in folders]
    for folder, facts, manifest in zip(folders[1:], data[1:], manifests[1:], strict=True):
        if facts["plan_sha256"] != data[0]["plan_sha256"]:
            raise UsageError(f"{folder} was ingested from another archive or with another shard size")
        if manifest["task"] != manifests[0]["task"]:
            raise UsageError(f"{folder} was ingested for another task or with another --size")
    if any("views" in manifest for manifest in manifests):
        raise UsageError("a joined folder cannot be joined again: name the folders it was made from")
    views = [
        {"folder": str(folder.resolve()), "crop": manifest.get("crop"), "sha256": facts["sha256"]}
        for folder, manifest, facts in zip(folders, manifests, data, strict=True)
    ]
    names = ("task", "shard_size", "labels_sha256")
    kept = {name: manifests[0][name] for name in names if name in manifests[0]}
    config = {**kept, "views": [view["sha256"] for view in views]}
    return {
        "kind": "ingest",
        "source": manifests[0].get("source"),
        "config_sha256": sha256_of_facts(config),
        **kept,
        "views": views,
        "code_version": code_version(),
    }


def _with_views(samples: pa.Table, others: Sequence[Path], shard: int) -> pa.Table:
    """The first view's table with the images of all views, [V, H, W] a row."""
    wanted = samples["sop_instance_uid"]
    stacks = [tensor_values(samples["image"])]
    for folder in others:
        path = ledger.shard_folder(folder, shard) / "samples.parquet"
        other = ledger.read_table(path).select(["sop_instance_uid", "image"])
        places = pc.index_in(wanted, other["sop_instance_uid"].combine_chunks())
        if places.null_count:
            raise TableError(
                f"{folder} lacks {places.null_count} sample(s) of shard {shard} that the first folder holds: "
                "ingest both with the same --labels"
            )
        stacks.append(tensor_values(other["image"])[places.to_numpy()])
    images = tensor_column(np.stack(stacks, axis=1))
    place = samples.column_names.index("image")
    field = pa.field("image", images.type, nullable=False)
    return samples.set_column(place, field, images).replace_schema_metadata(samples.schema.metadata)
