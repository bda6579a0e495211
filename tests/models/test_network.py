"""The network's contract: shapes, the dense head's identities, weights on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

from engine.errors import BundleError, UnknownNameError, UsageError
from engine.models.grad_cam import attention, attention_target, by_autograd, closed_form
from engine.models.network import (
    Network,
    Outputs,
    channels_last,
    frozen,
    load_model,
    load_start,
    num_parameters,
    save_weights,
)
from engine.models.ordered_bins import NUM_BINS, moments
from engine.tasks.ages.learning import Deployed
from tests.fixtures.training_fixture import BACKBONE, net_facts
from tests.models.test_grad_cam import expectation_slopes

torch.set_num_threads(1)

BACKBONES = ("resnet10t", "mobilenetv3_small_100")
SIZE = 64


def made(backbone: str) -> Network:
    """A network in eval mode whose modulation and bias are not zero."""
    torch.manual_seed(3)
    net = Network(net_facts(backbone=backbone)).eval()
    with torch.no_grad():
        for parameter in (net.covariate_scale_shift.weight, *net.classify.parameters()):
            parameter.normal_(std=0.3)
    return net


def inputs(count: int = 2, size: int = SIZE) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, 1, size, size, generator=generator), torch.tensor([[1.0], [-1.0]])[:count]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_outputs_have_the_promised_shapes(backbone: str) -> None:
    net = made(backbone)
    with torch.no_grad():
        outputs = net(*inputs())
    grid = SIZE // 32
    assert outputs.logits_BK.shape == (2, NUM_BINS)
    assert outputs.dense_BKhw.shape == (2, NUM_BINS, grid, grid)
    assert [tuple(f.shape[:2]) for f in outputs.features] == [(2, count) for count in net.channels]
    assert [f.shape[2] for f in outputs.features] == [2 * grid, grid]
    assert outputs.adapted == ()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_network_cut_after_its_third_stage_starts_from_the_whole_one(backbone: str, tmp_path: Path) -> None:
    whole, cut = made(backbone), Network(net_facts(backbone=backbone, stages=3)).eval()
    save_weights(whole, tmp_path / "whole.safetensors")
    load_start(cut, tmp_path / "whole.safetensors")
    with torch.no_grad():
        outputs = cut(*inputs())
        taps = timm.create_model(backbone, features_only=True, in_chans=1, out_indices=(1, 2)).eval()
        taps.load_state_dict(
            {name: value for name, value in whole.trunk.state_dict().items() if name in taps.state_dict()}
        )
        expected = taps((inputs()[0] - 0.5) / 0.5)
    for own, other in zip(outputs.features, expected, strict=True):
        torch.testing.assert_close(own, other)
    assert outputs.class_maps_BKhw.shape[2:] == (SIZE // 8, SIZE // 8)
    assert num_parameters(cut.trunk) < 0.5 * num_parameters(whole.trunk)


@pytest.mark.parametrize("stages", [1, 6])
def test_a_network_cut_where_there_is_nothing_to_keep_is_refused(stages: int) -> None:
    with pytest.raises(UsageError, match="stages is 0 or 2 to 5 with resnet10t"):
        Network(net_facts(backbone="resnet10t", stages=stages))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_logits_are_the_spatial_mean_of_the_class_maps_and_the_bias(backbone: str) -> None:
    net = made(backbone)
    with torch.no_grad():
        outputs = net(*inputs())
    mean_BK = outputs.class_maps_BKhw.mean((2, 3))
    torch.testing.assert_close(outputs.logits_BK, mean_BK + net.classify.bias, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_closed_form_is_grad_cam_at_the_modulated_features_whatever_the_bias(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs, deep = seen_by_the_head(made(backbone), monkeypatch)
    dense = outputs.class_maps_BKhw
    cells = dense[0, 0].numel()
    expected_Bhw = by_autograd(attention_target(outputs.logits_BK), deep)
    assert expected_Bhw.amax() > 0.01
    torch.testing.assert_close(attention(outputs.logits_BK, dense) / cells, expected_Bhw, rtol=0, atol=1e-5)
    of_months = by_autograd(moments(outputs.logits_BK)[0], deep)
    closed = closed_form(dense, expectation_slopes(outputs.logits_BK))
    torch.testing.assert_close(closed / closed.norm(), of_months / of_months.norm(), rtol=0, atol=1e-5)


def seen_by_the_head(net: Network, patch: pytest.MonkeyPatch) -> tuple[Outputs, Tensor]:
    """What the network answers, and the maps [B, C, h, w] that its dense head was given."""
    kept: list[Tensor] = []

    def convolve(deep_BChw: Tensor, weight: Tensor) -> Tensor:
        kept.append(deep_BChw)
        return torch.nn.functional.conv2d(deep_BChw, weight)

    patch.setattr("engine.models.network.conv2d", convolve)
    outputs: Outputs = net(*inputs())
    return outputs, kept[0]


def test_sex_changes_the_output_once_its_modulation_is_not_zero() -> None:
    x_BVHW, sex_BQ = inputs()
    fresh, taught = Network(net_facts(backbone=BACKBONE)).eval(), made(BACKBONE)
    with torch.no_grad():
        assert torch.equal(fresh(x_BVHW, sex_BQ).logits_BK, fresh(x_BVHW, -sex_BQ).logits_BK)
        male, female, unknown = (
            taught(x_BVHW[:1], torch.tensor([[sex]])).logits_BK for sex in (1.0, -1.0, 0.0)
        )
    assert not torch.allclose(male, female, atol=1e-2)
    torch.testing.assert_close((male + female) / 2, unknown, rtol=0, atol=1e-4)  # the modulation is linear


def test_deployed_gives_months_sd_and_a_map_up_to_one() -> None:
    net = made(BACKBONE)
    with torch.no_grad():
        months_B, sd_B, map_Bhw, _ = Deployed(net)(*inputs())
        mean_B, spread_B = moments(net(*inputs()).logits_BK)
    assert torch.equal(months_B, mean_B)
    assert torch.equal(sd_B, spread_B)
    assert map_Bhw.shape == (2, 2, 2)
    assert map_Bhw.amin() >= 0
    assert map_Bhw.amax((1, 2)).tolist() == [1, 1]


def test_the_two_sizes_that_are_promised() -> None:
    counts = [num_parameters(Network(net_facts(backbone=backbone))) for backbone in BACKBONES]
    assert counts == [5_048_248, 1_068_656]


def test_weights_come_back_bit_for_bit(tmp_path: Path) -> None:
    net = made(BACKBONE)
    channels_last(net)
    net.load_state_dict(net.state_dict() | {"norm.running_mean": torch.full((net.channels[-1],), 0.5)})
    save_weights(net, tmp_path / "model.safetensors")
    again = load_model(Network, net.facts.facts(), tmp_path / "model.safetensors")
    assert not again.training
    assert again.facts == net.facts
    for (name, before), after in zip(net.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(before, after), name


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(Network(net_facts(backbone=BACKBONE, num_bins=24)), path)
    with pytest.raises(BundleError, match=f"does not hold the weights of {BACKBONE}"):
        load_model(Network, net_facts(backbone=BACKBONE).facts(), path)


def test_absent_and_damaged_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        load_model(Network, net_facts(backbone=BACKBONE).facts(), tmp_path / "absent.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"no weights at all")
    with pytest.raises(BundleError):
        load_model(Network, net_facts(backbone=BACKBONE).facts(), damaged)


def test_facts_of_a_later_release_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="facts"):
        load_model(
            Network, {**net_facts(backbone=BACKBONE).facts(), "novelty": 1}, tmp_path / "model.safetensors"
        )


def test_a_trunk_starts_from_an_rgb_checkpoint_as_if_grey_were_its_rgb_copy(tmp_path: Path) -> None:
    torch.manual_seed(4)
    rgb = timm.create_model(BACKBONE, pretrained=False, features_only=True, out_indices=(-2, -1)).eval()
    head = {"fc.weight": torch.zeros(10, 96)}  # a classifier in the file is passed over
    safetensors.torch.save_file(rgb.state_dict() | head, tmp_path / "rgb.safetensors")
    net = Network(net_facts(backbone=BACKBONE)).eval()
    load_start(net, tmp_path / "rgb.safetensors")
    x_BVHW, _ = inputs()
    with torch.no_grad():
        for grey, coloured in zip(net.trunk(x_BVHW), rgb(x_BVHW.expand(-1, 3, -1, -1)), strict=True):
            torch.testing.assert_close(grey, coloured, rtol=1e-4, atol=1e-4)


def test_a_trunk_of_another_network_is_refused(tmp_path: Path) -> None:
    save_weights(Network(net_facts(backbone="resnet10t")).trunk, tmp_path / "other.safetensors")
    for name in ("other.safetensors", "absent.safetensors"):
        with pytest.raises(BundleError, match=f"does not hold a trunk of {BACKBONE}"):
            load_start(Network(net_facts(backbone=BACKBONE)), tmp_path / name)


def test_an_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'resnet10t'"):
        Network(net_facts(backbone="resnet10"))


def test_a_teacher_has_neither_gradients_nor_batch_statistics() -> None:
    teacher = frozen(Network(net_facts(backbone=BACKBONE)))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    outputs = teacher(*inputs())
    assert not outputs.logits_BK.requires_grad
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
