"""A contract over PREDICTORS: the answers of torch, for one or many, whatever stands beside them."""

from __future__ import annotations

import numpy as np
import pytest

from engine.deploy import engines
from engine.deploy.bundle import open_bundle
from engine.deploy.engines import PREDICTORS, choose_engine, gpus_of, open_predictor
from engine.deploy.parity import parity_samples
from engine.errors import MissingDependencyError, UnknownNameError
from engine.evaluation.answer import Raw
from engine.ingest.covariates import SEX
from engine.tasks.ages.answer import PARITY_MONTHS
from tests.fixtures.story import Story

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]  # the story is told in the first test
Images = tuple[np.ndarray, np.ndarray]
ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(not backend.available(), reason=f"needs {backend.install}"))
    for name, backend in PREDICTORS.items()
]


@pytest.fixture(scope="module")
def real(story: Story) -> Images:
    samples = parity_samples(story.samples, 12, (SEX,))
    return samples.images_BVHW, samples.covariates_BQ


@pytest.fixture(scope="module")
def reference(story: Story, real: Images) -> Raw:
    return open_predictor(story.bundle, "torch", threads=1).predict(*real)


@pytest.mark.parametrize("engine", ENGINES)
def test_same_answers_as_torch(engine: str, story: Story, real: Images, reference: Raw) -> None:
    raw = open_predictor(story.bundle, engine, threads=2).predict(*real)
    assert list(raw) == ["months", "sd_months", "attention", "embedding"]
    assert np.abs(raw["months"] - reference["months"]).max() <= PARITY_MONTHS
    assert np.abs(raw["sd_months"] - reference["sd_months"]).max() <= PARITY_MONTHS
    assert raw["attention"].dtype == np.uint8
    assert np.abs(raw["attention"].astype(int) - reference["attention"].astype(int)).max() <= 2


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_number_never_depends_on_its_neighbours(
    engine: str, threads: int, story: Story, real: Images
) -> None:
    predictor = open_predictor(story.bundle, engine, threads=threads)
    images, sex = real
    together = predictor.predict(images, sex)
    alone = [predictor.predict(images[i : i + 1], sex[i : i + 1])["months"][0] for i in range(len(images))]
    assert together["months"].tolist() == alone


@pytest.mark.parametrize("engine", ENGINES)
def test_no_instances_give_no_scores(engine: str, story: Story) -> None:
    raw = open_predictor(story.bundle, engine, threads=1).predict(
        np.zeros((0, 1, 64, 64), np.uint8), np.zeros((0, 1), np.float32)
    )
    assert {name: len(values) for name, values in raw.items()} == dict.fromkeys(raw, 0)
    assert raw["attention"].shape[1:] == open_bundle(story.bundle).map_HW


def test_sex_is_used(story: Story, real: Images) -> None:
    predictor = open_predictor(story.bundle, "torch", threads=1)
    images, _ = real
    boys = predictor.predict(images, np.ones((len(images), 1), np.float32))["months"]
    girls = predictor.predict(images, -np.ones((len(images), 1), np.float32))["months"]
    assert not np.array_equal(boys, girls)


def test_unknown_engine_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="openvino"):
        choose_engine("openvno")


def test_absent_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda package: None if package == "openvino" else object())
    with pytest.raises(MissingDependencyError, match="pip install"):
        choose_engine("openvino")
    assert choose_engine("auto") == "onnxruntime"


def test_an_engine_that_runs_elsewhere_needs_no_gpu_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_has_gpu", lambda: False)
    assert choose_engine("cuda", here=False) == "cuda"
    with pytest.raises(MissingDependencyError, match="NVIDIA GPU"):
        choose_engine("cuda")


def test_a_process_that_opens_one_gpu_engine_needs_one_gpu() -> None:
    assert [gpus_of(()), gpus_of(("openvino", "torch")), gpus_of(("openvino", "cuda", "cuda"))] == [0, 0, 1]
