"""Saliency maps on a tiny network: against a hand-made one, and against chance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.models.network import AgeNet, ModelFacts
from engine.models.ordered_bins import expectation
from engine.models.saliency import (
    SALIENCIES,
    Saliency,
    expectation_cam,
    gradient,
    map_correlation,
    randomisation_check,
    randomised,
    smooth_gradient,
)
from tests.fixtures.training_fixture import BACKBONE

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def net() -> AgeNet:
    torch.manual_seed(1)
    made = AgeNet(ModelFacts(backbone=BACKBONE)).eval()
    with torch.no_grad():
        made.classify.weight.normal_(std=0.5)
    return made


def inputs() -> tuple[Tensor, Tensor]:
    x_BVHW = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    return x_BVHW, torch.tensor([[1.0], [-1.0]])


@pytest.mark.parametrize("name", SALIENCIES)
def test_a_map_covers_the_view_is_not_negative_and_leaves_no_gradient(name: str, net: AgeNet) -> None:
    x_BVHW, told_BQ = inputs()
    found = SALIENCIES[name](net, x_BVHW, told_BQ)
    assert found.shape == (2, 64, 64)
    assert found.isfinite().all()
    assert found.amin() >= 0
    assert found.amax() > 0
    assert all(parameter.grad is None for parameter in net.parameters())
    with torch.no_grad():  # a caller's own setting changes nothing
        assert torch.equal(SALIENCIES[name](net, x_BVHW, told_BQ), found)


def test_the_gradient_is_the_difference_quotient(net: AgeNet) -> None:
    x_BVHW, told_BQ = inputs()
    slope = gradient(net, x_BVHW, told_BQ)[0]
    row, column = divmod(int(slope.argmax()), 64)
    step = torch.zeros_like(x_BVHW)
    step[0, 0, row, column] = 0.02
    with torch.no_grad():
        before, after = (expectation(net(x, told_BQ).logits_BK)[0] for x in (x_BVHW - step, x_BVHW + step))
    assert abs(float(after - before)) / 0.04 == pytest.approx(float(slope[row, column]), rel=0.2)


def test_smooth_gradient_of_one_quiet_draw_is_the_gradient(net: AgeNet) -> None:
    x_BVHW, told_BQ = inputs()
    quiet = smooth_gradient(net, x_BVHW, told_BQ, draws=1, sd=0.0)
    torch.testing.assert_close(quiet, gradient(net, x_BVHW, told_BQ))


def test_the_cam_is_that_of_the_expectation(net: AgeNet) -> None:
    x_BVHW, told_BQ = inputs()
    outputs = net(x_BVHW, told_BQ)
    deep = outputs.features[-1]
    (slope,) = torch.autograd.grad(expectation(outputs.logits_BK).sum(), deep)
    expected = (slope.mean((2, 3), keepdim=True) * deep).sum(1).relu()
    found = expectation_cam(net, x_BVHW, told_BQ)
    enlarged = torch.nn.functional.interpolate(expected[:, None], (64, 64), mode="bilinear")[:, 0]
    torch.testing.assert_close(found, enlarged.detach())


@pytest.mark.parametrize("saliency", [gradient, smooth_gradient])
def test_random_weights_give_another_map(saliency: Saliency, net: AgeNet) -> None:
    x_BVHW, told_BQ = inputs()
    own = saliency(net, x_BVHW, told_BQ)
    torch.testing.assert_close(map_correlation(own, own), torch.ones(2, dtype=torch.double))
    assert randomisation_check(net, x_BVHW, told_BQ, saliency).amax() < 0.9


def test_randomising_leaves_the_network_alone(net: AgeNet) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    other = randomised(net, seed=3)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not torch.equal(other.classify.weight, net.classify.weight)
    assert torch.equal(other.norm.running_mean, net.norm.running_mean)


def test_rank_correlation_by_hand() -> None:
    a = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert map_correlation(a, a * 10).item() == pytest.approx(1)
    assert map_correlation(a, -a).item() == pytest.approx(-1)
    assert map_correlation(a, torch.ones_like(a)).item() == 0
    tied = torch.tensor([[[1.0, 1.0], [2.0, 2.0]]])
    assert map_correlation(a, tied).item() == pytest.approx(0.894427, abs=1e-5)
