"""The folder of one training: facts, metrics a line an epoch, final weights.

    RUN/run.json            recipe, data, code version, evaluation; ``status`` running or done
    RUN/metrics.jsonl       one object an epoch; the same in RUN/tensorboard/
    RUN/model.safetensors   the averaged weights
    RUN/evaluation.parquet  predictions of the test split; validation.parquet of the validation split
    RUN/cases.parquet       some test cases with image and attention map
    RUN/ray/                checkpoints

``run.json`` is begun before the first step and completed after the evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import TableError, TrainingError
from engine.store.files import read_json, replacing

if TYPE_CHECKING:
    from engine.models.network import ModelFacts, Network

RUN_NAME = "run.json"
METRICS_NAME = "metrics.jsonl"
WEIGHTS_NAME = "model.safetensors"
EVALUATION_NAME = "evaluation.parquet"
VALIDATION_NAME = "validation.parquet"
CASES_NAME = "cases.parquet"


def read_run(folder: Path) -> dict[str, Any]:
    """Facts of a finished training.

    Raises:
        TrainingError: it has not finished.
    """
    facts = read_json(folder / RUN_NAME)
    if facts.get("status") != "done":
        raise TrainingError(
            f"{folder} has not finished training: run the same `osteoray train` again to go on"
        )
    return facts


def load_net(folder: Path, network: Callable[[ModelFacts], Network]) -> Network:
    """The trained network of a finished run, in eval mode; ``network`` makes it, see ``Learning``."""
    from engine.models.network import load_model  # brings torch, which those who read facts alone do without

    return load_model(network, read_run(folder)["model"], folder / WEIGHTS_NAME)


def forget_after(folder: Path, epoch: int) -> None:
    """Drop metric lines of epochs that a resumed run will do again."""
    path = folder / METRICS_NAME
    if not path.exists():
        return
    kept = [log for log in read_metrics(folder) if log["epoch"] <= epoch]
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{json.dumps(log)}\n" for log in kept))


def append_metrics(folder: Path, log: Mapping[str, float]) -> None:
    """One epoch to ``metrics.jsonl`` and TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter

    with (folder / METRICS_NAME).open("a") as stream:
        stream.write(json.dumps(dict(log), allow_nan=False) + "\n")
    with SummaryWriter(log_dir=str(folder / "tensorboard")) as writer:
        for name, value in log.items():
            writer.add_scalar(name, value, int(log["step"]))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The epochs in ``metrics.jsonl``, in order; a last line that a kill cut, or not yet whole, is left out.

    Raises:
        TableError: another line is damaged.
    """
    path = folder / METRICS_NAME
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    logs: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            logs.append(dict(json.loads(line)))
        except (RecursionError, TypeError, ValueError) as error:
            if number < len(lines):
                raise TableError(f"{path}, line {number}, is no JSON: the file was damaged") from error
    return logs


def epochs_logged(folder: Path) -> int:
    """The last epoch in ``metrics.jsonl``; 0 where there is none."""
    return max((int(log["epoch"]) for log in read_metrics(folder)), default=0)
