"""Labels by models: what is aimed at, how far it is trusted, and how a table of pairs gets them."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.errors import UsageError
from engine.models.batch import Batch
from engine.models.ordered_bins import expectation, gaussian_target, joint_loss
from engine.tasks.ages.inputs import PSEUDO_COLUMNS
from engine.tasks.ages.pseudo_labelling import PseudoLabel, write_pseudo_labels
from engine.tasks.ages.pseudo_labels import agreed, pseudo_label_loss, targets, trust
from engine.tasks.knee_age import KNEE_AGE
from engine.training.learning import Labels, Weights
from engine.training.loop import World, epochs
from tests.fixtures.training_fixture import disc_set, net_facts, tiny_recipe

torch.set_num_threads(1)
NAN = math.nan


def batch(months: list[float], pseudo: list[list[float]], expert: list[bool]) -> Batch:
    count = len(months)
    mean_B, sd_B = torch.tensor(pseudo).unbind(1)
    truth = {"bin": torch.tensor(months), "pseudo_mean_months": mean_B, "pseudo_sd_months": sd_B}
    truth["is_expert"] = torch.tensor(expert).float()
    return Batch(torch.zeros(count, 1, 8, 8), torch.zeros(count, 3), truth)


def logits(count: int) -> Tensor:
    return torch.randn(count, 240, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("labels", "months", "expert"),
    [
        ("truth", [10, 20, NAN, NAN], [True, True, False, False]),
        ("pseudo", [11, 20, 33, NAN], [False, True, False, False]),
        ("both", [10, 20, 33, NAN], [True, True, False, False]),
    ],
)
def test_what_is_aimed_at(labels: Labels, months: list[float], expert: list[bool]) -> None:
    truth = {
        "bone_age_months": np.array([10, 20, NAN, NAN], np.float32),
        "pseudo_mean_months": np.array([11, 22, 33, NAN], np.float32),
        "pseudo_sd_months": np.array([1, 1, 1, NAN], np.float32),
    }
    found = targets(truth, np.array([False, True, False, False]), labels)
    for name in ("bin", "bone_age_months"):
        np.testing.assert_array_equal(found.columns[name], np.array(months, np.float32))
    assert ("is_expert" in found.columns) == (labels != "truth")
    if labels != "truth":
        assert found.columns["is_expert"].tolist() == expert
    assert found.is_labelled_N.tolist() == [not math.isnan(month) for month in months]


def test_trust_is_half_at_six_months() -> None:
    assert trust(torch.tensor([0.0, 6.0, 12.0])).tolist() == pytest.approx([1, 0.5, 0.2])


def test_the_loss_by_hand() -> None:
    given, z = batch([100.0, 50.0], [[90.0, 12.0], [NAN, NAN]], [True, True]), logits(2)
    parts = pseudo_label_loss(z, given.truth, weight=0.5, least_sd=6.0)
    y, log_p = expectation(z), z.log_softmax(1)
    soft = [gaussian_target(torch.tensor([m]), 240, sd)[0] for m, sd in ((90.0, 12.0), (50.0, 6.0))]
    kl = [float((g * (g.clamp_min(1e-12).log() - p)).sum()) for g, p in zip(soft, log_p, strict=True)]
    # The first is trusted by 1 / (1 + 2^2) and was read by an expert too; the second has that label alone.
    mae = (0.2 * abs(float(y[0]) - 90) + abs(float(y[1]) - 50)) / 2
    assert parts["mae"].item() == pytest.approx(mae, rel=1e-5)
    assert parts["kl"].item() == pytest.approx((0.2 * kl[0] + kl[1]) / 2, rel=1e-5)
    assert parts["expert_mae"].item() == pytest.approx(abs(float(y[0]) - 100) / 2, rel=1e-5)
    whole = parts["mae"] + 0.5 * parts["kl"] + parts["expert_mae"]
    assert parts["task"].item() == pytest.approx(whole.item())


def test_without_pseudo_labels_it_is_the_joint_loss() -> None:
    given, z = batch([100.0, 50.0], [[NAN, NAN]] * 2, [True, True]), logits(2)
    parts = pseudo_label_loss(z, given.truth, weight=0.5, least_sd=6.0)
    assert parts["task"].item() == pytest.approx(
        joint_loss(z, given.truth["bin"], weight=0.5, delta=6.0)["task"].item(), rel=1e-5
    )


def test_the_task_takes_the_loss_that_fits_the_batch() -> None:
    given = batch([100.0], [[90.0, 12.0]], [False])
    weights, learning = Weights(task={"kl": 0.5, "delta": 6.0}, terms={}), KNEE_AGE.learning()
    assert "expert_mae" in learning.objective(outputs := _outputs(), None, given, weights)
    plain = replace(given, truth={"bin": given.truth["bin"]})
    assert "expert_mae" not in learning.objective(outputs, None, plain, weights)


def _outputs():  # type: ignore[no-untyped-def]
    from engine.models.network import Outputs

    return Outputs(logits(1), torch.zeros(1, 240, 2, 2), ())


def test_agreement_of_answers() -> None:
    mean, sd = agreed(np.array([[10.0, 20.0], [14.0, 20.0]]))
    assert mean.tolist() == [12, 20]
    assert sd.tolist() == pytest.approx([math.sqrt(8), 0])
    assert agreed(np.array([[10.0]]))[1].tolist() == [0]


def test_a_training_follows_its_pseudo_labels_and_not_the_truth() -> None:
    """Pseudo-labels that are the ages of other films: what is aimed at is seen in the logged error."""
    from engine.training.checkpoint import new_state

    data = disc_set(40)
    wrong = (240 - data.truth["bone_age_months"]).astype(np.float32)
    pseudo = {"pseudo_mean_months": wrong, "pseudo_sd_months": np.zeros_like(wrong)}
    aims = targets({**data.truth, **pseudo}, data.splits_N == "test", "pseudo")
    data = replace(data, targets=aims.columns)
    recipe = tiny_recipe(task="knee-age", labels="pseudo", epochs=1)
    learning, device = KNEE_AGE.learning(), torch.device("cpu")
    state = new_state(recipe, learning.network, net_facts(backbone=recipe.network.backbone), (), device)
    (log,) = epochs(recipe, learning, data, state, world=World(), teacher=None)
    assert log["train/expert_mae"] == 0
    assert log["train/mae"] > 0


def table(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_pair_gets_what_the_models_said_of_the_other_film(tmp_path: Path) -> None:
    rows = [
        {"sop_instance_uid": "1.1", "split": "train", "paired_sop_instance_uid": "2.1"},
        {"sop_instance_uid": "1.2", "split": "test", "paired_sop_instance_uid": "2.2"},
    ]
    given, out = table(tmp_path / "labels.csv", rows), tmp_path / "pseudo.csv"
    assert write_pseudo_labels(given, out, {"2.1": PseudoLabel(100.25, 3.5)}) == {
        "rows": 2,
        "pseudo_labelled": 1,
    }
    with out.open() as file:
        found = list(csv.DictReader(file))
    assert [found[0][name] for name in PSEUDO_COLUMNS] == ["100.250", "3.500"]
    assert [found[1][name] for name in PSEUDO_COLUMNS] == ["", ""]
    assert [row["split"] for row in found] == ["train", "test"]


def test_pairs_of_other_films_are_refused(tmp_path: Path) -> None:
    rows = [{"sop_instance_uid": "1.1", "paired_sop_instance_uid": "'2.1"}]
    given, out = table(tmp_path / "labels.csv", rows), tmp_path / "pseudo.csv"
    with pytest.raises(UsageError, match="no pair that the models saw"):
        write_pseudo_labels(given, out, {"2.2": PseudoLabel(100.25, 3.5)})
    assert not out.exists()
    assert write_pseudo_labels(given, out, {"2.1": PseudoLabel(100.25, 3.5)})["pseudo_labelled"] == 1


def test_a_table_without_pairs_is_refused(tmp_path: Path) -> None:
    given = table(tmp_path / "labels.csv", [{"sop_instance_uid": "1.1"}])
    with pytest.raises(UsageError, match="paired_sop_instance_uid"):
        write_pseudo_labels(given, tmp_path / "out.csv", {})
    with pytest.raises(UsageError, match="cannot be read"):
        write_pseudo_labels(tmp_path / "absent.csv", tmp_path / "out.csv", {})
