"""What teachers give for one shard of an ingest folder, as a shard of a teacher cache. No Ray here.

Legend: B batch, N samples, V views, Q covariates, K bins, H, W view, T distributions to average.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.distillation.teacher_cache import OUTPUTS, SPATIAL, Keys, digests, write_shard
from engine.errors import TrainingError, UnknownNameError, UsageError
from engine.ingest import covariates
from engine.ingest.samples_folder import covariate_columns, read_samples
from engine.models.grad_cam import attention
from engine.models.network import ModelFacts, Network, Outputs, frozen
from engine.store import ledger
from engine.store.schema import tensor_values
from engine.training.forward import outputs, views_of
from engine.training.learning import Learnable
from engine.training.run_folder import load_net

BATCH = 64
_LEVELS = 255.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSpec:
    """From which samples, into which cache, by which runs of a task; ``facts`` are the cache's manifest."""

    data: Path
    folder: Path
    runs: tuple[Path, ...]
    task: Learnable
    facts: Mapping[str, Any]
    device: str = "cpu"
    threads: int = 1

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names in OUTPUTS."""
        return tuple(self.facts["outputs"])

    @property
    def passes(self) -> int:
        """Forward passes of each image (``forward.views_of``)."""
        return int(self.facts["passes"])


def require_outputs(names: Sequence[str], nets: Sequence[Network]) -> None:
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


def open_teachers(
    runs: Sequence[Path], network: Callable[[ModelFacts], Network], device: torch.device
) -> list[Network]:
    """The runs' networks, frozen.

    Raises:
        TrainingError, BundleError: a run has not finished, or its weights cannot be read.
    """
    return [frozen(load_net(run, network)).to(device) for run in runs]


def record_shard(shard: int, path: Path, nets: Sequence[Network], spec: RecordSpec) -> int:
    """Write shard ``shard`` of the cache from the sample table at ``path``; returns its rows."""
    given = [covariates.chosen(spec.task.covariates, net.facts.covariates) for net in nets]
    columns = ["sop_instance_uid", "content_sha256", "original_to_network", "image"]
    columns += [name for one in given for name in covariates.sources(one)]
    table = read_samples(path, columns, ledger.superseded(spec.data))
    images = tensor_values(table["image"])
    images_NVHW = images.reshape(len(images), -1, *images.shape[-2:])
    known = [covariate_columns(table, one) for one in given]
    arrays = recorded_outputs(nets, images_NVHW, known, spec.outputs, passes=spec.passes)
    keys = Keys(
        uids=table["sop_instance_uid"].to_pylist(),
        contents=table["content_sha256"].to_pylist(),
        to_network_N9=np.array(table["original_to_network"].to_pylist(), np.float64)[:, :9],
    )
    write_shard(spec.folder, shard, keys, arrays, digests(spec.facts))
    return int(table.num_rows)


def recorded_outputs(
    nets: Sequence[Network],
    images_NVHW: NDArray[np.uint8],
    covariates_NQ: Sequence[NDArray[np.float32]],
    names: Sequence[str],
    *,
    passes: int = 1,
) -> dict[str, NDArray[Any]]:
    """The columns of some samples by name, in the forms of OUTPUTS; ``covariates_NQ`` are by network.

    The logits are those of the mean distribution over all networks and passes, the rest is of the first pass
    of the first network.

    Raises:
        TrainingError: an output is not finite.
    """
    found: list[dict[str, NDArray[Any]]] = []
    for see in views_of(passes):
        for net, known_NQ in zip(nets, covariates_NQ, strict=True):
            keep = partial(_columns, names=("logits",) if found else names)
            found.append(outputs(net, images_NVHW, known_NQ, keep, batch_size=BATCH, see=see))
    columns = {**found[0], "logits": _mean_logits([one["logits"] for one in found])}
    if not all(np.isfinite(values).all() for values in columns.values()):
        raise TrainingError("a teacher's output is not finite in float16 or float32: it cannot be recorded")
    return columns


def _columns(answer: Outputs, names: Sequence[str]) -> dict[str, Tensor]:
    columns = {"logits": answer.logits_BK.float()}
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


def _mean_logits(logits: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The log of the mean of the distributions; of a single one its logits as they are."""
    if len(logits) == 1:
        return logits[0]
    stacked_TNK = torch.stack([torch.from_numpy(logits_NK).log_softmax(1) for logits_NK in logits])
    mean_NK: NDArray[np.float32] = (stacked_TNK.logsumexp(0) - math.log(len(logits))).numpy()
    return mean_NK
