"""The gates of every task: a sound engine passes, and one that sees or is given something else does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.deploy import engines
from engine.deploy.engines import Predictor, open_predictor
from engine.deploy.export import stage
from engine.deploy.parity import ParitySamples, require_parity
from engine.errors import ParityError
from engine.evaluation.answer import Raw
from engine.ingest import covariates
from engine.models.network import ModelFacts, save_weights
from engine.tasks import TASKS, task_named

BACKBONE, SIZE_HW, COUNT = "resnet10t", (48, 64), 6
Staged = tuple[Path, ParitySamples]


@pytest.fixture(scope="module", params=TASKS)
def staged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Staged]:
    """A network of random weights that sees two views as channels and heeds its covariates."""
    torch.manual_seed(0)
    task = task_named(request.param)
    model = ModelFacts(
        backbone=BACKBONE, covariates=covariates.names_of(task.covariates),
        covariate_columns=covariates.widths(task.covariates), num_views=2, fusion="channel_stack",
    )  # fmt: skip
    net = task.learning().network(model).eval()
    with torch.no_grad():
        net.classify.weight.normal_(std=0.5)
        if net.covariate_scale_shift is not None:
            net.covariate_scale_shift.weight.normal_(std=0.5)
    folder = tmp_path_factory.mktemp(task.name)
    save_weights(net, folder / "weights")
    rule = task.rule.facts()
    rule["view"]["size_HW"] = list(SIZE_HW)
    calibration = {"temperature": 1.5}
    run = {"task": task.name, "model": net.facts.facts(), "calibration": calibration, "data": {"rule": rule}}
    stage(folder, run, folder / "weights")
    rng = np.random.default_rng(0)
    rows = [{"patient_sex": "MF"[i % 2], "age_months": 60.0 + 20 * i} for i in range(COUNT)]
    samples = ParitySamples(
        images_BVHW=rng.integers(0, 256, (COUNT, 2, *SIZE_HW)).astype(np.uint8),
        covariates_BQ=covariates.columns(rows, task.covariates),
        labels={name: np.full(COUNT, np.nan) for name in task.label_columns},
    )
    return task.name, (folder, samples)


class Broken:
    """A predictor that is handed other images, other covariates, or another scale of grey."""

    def __init__(self, predictor: Predictor, fault: str) -> None:
        self._predictor, self._fault = predictor, fault

    def predict(self, images_BVHW: Any, covariates_BQ: Any) -> Raw:
        if self._fault == "channel_order":
            images_BVHW = np.ascontiguousarray(images_BVHW[:, ::-1])
        if self._fault == "swapped_covariates":  # of one column: those of the neighbour
            axis = 1 if covariates_BQ.shape[1] > 1 else 0
            covariates_BQ = np.ascontiguousarray(np.flip(covariates_BQ, axis))
        with pytest.MonkeyPatch.context() as patch:
            if self._fault == "no_normalisation":
                patch.setattr(engines, "_network_input", lambda image: image[None].astype(np.float32))
            return self._predictor.predict(images_BVHW, covariates_BQ)


ENGINES = [name for name in ("onnxruntime", "openvino") if engines.PREDICTORS[name].available()]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_sound_engine_passes(staged: tuple[str, Staged], engine: str) -> None:
    name, (folder, samples) = staged
    gates = task_named(name).answer.gates
    plain, compiled = (open_predictor(folder, one, threads=1) for one in ("torch", engine))
    assert list(require_parity(plain, compiled, samples, gates)) == [gate.name for gate in gates]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fault", ["channel_order", "no_normalisation", "swapped_covariates"])
def test_a_planted_fault_is_refused(staged: tuple[str, Staged], engine: str, fault: str) -> None:
    name, (folder, samples) = staged
    if fault == "swapped_covariates" and not task_named(name).covariates:
        pytest.skip(f"{name} has no covariates")
    plain = open_predictor(folder, "torch", threads=1)
    broken = Broken(open_predictor(folder, engine, threads=1), fault)
    with pytest.raises(ParityError, match="departs from torch"):
        require_parity(plain, broken, samples, task_named(name).answer.gates)
