"""Several views of one sample: the two fusions, the regression head, and the class map of any stage."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engine.models.grad_cam import class_map
from engine.models.network import Gate, Network, example_inputs, load_model, save_weights
from engine.models.ordered_bins import NUM_BINS, moments
from tests.fixtures.training_fixture import BACKBONE, net_facts

torch.set_num_threads(1)

SIZE, VIEWS = 64, 3


def made(**changes: object) -> Network:
    torch.manual_seed(5)
    net = Network(net_facts(backbone=BACKBONE, **changes)).eval()
    with torch.no_grad():
        for module in (net.covariate_scale_shift, *([net.gate.weigh] if net.gate else [])):
            nn.init.normal_(module.weight, std=0.5 if module is net.covariate_scale_shift else 50.0)
    return net


def inputs(net: Network) -> tuple[Tensor, Tensor]:
    torch.manual_seed(6)
    return example_inputs(net.facts, 2, (SIZE, SIZE))


@pytest.mark.parametrize("fusion", ["late", "channel_stack"])
@pytest.mark.parametrize("head", ["distribution", "regression"])
@pytest.mark.parametrize("num_views", [1, VIEWS])
def test_the_dense_head_holds_for_every_net(fusion: str, head: str, num_views: int, tmp_path) -> None:
    net = made(fusion=fusion, head=head, num_views=num_views)
    outputs = net(*inputs(net))
    bias_K = outputs.logits_BK - outputs.class_maps_BKhw.mean((2, 3))
    assert outputs.logits_BK.shape == (2, NUM_BINS)
    assert torch.allclose(bias_K[0], bias_K[1], atol=1e-3)  # the same for any image: logits are mean and bias
    save_weights(net, tmp_path / "net.safetensors")
    again = load_model(Network, net.facts.facts(), tmp_path / "net.safetensors")
    assert torch.equal(again(*inputs(net)).logits_BK, outputs.logits_BK)


def test_late_fusion_is_the_gated_sum_of_each_view_alone() -> None:
    net = made(num_views=VIEWS)
    x_BVHW, covariates_BQ = inputs(net)
    alone = Network(net_facts(backbone=BACKBONE)).eval()
    alone.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("gate.")})
    each = [alone(x_BVHW[:, view : view + 1], covariates_BQ) for view in range(VIEWS)]
    scale_BC, shift_BC = alone.covariate_scale_shift(covariates_BQ).chunk(2, dim=1)
    pooled_BVC = torch.stack(
        [alone.norm(one.features[-1]).mean((2, 3)) * (1 + scale_BC) + shift_BC for one in each], 1
    )
    weights_BV = net.gate(pooled_BVC)
    assert torch.allclose(weights_BV.sum(1), torch.ones(2))
    assert weights_BV.std() > 0.01
    expected_BK = (weights_BV[..., None] * torch.stack([one.logits_BK for one in each], 1)).sum(1)
    assert torch.allclose(net(x_BVHW, covariates_BQ).logits_BK, expected_BK, atol=1e-4)


def test_late_fusion_does_not_care_for_the_order_of_views_and_a_stack_does() -> None:
    for fusion, is_same in (("late", True), ("channel_stack", False)):
        net = made(num_views=VIEWS, fusion=fusion)
        x_BVHW, covariates_BQ = inputs(net)
        one, other = (net(x, covariates_BQ).logits_BK for x in (x_BVHW, x_BVHW.flip(1)))
        assert torch.allclose(one, other, atol=1e-4) is is_same


def test_a_gate_begins_by_weighing_all_views_alike() -> None:
    assert torch.allclose(Gate(8)(torch.rand(4, VIEWS, 8)), torch.full((4, VIEWS), 1 / VIEWS))


def test_maps_of_late_views_lie_side_by_side() -> None:
    net = made(num_views=VIEWS)
    outputs = net(*inputs(net))
    rows, columns = outputs.class_maps_BKhw.shape[2:]
    assert columns == VIEWS * rows


def test_a_regression_is_a_gaussian_of_fixed_width_around_its_one_output() -> None:
    net = made(head="regression")
    with torch.no_grad():
        nn.init.zeros_(net.classify.weight)
        net.classify.bias.fill_(-0.5)
    mean_B, sd_B = moments(net(*inputs(net)).logits_BK)
    assert mean_B.tolist() == pytest.approx([90.5, 90.5], abs=1e-3)  # 120.5 - 0.5 * 60
    assert sd_B.tolist() == pytest.approx([10.0, 10.0], abs=1e-3)
    assert net.classify.weight.shape[0] == 1


def test_a_class_map_points_at_what_the_age_is_read_from() -> None:
    """One bright patch on black; only there can a map of the second-last stage be strong."""
    net = made()
    x_BVHW = torch.zeros(2, 1, SIZE, SIZE)
    x_BVHW[0, 0, 4:20, 4:20] = 1.0
    x_BVHW[1, 0, 44:60, 44:60] = 1.0
    maps_Bhw = class_map(net, x_BVHW, torch.zeros(2, 1))
    assert maps_Bhw.min() >= 0
    assert maps_Bhw.requires_grad is False
    assert maps_Bhw.shape[1:] == net(x_BVHW, torch.zeros(2, 1)).features[-2].shape[2:]
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_class_map_comes_of_a_frozen_network_too() -> None:
    net = made().requires_grad_(requires_grad=False)
    x_BVHW, covariates_BQ = inputs(net)
    with torch.no_grad():
        assert class_map(net, x_BVHW, covariates_BQ).isfinite().all()
