"""The gate: real samples, spread and held out; an engine that departs is refused, by name and figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.deploy.parity import ParitySamples, parity_samples, require_parity
from engine.errors import ParityError, TableError
from engine.evaluation.answer import Gate, Raw
from engine.ingest.covariates import SEX
from tests.fixtures.training_fixture import LABEL, SIZE, Made, disc, write_ingest

COHORT = [
    Made(
        patient=f"P{patient}",
        months=20.0 + patient * 4 + visit * 12,
        split="test" if patient >= 30 else "train",
        sex=("M", "F", None)[patient % 3],
    )
    for patient in range(40)
    for visit in range(2)
]


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ingest(tmp_path_factory.mktemp("cohort"), COHORT)


def test_samples_are_real_spread_and_held_out_first(ingested: Path) -> None:
    samples = parity_samples(ingested, 10, (SEX,), (LABEL, "none"))
    assert samples.images_BVHW.shape == (10, 1, SIZE, SIZE)
    assert samples.covariates_BQ.shape == (10, 1)
    shown = {image.tobytes() for image in samples.images_BVHW}
    assert shown <= {disc(made.months or 0).tobytes() for made in COHORT}
    per_shard = 2  # five shards of sixteen; the fourth (P24..P31) holds four held-out instances
    fourth = {image.tobytes() for image in samples.images_BVHW[3 * per_shard : 4 * per_shard]}
    assert fourth <= {disc(made.months or 0).tobytes() for made in COHORT if made.split == "test"}
    for image_VHW, months in zip(samples.images_BVHW, samples.labels[LABEL], strict=True):
        assert image_VHW.tobytes() == disc(months).tobytes()
    assert np.isnan(samples.labels["none"]).all()


def test_samples_are_never_more_than_asked(ingested: Path) -> None:
    samples = parity_samples(ingested, 3, (SEX,))
    assert len(samples.images_BVHW) == len(samples.covariates_BQ) == 3


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="holds no samples"):
        parity_samples(tmp_path, 3, ())


class Sum:
    """The sum of pixels and covariates, and ``by`` more."""

    def __init__(self, by: float = 0.0) -> None:
        self.by = by

    def predict(self, images_BVHW: NDArray[np.uint8], covariates_BQ: NDArray[np.float32]) -> Raw:
        return {"sum": images_BVHW.sum((1, 2, 3)) + covariates_BQ.sum(1) + self.by}


SAMPLES = ParitySamples(
    images_BVHW=np.full((2, 1, 2, 2), 3, np.uint8),
    covariates_BQ=np.zeros((2, 1), np.float32),
    labels={"truth": np.array([12.0, np.nan])},
)


def apart(torch: Raw, engine: Raw, labels: Raw) -> float:
    return float(np.abs(torch["sum"] - engine["sum"]).max())


def from_truth(torch: Raw, engine: Raw, labels: Raw) -> float:
    return float(np.abs(engine["sum"] - labels["truth"])[0])


GATES = (
    Gate(name="sum", unit="grey", limit=0.5, departure=apart),
    Gate(name="truth", unit="grey", limit=1.0, departure=from_truth),
)


def test_departures_are_told_by_gate() -> None:
    assert require_parity(Sum(), Sum(0.25), SAMPLES, GATES) == {
        "sum": {"unit": "grey", "limit": 0.5, "departure": 0.25},
        "truth": {"unit": "grey", "limit": 1.0, "departure": 0.25},
    }


@pytest.mark.parametrize(
    ("by", "words"),
    [
        (0.75, "sum by 0.75 grey"),
        (2.0, "truth by 2 grey, at most 1"),
        (np.nan, "sum by nan"),
        (np.inf, "inf"),
    ],
)
def test_an_engine_that_departs_is_refused(by: float, words: str) -> None:
    with pytest.raises(ParityError, match=words):
        require_parity(Sum(), Sum(by), SAMPLES, GATES)
