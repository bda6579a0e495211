"""Age as a distribution, against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from engine.models.ordered_bins import bin_numbers, expectation, gaussian_target, joint_loss, moments

# Their softmax is 1/4, 1/4, 1/2 over months 1, 2, 3: mean 2.25, variance (1.5625 + 0.0625 + 2 * 0.5625) / 4
THREE_BINS = torch.tensor([[0.0, 0.0, math.log(2)]])


def test_bins_are_months_from_one() -> None:
    assert bin_numbers(4).tolist() == [1, 2, 3, 4]


def test_mean_and_sd_of_three_bins() -> None:
    assert expectation(THREE_BINS).item() == pytest.approx(2.25)
    mean_B, sd_B = moments(THREE_BINS)
    assert mean_B.item() == pytest.approx(2.25)
    assert sd_B.item() == pytest.approx(math.sqrt(0.6875))


def test_a_certain_prediction_has_no_spread() -> None:
    logits_BK = torch.full((1, 240), -1e4)
    logits_BK[0, 99] = 1e4
    mean_B, sd_B = moments(logits_BK)
    assert mean_B.item() == 100
    assert sd_B.item() == 0


def test_a_shift_of_all_logits_changes_nothing() -> None:
    logits_BK = torch.randn(3, 240, generator=torch.Generator().manual_seed(1))
    for before, after in zip(moments(logits_BK), moments(logits_BK + 7), strict=True):
        torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-3)


def test_moments_are_computed_in_float32() -> None:
    mean_B, sd_B = moments(THREE_BINS.bfloat16())
    assert mean_B.dtype == sd_B.dtype == torch.float32


@pytest.mark.parametrize("months", [-5.0, 1.0, 30.5, 120.0, 240.0, 260.0])
def test_gaussian_target_sums_to_one(months: float) -> None:
    target_BK = gaussian_target(torch.tensor([months]), 240, 10.0)
    assert target_BK.shape == (1, 240)
    assert target_BK.sum().item() == pytest.approx(1, abs=1e-6)


def test_gaussian_target_is_a_gaussian_where_nothing_is_cut() -> None:
    target_K = gaussian_target(torch.tensor([120.0]), 240, 10.0)[0]
    assert target_K[119].item() == pytest.approx(1 / (10 * math.sqrt(2 * math.pi)), rel=1e-5)
    assert (target_K[129] / target_K[119]).item() == pytest.approx(math.exp(-0.5), rel=1e-5)
    assert expectation(target_K.log()[None]).item() == pytest.approx(120, abs=1e-3)


def test_gaussian_target_is_cut_at_both_ends() -> None:
    young_K, old_K = gaussian_target(torch.tensor([1.0, 240.0]), 240, 10.0)
    torch.testing.assert_close(young_K, old_K.flip(0))
    # Half of the bell is cut, its top bin is kept whole: what is left doubles, less half of the top bin.
    density = 1 / (10 * math.sqrt(2 * math.pi))
    assert young_K[0].item() == pytest.approx(density / (0.5 + density / 2), rel=1e-4)
    assert young_K.argmax().item() == 0
    assert old_K.argmax().item() == 239


def test_joint_loss_of_three_bins() -> None:
    months_B = torch.tensor([2.0])
    # delta 1 around month 2: e^-1/2, 1, e^-1/2 over their sum
    side, top = math.exp(-0.5) / (1 + 2 * math.exp(-0.5)), 1 / (1 + 2 * math.exp(-0.5))
    kl = side * math.log(side / 0.25) + top * math.log(top / 0.25) + side * math.log(side / 0.5)
    parts = joint_loss(THREE_BINS, months_B, weight=0.5, delta=1.0)
    assert parts["mae"].item() == pytest.approx(0.25)
    assert parts["kl"].item() == pytest.approx(kl, rel=1e-5)
    assert parts["task"].item() == pytest.approx(0.25 + 0.5 * kl, rel=1e-5)


def test_joint_loss_is_the_mean_over_the_batch() -> None:
    logits_BK = torch.cat([THREE_BINS, THREE_BINS])
    parts = joint_loss(logits_BK, torch.tensor([2.0, 3.0]), weight=0.5, delta=1.0)
    assert parts["mae"].item() == pytest.approx((0.25 + 0.75) / 2)


def test_the_kl_part_is_least_at_the_target_itself() -> None:
    months_B = torch.tensor([3.0, 238.0])
    logits_BK = gaussian_target(months_B, 240, 10.0).clamp_min(1e-30).log().requires_grad_()
    kl = joint_loss(logits_BK, months_B, weight=0.5, delta=10.0)["kl"]
    (gradient_BK,) = torch.autograd.grad(kl, logits_BK)
    assert kl.item() == pytest.approx(0, abs=1e-6)
    assert gradient_BK.abs().max().item() < 1e-6
