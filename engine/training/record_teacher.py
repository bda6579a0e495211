"""What teachers say of one shard of an ingest folder, as a shard of a teacher cache. No Ray here.

Legend: B batch, N samples, V views, Q covariates, K bins, H, W view.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.distillation.teacher_cache import OUTPUTS, SPATIAL, Keys, digests, write_shard
from engine.errors import TrainingError, UnknownNameError, UsageError
from engine.ingest import covariates
from engine.ingest.covariates import Covariate
from engine.models.grad_cam import attention
from engine.models.network import AgeNet, Outputs, frozen
from engine.store import ledger
from engine.store.schema import tensor_values
from engine.training.run_folder import load_net
from engine.training.test_time_augmentation import looks_at

BATCH = 64
_LEVELS = 255.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TeachSpec:
    """From which samples, into which cache, by which runs; ``facts`` are the cache's manifest."""

    data: Path
    folder: Path
    runs: tuple[Path, ...]
    covariates: tuple[Covariate, ...]
    """Of the task; each network takes those that its facts name."""
    facts: Mapping[str, Any]
    device: str = "cpu"
    threads: int = 1

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names in OUTPUTS."""
        return tuple(self.facts["outputs"])

    @property
    def looks(self) -> int:
        """How many a teacher takes at each image (``engine.training.test_time_augmentation``)."""
        return int(self.facts["looks"])


def require_outputs(names: Sequence[str], nets: Sequence[AgeNet]) -> None:
    """Refuse what these teachers cannot give.

    Raises:
        UnknownNameError: no such output.
        UsageError: a map of several teachers or of a network of several views; no logits; unequal bins.
    """
    for name in names:
        if name not in OUTPUTS:
            raise UnknownNameError("output", name, OUTPUTS)
    if "logits" not in names:
        raise UsageError("every cache has the logits: name them in --outputs")
    if len({net.facts.num_bins for net in nets}) > 1:
        raise UsageError("these runs have different numbers of bins: their distributions cannot be averaged")
    beyond = [name for name in names if name != "logits"]
    if len(nets) > 1 and beyond:
        raise UsageError(f"{beyond[0]} is recorded of a single run: give one RUN, or --outputs logits")
    if nets[0].facts.num_views > 1 and SPATIAL & set(names):
        raise UsageError("a network of several views gives logits and embedding only")


def sample_shards(data: Path) -> list[tuple[Path, int]]:
    """The sample tables of an ingest folder that hold a valid sample, and their number of such samples."""
    superseded = ledger.superseded(data)
    counted = []
    for path in ledger.tables_of(data, "samples"):
        index = ledger.read_table(path, columns=["instance_index"])["instance_index"]
        count = index.length() - int(pc.sum(pc.is_in(index, superseded), min_count=0).as_py())
        if count:
            counted.append((path, count))
    return counted


def open_teachers(runs: Sequence[Path], device: torch.device) -> list[AgeNet]:
    """The runs' networks, frozen.

    Raises:
        TrainingError, BundleError: a run has not finished, or its weights cannot be read.
    """
    return [frozen(load_net(run)).to(device) for run in runs]


def teach_shard(shard: int, path: Path, nets: Sequence[AgeNet], spec: TeachSpec) -> int:
    """Write shard ``shard`` of the cache from the sample table at ``path``; returns its rows."""
    of_net = {
        names: covariates.chosen(spec.covariates, names) for names in (n.facts.covariates for n in nets)
    }
    sources = [column for given in of_net.values() for column in covariates.sources(given)]
    columns = ["sop_instance_uid", "content_sha256", "original_to_network", *sources]
    table = ledger.read_table(path, columns=["instance_index", "image", *dict.fromkeys(columns)])
    table = table.filter(pc.invert(pc.is_in(table["instance_index"], ledger.superseded(spec.data))))
    images_NVHW = _with_views(tensor_values(table["image"]))
    told = {names: _columns(table, given) for names, given in of_net.items()}
    parts: dict[str, list[NDArray[Any]]] = defaultdict(list)
    for start in range(0, table.num_rows, BATCH):
        part = slice(start, start + BATCH)
        given = {name: columns_NQ[part] for name, columns_NQ in told.items()}
        for name, values in taught(nets, images_NVHW[part], given, spec.outputs, looks=spec.looks).items():
            parts[name].append(values)
    keys = Keys(
        uids=table["sop_instance_uid"].to_pylist(),
        contents=table["content_sha256"].to_pylist(),
        to_network_N9=np.array(table["original_to_network"].to_pylist(), np.float64)[:, :9],
    )
    arrays = {name: np.concatenate(values) for name, values in parts.items()}
    write_shard(spec.folder, shard, keys, arrays, digests(spec.facts))
    return int(table.num_rows)


def taught(
    nets: Sequence[AgeNet],
    images_BVHW: NDArray[np.uint8],
    told: Mapping[tuple[str, ...], NDArray[np.float32]],
    names: Sequence[str],
    *,
    looks: int = 1,
) -> dict[str, NDArray[Any]]:
    """The columns of some samples by name, in the forms of OUTPUTS; ``told`` are covariates by what they are.

    The logits are those of the mean distribution over all networks and looks, the rest is of the first look.

    Raises:
        TrainingError: what a network says is not finite.
    """
    device = next(nets[0].parameters()).device
    x_BVHW = torch.from_numpy(images_BVHW).to(device).float() / 255
    with torch.inference_mode():
        given = [torch.from_numpy(told[net.facts.covariates]).to(device) for net in nets]
        logits: list[Tensor] = []
        beyond: dict[str, Tensor] = {}
        for look, seen_BVHW in enumerate(looks_at(x_BVHW, looks)):
            answers = [net(seen_BVHW, told_BQ) for net, told_BQ in zip(nets, given, strict=True)]
            logits += [answer.logits_BK for answer in answers]
            if look == 0:
                beyond = _beyond_logits(answers[0], names)
        columns = {"logits": _mean_logits(logits).float(), **beyond}
    if not all(torch.isfinite(values).all() for values in columns.values()):
        raise TrainingError("a teacher's output is not finite in float16 or float32: it cannot be recorded")
    return {name: values.cpu().numpy() for name, values in columns.items()}


def _beyond_logits(answer: Outputs, names: Sequence[str]) -> dict[str, Tensor]:
    columns: dict[str, Tensor] = {}
    if "embedding" in names:
        columns["embedding"] = answer.embedding_BC.half()
    if "attention" in names:
        map_Bhw = attention(answer.logits_BK, answer.class_maps_BKhw)
        share_Bhw = map_Bhw / map_Bhw.amax((1, 2), keepdim=True).clamp_min(1e-12)
        columns["attention"] = (share_Bhw * _LEVELS).round().to(torch.uint8)
    if "dense" in names:
        columns["dense"] = answer.class_maps_BKhw.half()
    if "features" in names:
        columns |= {f"features_{tap}": maps.half() for tap, maps in enumerate(answer.features)}
    return columns


def _mean_logits(logits: Sequence[Tensor]) -> Tensor:
    """The log of the mean of the distributions; of a single one its logits as they are."""
    if len(logits) == 1:
        return logits[0]
    stacked_TBK = torch.stack([logits_BK.float().log_softmax(1) for logits_BK in logits])
    return stacked_TBK.logsumexp(0) - math.log(len(logits))


def _columns(table: pa.Table, given: Sequence[Covariate]) -> NDArray[np.float32]:
    return covariates.columns(table.select(covariates.sources(given)).to_pylist(), given)


def _with_views(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images [N, H, W] of one view, or [N, V, H, W], as [N, V, H, W]."""
    return images[:, None] if images.ndim == 3 else images  # noqa: PLR2004
