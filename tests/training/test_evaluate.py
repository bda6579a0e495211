"""A finished network is calibrated on one split and judged on another, and leaves tables and cases behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from engine.evaluation.answer import figures_from_facts
from engine.evaluation.held_out import HeldOut, read_held_out
from engine.models.network import Network
from engine.store.schema import tensor_values
from engine.tasks.ages.accuracy import PREDICTED, SD, TRUTH, errors
from engine.tasks.ages.answer import AGE
from engine.tasks.ages.calibration import LEVEL, calibration_from_facts, coverage
from engine.tasks.ages.learning import AGE_LEARNING, Deployed
from engine.training.dataset import TrainingSet
from engine.training.evaluate import NUM_SPREAD, NUM_WORST, evaluate, gigaflops
from engine.training.run_folder import CASES_NAME, EVALUATION_NAME, VALIDATION_NAME
from tests.fixtures.training_fixture import BACKBONE, SIZE, disc_set, net_facts


@pytest.fixture(scope="module")
def discs() -> TrainingSet:
    return disc_set(200)


@pytest.fixture(scope="module")
def net() -> Network:
    torch.manual_seed(0)
    return Network(net_facts(backbone=BACKBONE)).eval()


@pytest.fixture(scope="module")
def judged(discs: TrainingSet, net: Network, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("run")
    return folder, judge(net, discs, folder)


def judge(net: Network, discs: TrainingSet, folder: Path, teacher: HeldOut | None = None) -> Any:
    return evaluate(net, discs, folder, answer=AGE, learning=AGE_LEARNING, teacher=teacher)


def uids(discs: TrainingSet, split: str) -> list[str]:
    return discs.uids_N[discs.splits_N == split].tolist()


def test_each_table_holds_its_split(discs: TrainingSet, judged: tuple[Path, Any]) -> None:
    folder, facts = judged
    tested, validation = (read_held_out(folder / name) for name in (EVALUATION_NAME, VALIDATION_NAME))
    assert tested.uids_N.tolist() == uids(discs, "test")
    assert validation.uids_N.tolist() == uids(discs, "val")
    assert tested.truth[TRUTH].tolist() == discs.truth[TRUTH][discs.splits_N == "test"].tolist()
    evaluation = facts["evaluation"]
    assert evaluation["instances"] == len(tested.uids_N)
    headline = figures_from_facts(evaluation["figures"]).headline
    assert headline.value == pytest.approx(np.abs(errors(tested)).mean())
    assert headline.low <= headline.value <= headline.high
    assert evaluation["fidelity"] is None
    assert [*tested.predicted] == [column.name for column in AGE.columns]
    json.dumps(facts, allow_nan=False)


def test_calibration_knows_nothing_of_the_test_split(
    discs: TrainingSet, net: Network, judged: tuple[Path, Any], tmp_path: Path
) -> None:
    months_N: NDArray[np.float32] = discs.truth[TRUTH].copy()
    months_N[discs.splits_N == "test"] = 7
    elsewhere = judge(net, replace(discs, truth={TRUTH: months_N}), tmp_path)
    assert elsewhere["calibration"] == judged[1]["calibration"]
    assert elsewhere["evaluation"]["figures"] != judged[1]["evaluation"]["figures"]


def test_coverage_is_that_of_the_intervals_that_a_score_would_carry(judged: tuple[Path, Any]) -> None:
    folder, facts = judged
    calibration = calibration_from_facts(facts["calibration"])
    tested = read_held_out(folder / EVALUATION_NAME)
    low, high = calibration.interval(tested.predicted[PREDICTED], tested.predicted[SD]) or (None, None)
    covered = ((low <= tested.truth[TRUTH]) & (tested.truth[TRUTH] <= high)).mean()
    found = next(
        row for row in coverage(tested, calibration)["levels"] if (row["level"], row["kind"]) == (LEVEL, "sd")
    )
    assert found["covered"] == pytest.approx(covered)
    assert tested.predicted["interval_low_months"].tolist() == low.tolist()


def test_the_exported_graph_gives_the_months_and_the_tempered_sd_of_the_table(
    discs: TrainingSet, net: Network, judged: tuple[Path, Any]
) -> None:
    folder, facts = judged
    tested = read_held_out(folder / EVALUATION_NAME)
    index = discs.index_of("test")
    graph = Deployed(net, temperature=facts["calibration"]["temperature"]).eval()
    with torch.inference_mode():
        months_B, sd_B, *_ = graph(
            torch.from_numpy(discs.images_NVHW[index]).float() / 255,
            torch.from_numpy(discs.covariates_NQ[index]),
        )
    assert months_B.numpy() == pytest.approx(tested.predicted[PREDICTED], abs=1e-3)
    assert sd_B.numpy() == pytest.approx(tested.predicted[SD], abs=1e-2)


def test_cases_are_spread_over_the_ages_and_then_the_worst(
    discs: TrainingSet, judged: tuple[Path, Any]
) -> None:
    table = pq.read_table(judged[0] / CASES_NAME)
    tested = read_held_out(judged[0] / EVALUATION_NAME)
    assert table.num_rows == NUM_SPREAD + NUM_WORST == 12
    truth = table["truth_bone_age_months"].to_pylist()
    assert truth[:NUM_SPREAD] == sorted(truth[:NUM_SPREAD])
    assert (truth[0], truth[NUM_SPREAD - 1]) == (tested.truth[TRUTH].min(), tested.truth[TRUTH].max())
    chosen = table["sop_instance_uid"].to_pylist()
    assert len(set(chosen)) == 12
    others = ~np.isin(tested.uids_N, chosen[:NUM_SPREAD])
    assert chosen[NUM_SPREAD] == tested.uids_N[others][np.abs(errors(tested)[others]).argmax()]
    place = discs.uids_N.tolist().index(chosen[3])
    assert (tensor_values(table["image"])[3] == discs.images_NVHW[place, 0]).all()
    assert tensor_values(table["attention_map"]).shape[0] == 12


def test_a_network_is_wholly_faithful_to_itself_and_less_to_another(
    discs: TrainingSet, net: Network, judged: tuple[Path, Any], tmp_path: Path
) -> None:
    own = read_held_out(judged[0] / EVALUATION_NAME)
    found = judge(net, discs, tmp_path, own)["evaluation"]["fidelity"]
    assert found == {"instances": 40, "mean": 0, "mean_interval": [0, 0], "p95": 0}
    torch.manual_seed(1)
    other = judge(Network(net_facts(backbone=BACKBONE)), discs, tmp_path, own)
    fidelity = other["evaluation"]["fidelity"]
    assert 0 < fidelity["mean"] <= fidelity["p95"]


def test_flops_do_not_depend_on_what_the_network_was_told(net: Network) -> None:
    assert gigaflops(net, (SIZE, SIZE)) > gigaflops(net, (SIZE // 2, SIZE // 2)) > 0
