"""Training under Ray Train: two workers over gloo, killed in the middle and started again; what fails."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import safetensors.torch
import torch
from ray.train import WorkerGroupError

from engine.distillation.terms import TERMS
from engine.errors import TrainingError
from engine.evaluation.answer import figures_from_facts
from engine.imaging.augment import Augmentation
from engine.models.network import ModelFacts, Network, load_model, save_weights
from engine.store.files import write_json
from engine.tasks.hand_age import HAND_AGE
from engine.training.dataset import open_training_set, pack_images
from engine.training.evaluate import evaluate, gigaflops
from engine.training.on_ray import Workers, require_same_inputs, train_on_ray
from engine.training.recipe import Recipe
from engine.training.run_folder import EVALUATION_NAME, RUN_NAME, WEIGHTS_NAME, read_metrics
from tests.fixtures.training_fixture import (
    BACKBONE,
    LABELS,
    Made,
    net_facts,
    tiny_recipe,
    write_ingest,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[2]
TWO = Workers(count=2, threads=1)
EPOCHS = 8
SNAPSHOT = "ray/checkpoints/checkpoint_manager_snapshot.json"
"""Where Ray Train keeps which checkpoints count."""

DRIVER = """
import json, sys
from pathlib import Path
from engine.tasks.hand_age import HAND_AGE
from engine.training.on_ray import Workers, train_on_ray
from engine.training.recipe import recipe_from_facts
from jobs.cluster_session import start_ray
facts, data, run, teacher = json.loads(sys.argv[1]), *map(Path, sys.argv[2:])
start_ray()
recipe, workers = recipe_from_facts(facts), Workers(count=2, threads=1)
train_on_ray(recipe, HAND_AGE, data, run, teacher=teacher, workers=workers)
"""
"""What `osteoray train` does with a run folder, in a process that can be killed; its workers die with it."""


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
    facts = net_facts(backbone=BACKBONE)
    torch.manual_seed(1)
    save_weights(Network(facts), folder / WEIGHTS_NAME)
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
) -> Resumed:
    run = tmp_path_factory.mktemp("run")
    pack_images(data, run / "cache", LABELS)
    at_the_kill = _kill_after_an_epoch(data, run, teacher)
    here = Path(os.path.relpath(run))  # as a user gives it
    train_on_ray(student(), HAND_AGE, data, here, teacher=teacher, workers=TWO)
    return Resumed(run=run, at_the_kill=at_the_kill)


def _kill_after_an_epoch(data: Path, run: Path, teacher: Path) -> list[dict[str, Any]]:
    """Train from another process until a checkpoint counts, kill it, and tell what was logged by then."""
    command = [sys.executable, "-c", DRIVER, json.dumps(student().facts()), str(data), str(run), str(teacher)]
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with (run / "driver.log").open("wb") as log:
        driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 240
        while not ((run / SNAPSHOT).exists() and read_metrics(run)):
            assert driver.poll() is None, (run / "driver.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "no checkpoint came"
            time.sleep(0.02)
    finally:
        driver.kill()
        driver.wait()
    assert not (run / WEIGHTS_NAME).exists(), "the run ended before it was killed"
    return read_metrics(run)


def test_a_killed_run_goes_on_where_its_last_checkpoint_was(resumed: Resumed) -> None:
    logs = read_metrics(resumed.run)
    assert 1 <= len(resumed.at_the_kill) < EPOCHS
    assert [log["epoch"] for log in logs] == list(range(1, EPOCHS + 1))
    assert [log["step"] for log in logs] == [4 * epoch for epoch in range(1, EPOCHS + 1)]
    assert logs[0] == resumed.at_the_kill[0]  # to the microsecond: epoch 1 was not done again


def test_every_epoch_logs_every_term_and_the_validation_error(resumed: Resumed) -> None:
    names = {f"term/{name}/{kind}" for name in TERMS for kind in ("raw", "weighted")}
    for log in read_metrics(resumed.run):
        assert names | {"train/loss", "train/distill", "val/error", "seconds"} <= set(log)
        assert all(math.isfinite(value) for value in log.values())


def test_two_checkpoints_are_kept_and_nothing_in_them_is_pickled(resumed: Resumed) -> None:
    folders = sorted((resumed.run / "ray" / "checkpoints").glob("checkpoint_*/"))
    assert len(folders) <= 3  # the kill may leave one that never counted
    for folder in folders[-2:]:
        names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        assert names == {"trainee.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"}


def test_the_averaged_network_is_left_and_can_be_judged(resumed: Resumed, data: Path, tmp_path: Path) -> None:
    net = load_model(Network, net_facts(backbone=BACKBONE).facts(), resumed.run / WEIGHTS_NAME)
    samples = open_training_set(data, resumed.run / "cache", HAND_AGE)
    facts = evaluate(net, samples, tmp_path, answer=HAND_AGE.answer, learning=HAND_AGE.learning())[
        "evaluation"
    ]
    assert facts["instances"] == 20
    figures = figures_from_facts(facts["figures"])
    headline = figures.headline
    assert headline.low <= headline.value <= headline.high
    table = pq.read_table(tmp_path / EVALUATION_NAME)
    assert table["truth_bone_age_months"].to_pylist() == [10.0 + 2 * index for index in range(0, 100, 5)]
    errors = np.abs(table["predicted_months"].to_numpy() - table["truth_bone_age_months"].to_numpy())
    assert headline.value == pytest.approx(errors.mean(), rel=1e-5)
    assert facts["fidelity"] is None
    by_sex = [group for group in figures.groups if group.heading == "By sex"]
    by_age = [group for group in figures.groups if group.heading == "By true bone age"]
    assert [group.name for group in by_age] == ["0 to under 5 years", "5 to under 10 years",
                                                "10 to under 15 years", "15 years and over"]  # fmt: skip
    for groups in (by_sex, by_age):
        assert sum(group.instances for group in groups) == 20
        total = sum(group.figures[0].value * group.instances for group in groups)
        assert total / 20 == pytest.approx(headline.value, rel=1e-5)


def test_weights_to_start_from_may_be_named_from_where_the_user_is(
    data: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(teacher)
    pack_images(data, tmp_path / "cache", LABELS)
    recipe = tiny_recipe(weights=WEIGHTS_NAME, epochs=1, learning_rate=0.0)
    train_on_ray(recipe, HAND_AGE, data, tmp_path, teacher=None, workers=replace(TWO, count=1))
    given = safetensors.torch.load_file(teacher / WEIGHTS_NAME)
    left = safetensors.torch.load_file(tmp_path / WEIGHTS_NAME)
    assert all(torch.equal(left[name], given[name]) for name in given if name.endswith("weight"))


def test_flops_are_those_of_the_convolutions() -> None:
    class OneConvolution(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.facts = net_facts(backbone=BACKBONE)
            self.convolve = torch.nn.Conv2d(1, 8, 3, padding=1)

        def forward(self, x_BVHW: torch.Tensor, covariates_BQ: torch.Tensor) -> torch.Tensor:
            mapped: torch.Tensor = self.convolve(x_BVHW)
            return mapped

    one: Any = OneConvolution()
    assert gigaflops(one, (10, 20)) == pytest.approx(2 * 200 * 8 * 9 / 1e9)


class _Failing:
    """In the trainer's place: raises the given failures in turn, then ends well."""

    def __init__(self, failures: list[Exception]) -> None:
        self.failures, self.fits = failures, 0

    def __call__(self, config: dict[str, Any], workers: Workers) -> _Failing:
        return self

    def fit(self) -> None:
        self.fits += 1
        if self.failures:
            raise self.failures.pop(0)


def _fit_with(failures: list[Exception], monkeypatch: pytest.MonkeyPatch, run: Path) -> _Failing:
    trainer = _Failing(failures)
    monkeypatch.setattr("engine.training.on_ray._trainer", trainer)
    train_on_ray(student(), HAND_AGE, run, run, teacher=None, workers=TWO)
    return trainer


@pytest.mark.parametrize(
    ("teacher", "word"),
    [
        (
            ModelFacts(
                backbone="test_resnet", covariates=("sex", "chronological_age"), covariate_columns=(1, 21)
            ),
            "chronological_age",
        ),
        (net_facts(backbone="test_resnet", covariates=("sex",), num_views=3), "3"),
    ],
)
def test_a_live_teacher_takes_what_the_student_takes(teacher: ModelFacts, word: str) -> None:
    student = net_facts(backbone="test_resnet", covariates=("sex",))
    require_same_inputs(student, student, Path("teacher"))
    with pytest.raises(TrainingError, match=word):
        require_same_inputs(teacher, student, Path("teacher"))


def test_what_a_worker_refuses_comes_through_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refused = TrainingError("loss or gradient is not finite at step 3")
    failures = [WorkerGroupError("of rank 1", {1: refused}), RuntimeError("tried again")]
    with pytest.raises(TrainingError, match="not finite at step 3"):
        _fit_with(failures, monkeypatch, tmp_path)
    assert len(failures) == 1


def test_a_worker_that_dies_is_started_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    died = WorkerGroupError("of rank 0", {0: RuntimeError("killed")})
    assert _fit_with([died, died], monkeypatch, tmp_path).fits == 3
    with pytest.raises(TrainingError, match="the workers failed 3 times"):
        _fit_with([died] * 3, monkeypatch, tmp_path)
