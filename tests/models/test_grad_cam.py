"""Grad-CAM: the closed form of a dense head is what autograd gives, in value and in gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from engine.distillation.terms import TERMS
from engine.errors import TrainingError
from engine.models.batch import Batch
from engine.models.grad_cam import (
    attention,
    attention_slopes,
    attention_target,
    by_autograd,
    closed_form,
)
from engine.models.network import Outputs
from engine.models.ordered_bins import bin_numbers, expectation

torch.set_num_threads(1)

CHANNELS, BINS = 5, 12


def expectation_slopes(logits_BK: Tensor) -> Tensor:
    """Slopes [B, K] of the expectation y = sum of k p_k: dy/dz_k = p_k (k - y)."""
    p_BK, number_K = logits_BK.softmax(1), bin_numbers(logits_BK.shape[1])
    return p_BK * (number_K[None] - (p_BK @ number_K)[:, None])


TARGETS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "expectation": (expectation, expectation_slopes),
    "attention": (attention_target, attention_slopes),
    "one bin": (
        lambda logits_BK: logits_BK[:, 3],
        lambda logits_BK: torch.eye(BINS)[3].expand(len(logits_BK), -1),
    ),
}


def head(seed: int) -> nn.Conv2d:
    torch.manual_seed(seed)
    classify = nn.Conv2d(CHANNELS, BINS, 1)
    nn.init.normal_(classify.weight, std=0.6)
    nn.init.normal_(classify.bias, std=3.0)  # so large that a map which keeps it shows
    return classify


def answered(classify: nn.Conv2d, features_BChw: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, K] and class maps without bias [B, K, h, w]."""
    dense_BKhw = nn.functional.conv2d(features_BChw, classify.weight)
    assert classify.bias is not None
    return dense_BKhw.mean((2, 3)) + classify.bias, dense_BKhw


def maps(seed: int) -> Tensor:
    return torch.randn(3, CHANNELS, 4, 6, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("name", TARGETS)
def test_on_a_dense_head_both_ways_agree_in_value_and_in_gradient(name: str) -> None:
    target, slopes = TARGETS[name]
    classify, features = head(1), maps(2)
    logits_BK, dense_BKhw = answered(classify, features)
    closed = closed_form(dense_BKhw, slopes(logits_BK))
    twice = by_autograd(target(logits_BK), features)
    assert closed.amax() > 1e-2
    torch.testing.assert_close(closed, twice, rtol=0, atol=1e-5)
    leaves = (classify.weight, classify.bias, features)
    loss_weights = torch.randn(closed.shape, generator=torch.Generator().manual_seed(3))
    first, second = (
        torch.autograd.grad((cam * loss_weights).sum(), leaves, retain_graph=True, materialize_grads=True)
        for cam in (closed, twice)
    )
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_head_that_is_not_linear_has_a_map_that_a_loss_can_pull() -> None:
    torch.manual_seed(4)
    hidden = nn.Sequential(nn.Linear(CHANNELS, 16), nn.GELU(), nn.Linear(16, BINS))
    features = maps(5)
    cam = by_autograd(expectation(hidden(features.mean((2, 3)))), features)
    assert cam.shape == (3, 4, 6)
    cam.sum().backward()  # type: ignore[no-untyped-call]
    assert hidden[0].weight.grad.abs().max() > 0
    still = by_autograd(expectation(hidden(features.mean((2, 3)))), features, create_graph=False)
    torch.testing.assert_close(still, cam)


def test_attention_of_two_bins_by_hand() -> None:
    # Two bins on a 1 x 2 grid of equal logits: p = 1/2, 1/2 and every slope is 0.
    flat = torch.tensor([[[[1.0, -1.0]], [[-2.0, 2.0]]]])
    assert attention(torch.zeros(1, 2), flat).tolist() == [[[0.0, 0.0]]]
    # p = 1/4, 3/4: slopes -1/4, 1/4. Bin 2 alone has a map: a quarter of it is left, the negative cell cut.
    logits = torch.tensor([[0.0, math.log(3)]])
    dense = torch.stack([torch.zeros(2), torch.tensor([2.0, -2.0])])[None, :, None]
    assert attention(logits, dense)[0, 0].tolist() == pytest.approx([0.5, 0.0])


def test_a_bias_moves_the_age_but_belongs_to_no_place() -> None:
    logits = torch.tensor([[5.0, -5.0]])
    assert attention(logits, torch.zeros(1, 2, 3, 3)).abs().max() == 0


def test_slopes_of_the_expectation_by_hand() -> None:
    # Months 1, 2, 3 with 1/4, 1/4, 1/2: y = 2.25.
    slopes = expectation_slopes(torch.tensor([[0.0, 0.0, math.log(2)]]))[0]
    assert slopes.tolist() == pytest.approx([0.25 * -1.25, 0.25 * -0.25, 0.5 * 0.75])


def test_the_term_gives_the_same_for_a_dense_head_and_by_autograd() -> None:
    taught, own = maps(6), maps(7)
    teacher = Outputs(*answered(head(8), taught), (taught,))
    logits_BK, dense_BKhw = answered(head(9), own)
    batch = Batch(torch.zeros(3, 1, 2, 2), torch.zeros(3, 1), {"bin": torch.ones(3)})
    values = [
        TERMS["gradcam"].loss(Outputs(logits_BK, dense, (own,)), teacher, batch)
        for dense in (dense_BKhw, None)
    ]
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-5)
    closed, twice = (torch.autograd.grad(value, own, retain_graph=True)[0] for value in values)
    assert closed.abs().max() > 1e-4
    torch.testing.assert_close(closed, twice, rtol=1e-3, atol=1e-6)


def test_a_teacher_without_class_maps_or_graph_is_refused() -> None:
    student = Outputs(*answered(head(1), maps(2)), (maps(2),))
    teacher = replace(student, dense_BKhw=None, logits_BK=student.logits_BK.detach())
    batch = Batch(torch.zeros(3, 1, 2, 2), torch.zeros(3, 1), {"bin": torch.ones(3)})
    with pytest.raises(TrainingError, match="gradcam needs a teacher with a dense head"):
        TERMS["gradcam"].loss(student, teacher, batch)
    with pytest.raises(TrainingError, match="no class maps"):
        TERMS["cat"].loss(student, teacher, batch)
