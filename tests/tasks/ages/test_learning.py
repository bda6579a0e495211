"""How skeletal age is learnt: the joint loss, the terms beside it, and answers within the bins."""

from __future__ import annotations

import math

import pytest
import torch

from engine.distillation.terms import TERMS
from engine.models.batch import Batch
from engine.models.network import Network, Outputs
from engine.models.ordered_bins import NUM_BINS, expectation, joint_loss
from engine.tasks.ages.learning import AGE_LEARNING
from engine.training.learning import Weights
from tests.fixtures.training_fixture import BACKBONE, net_facts

torch.set_num_threads(1)


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        torch.rand(2, 1, 48, 48, generator=generator),
        torch.tensor([[1.0], [-1.0]]),
        {"bin": torch.tensor([30.0, 200.0])},
    )


def weights(**terms: float) -> Weights:
    return Weights(task={"kl": 3.0, "delta": 7.0}, terms=terms)


def outputs(seed: int) -> Outputs:
    """What a network in training returns, as if it had adapters to its own channels."""
    torch.manual_seed(seed)
    given = batch()
    found: Outputs = Network(net_facts(backbone=BACKBONE))(given.x_BVHW, given.covariates_BQ)
    return Outputs(found.logits_BK, found.dense_BKhw, found.features, found.features)


def test_the_objective_without_a_teacher_is_the_joint_loss() -> None:
    learning, student = AGE_LEARNING, outputs(1)
    parts = learning.objective(student, None, batch(), weights(kd=1.0))
    expected = joint_loss(student.logits_BK, batch().truth["bin"], weight=3.0, delta=7.0)
    assert parts["loss"].item() == expected["task"].item()
    assert not any(part.startswith("term/") for part in parts)
    assert all(math.isfinite(part.item()) for part in parts.values())


def test_the_objective_with_a_teacher_adds_every_term() -> None:
    half = weights(**dict.fromkeys(TERMS, 0.5))
    parts = AGE_LEARNING.objective(outputs(1), outputs(2), batch(), half)
    assert all(math.isfinite(part.item()) for part in parts.values())
    assert {part.split("/")[1] for part in parts if part.startswith("term/")} == set(TERMS)
    weighted = sum(parts[f"term/{term}/weighted"].item() for term in TERMS)
    assert parts["loss"].item() == pytest.approx(parts["task"].item() + weighted, rel=1e-5)
    torch.autograd.backward(parts["loss"])


def test_predictions_lie_within_the_bins() -> None:
    extremes = torch.full((2, NUM_BINS), -1e4)
    extremes[0, 0], extremes[1, -1] = 1e4, 1e4
    assert expectation(extremes).tolist() == [1, NUM_BINS]
    months_B = expectation(outputs(3).logits_BK)
    assert months_B.amin() >= 1
    assert months_B.amax() <= NUM_BINS == 240
