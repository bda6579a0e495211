"""A result row: what was read, what made it, and what the answer says; or why it is withheld."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.deploy.abstained import AbstainedError
from engine.deploy.bundle import Bundle
from engine.deploy.score import MAP, Model, score_rows
from engine.evaluation.answer import Raw
from engine.store.files import code_version
from engine.tasks.ages.calibration import Calibration
from engine.tasks.hand_age import HAND_AGE
from tests.fixtures.story import Story

CALIBRATION = Calibration(
    instances=300, temperature=1.0, by_sd={"0.9": 2.0}, by_months={"0.9": 9.0}, slope=0.0, intercept=0.0,
    max_doubt=10.0,
)  # fmt: skip
SAMPLES = [
    {"sop_instance_uid": "1.2", "patient_sex": "M", "age_months": 100.0, "rows": None},
    {"sop_instance_uid": "1.3", "patient_sex": None, "age_months": 300.0, "rows": None},
    {"sop_instance_uid": "1.4", "patient_sex": "F", "age_months": None, "rows": None},
]


class Fixed:
    """Outputs that do not depend on the images; months are 120 and the code of the sex."""

    def predict(self, images_BVHW: NDArray[np.uint8], covariates_BQ: NDArray[np.float32]) -> Raw:
        count = len(images_BVHW)
        return {
            "months": 120 + covariates_BQ[:, 0],
            "sd_months": np.array([8.0, 8.0, 12.0][:count], np.float32),
            "attention": np.full((count, 2, 3), 7, np.uint8),
            "embedding": np.zeros((count, 4), np.float32),
        }


class WithoutMap(Fixed):
    def predict(self, images_BVHW: NDArray[np.uint8], covariates_BQ: NDArray[np.float32]) -> Raw:
        raw = super().predict(images_BVHW, covariates_BQ)
        return {name: values for name, values in raw.items() if name != "attention"}


MODEL = Model(
    bundle=Bundle(
        folder=Path(), task="hand-age", rule=HAND_AGE.rule, covariates=HAND_AGE.covariates, map_HW=(2, 3),
        engine="none", calibration=CALIBRATION.facts(), checks=None, sha256="0f", facts={},
    ),
    task=HAND_AGE,
    predictor=Fixed(),
)  # fmt: skip


def ramps(count: int) -> NDArray[np.uint8]:
    """Images with a bright middle and neighbours that resemble each other: nothing speaks against them."""
    ramp_W = 255 - 4 * np.abs(np.arange(64) - 32)
    return np.tile(ramp_W.astype(np.uint8), (count, 1, 64, 1))


def test_a_row_holds_sample_provenance_and_answer() -> None:
    (row,) = score_rows(MODEL, SAMPLES[:1], ramps(1))
    assert isinstance(row, dict)
    expected: dict[str, Any] = {
        **SAMPLES[0],
        "task": "hand-age", "model_sha256": "0f", "code_version": code_version(),
        "predicted_months": 121.0, "sd_months": 8.0,
        "interval_low_months": 105.0, "interval_high_months": 137.0,
    }  # fmt: skip
    assert {name: value for name, value in row.items() if name != MAP} == expected
    assert (row[MAP] == np.full((2, 3), 7)).all()


def test_scores_are_withheld_one_by_one() -> None:
    results = score_rows(MODEL, SAMPLES, ramps(3))
    reasons = [result.reason if isinstance(result, AbstainedError) else None for result in results]
    assert reasons == [None, "age_above_range", "uncertain"]


def test_a_graph_without_a_map_gives_rows_without_one() -> None:
    (row,) = score_rows(replace(MODEL, predictor=WithoutMap()), SAMPLES[:1], ramps(1))
    assert isinstance(row, dict)
    assert MAP not in row
    assert row["predicted_months"] == 121.0


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_compiled_engine_scores_without_torch(story: Story) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from engine.deploy.score import open_model, score_rows\n"
        f"model = open_model(Path({str(story.bundle)!r}), threads=1)\n"
        "size_HW = model.bundle.rule.view.size_HW\n"
        "score_rows(model, [{'patient_sex': 'F'}], np.zeros((1, 1, *size_HW), np.uint8))\n"
        "print(model.bundle.engine, *{'ray', 'torch', 'timm'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["openvino"], done.stderr
