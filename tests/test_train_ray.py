"""Training under Ray Train: two workers over gloo, killed in the middle and started again; errors come through."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.augment import Augmentation
from engine.distill import TERMS
from engine.errors import TrainingError
from engine.evaluation import EVALUATION_NAME, evaluate
from engine.manifest import write_json
from engine.models import AgeNet, ModelFacts, load_model, save_weights
from engine.recipe import Recipe
from engine.run import METRICS_NAME, RUN_NAME, WEIGHTS_NAME, read_metrics
from engine.samples import open_training_set, pack_images
from engine.train import Workers, train_on_ray
from tests.training_fixture import BACKBONE, LABEL, Made, tiny_recipe, write_ingest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent
TWO = Workers(count=2, threads=1)
EPOCHS = 5
SNAPSHOT = "ray/checkpoints/checkpoint_manager_snapshot.json"
"""Where Ray Train keeps which checkpoints count."""

DRIVER = """
import json, sys
from pathlib import Path
from engine.train import Workers, train_on_ray
from jobs.cluster_session import start_ray
facts, data, run, teacher = json.loads(sys.argv[1]), *map(Path, sys.argv[2:])
start_ray(num_cpus=2)
train_on_ray(facts, data, run, teacher=teacher, workers=Workers(count=2, threads=1))
"""
"""What `osteoray train` does with a run folder, in a process that can be killed together with its Ray."""


def student() -> Recipe:
    gentle = Augmentation(rotation_deg=5, scale=0, shift=0, gamma=0, contrast=0)
    return tiny_recipe(
        role="student", epochs=EPOCHS, distill=dict.fromkeys(TERMS, 0.5), ema_decay=0.8, augmentation=gentle
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = [
        Made(patient=f"P{index}", months=10.0 + 2 * index, split="test" if index % 5 == 0 else "train")
        for index in range(100)
    ]
    return write_ingest(tmp_path_factory.mktemp("discs"), made, shard_size=50)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, as `osteoray train` leaves it; its network has learnt nothing."""
    folder = tmp_path_factory.mktemp("teacher")
    facts = ModelFacts(backbone=BACKBONE)
    torch.manual_seed(1)
    save_weights(AgeNet(facts), folder / WEIGHTS_NAME)
    write_json(folder / RUN_NAME, {"status": "done", "model": facts.facts(), "recipe": tiny_recipe().facts()})
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """A run that was killed and resumed: its folder, and its metrics at the kill."""

    run: Path
    at_the_kill: list[dict[str, Any]]


@pytest.fixture(scope="module")
def resumed(
    data: Path, teacher: Path, ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Resumed]:
    run = tmp_path_factory.mktemp("run")
    pack_images(data, run / "cache", LABEL)
    at_the_kill = _kill_after_an_epoch(data, run, teacher)
    here = Path(os.path.relpath(run))  # as a user gives it
    train_on_ray(student().facts(), data, here, teacher=teacher, workers=TWO)
    return Resumed(run=run, at_the_kill=at_the_kill)


def _kill_after_an_epoch(data: Path, run: Path, teacher: Path) -> list[dict[str, Any]]:
    """Train in another process group until a checkpoint counts, kill it all, and tell what was logged."""
    command = [sys.executable, "-c", DRIVER, json.dumps(student().facts()), str(data), str(run), str(teacher)]
    with (run / "driver.log").open("wb") as log:
        driver = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 200
        while not ((run / SNAPSHOT).exists() and read_metrics(run)):
            assert driver.poll() is None, (run / "driver.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "no checkpoint came"
            time.sleep(0.02)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    return read_metrics(run)


def test_x(resumed, data, tmp_path):
    print(resumed.at_the_kill, [ (l["epoch"], l["seconds"]) for l in read_metrics(resumed.run)])
