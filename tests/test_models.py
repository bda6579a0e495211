"""The network's contract: shapes, the dense head's identities, weights on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

from engine.age_distribution import NUM_BINS, attention, moments
from engine.errors import BundleError, UnknownNameError
from engine.models import (
    AgeNet,
    Deployed,
    ModelFacts,
    channels_last,
    frozen,
    load_model,
    load_start,
    num_parameters,
    save_weights,
)
from tests.training_fixture import BACKBONE

torch.set_num_threads(1)

BACKBONES = ("resnet10t", "mobilenetv3_small_100")
SIZE = 64


def made(backbone: str) -> AgeNet:
    """A network in eval mode whose modulation and bias are not zero."""
    torch.manual_seed(3)
    net = AgeNet(ModelFacts(backbone=backbone)).eval()
    with torch.no_grad():
        for parameter in (net.sex_scale_shift.weight, *net.classify.parameters()):
            parameter.normal_(std=0.3)
    return net


def inputs(count: int = 2, size: int = SIZE) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, 1, size, size, generator=generator), torch.tensor([[1.0], [-1.0]])[:count]


def grad_cam(target_B: Tensor, layer_BChw: Tensor) -> Tensor:
    """Grad-CAM as published: gradients pooled over space weigh the layer's maps; positive part."""
    (gradient_BChw,) = torch.autograd.grad(target_B.sum(), layer_BChw, retain_graph=True)
    weights_BC11 = gradient_BChw.mean((2, 3), keepdim=True)
    return (weights_BC11 * layer_BChw).sum(1).relu()


def read_off(logits_BK: Tensor) -> Tensor:
    """Sum of p_k z_k with p held fixed and logits centred over the bins, [B]."""
    centred_BK = logits_BK - logits_BK.mean(1, keepdim=True)
    return (logits_BK.softmax(1).detach() * centred_BK).sum(1)


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
def test_logits_are_the_spatial_mean_of_dense_logits(backbone: str) -> None:
    with torch.no_grad():
        outputs = made(backbone)(*inputs())
    torch.testing.assert_close(outputs.logits_BK, outputs.dense_BKhw.mean((2, 3)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_attention_is_grad_cam_at_the_dense_logits(backbone: str) -> None:
    outputs = made(backbone)(*inputs())
    dense = outputs.dense_BKhw
    expected_Bhw = grad_cam(read_off(outputs.logits_BK), dense) * dense[0, 0].numel()
    assert expected_Bhw.amax() > 0.1
    torch.testing.assert_close(attention(dense), expected_Bhw, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_without_bias_attention_is_grad_cam_at_the_modulated_features(backbone: str) -> None:
    net = made(backbone)
    net.load_state_dict(net.state_dict() | {"classify.bias": torch.zeros(NUM_BINS)})
    seen: list[Tensor] = []
    net.classify.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    outputs = net(*inputs())
    expected_Bhw = grad_cam(read_off(outputs.logits_BK), seen[0]) * outputs.dense_BKhw[0, 0].numel()
    assert expected_Bhw.amax() > 0.1
    torch.testing.assert_close(attention(outputs.dense_BKhw), expected_Bhw, rtol=1e-4, atol=1e-5)


def test_sex_changes_the_output_once_its_modulation_is_not_zero() -> None:
    x_B1HW, sex_B1 = inputs()
    fresh, taught = AgeNet(ModelFacts(backbone=BACKBONE)).eval(), made(BACKBONE)
    with torch.no_grad():
        assert torch.equal(fresh(x_B1HW, sex_B1).logits_BK, fresh(x_B1HW, -sex_B1).logits_BK)
        male, female, unknown = (
            taught(x_B1HW[:1], torch.tensor([[sex]])).logits_BK for sex in (1.0, -1.0, 0.0)
        )
    assert not torch.allclose(male, female, atol=1e-2)
    torch.testing.assert_close((male + female) / 2, unknown, rtol=0, atol=1e-4)  # the modulation is linear


def test_deployed_gives_months_sd_and_a_map_up_to_one() -> None:
    net = made(BACKBONE)
    with torch.no_grad():
        months_B, sd_B, map_Bhw = Deployed(net)(*inputs())
        mean_B, spread_B = moments(net(*inputs()).logits_BK)
    assert torch.equal(months_B, mean_B)
    assert torch.equal(sd_B, spread_B)
    assert map_Bhw.shape == (2, 2, 2)
    assert map_Bhw.amin() >= 0
    assert map_Bhw.amax((1, 2)).tolist() == [1, 1]


def test_the_two_sizes_that_are_promised() -> None:
    counts = [num_parameters(AgeNet(ModelFacts(backbone=backbone))) for backbone in BACKBONES]
    assert counts == [5_048_248, 1_068_656]


def test_weights_come_back_bit_for_bit(tmp_path: Path) -> None:
    net = made(BACKBONE)
    channels_last(net)
    net.load_state_dict(net.state_dict() | {"norm.running_mean": torch.full((net.channels[-1],), 0.5)})
    save_weights(net, tmp_path / "model.safetensors")
    again = load_model(net.facts.facts(), tmp_path / "model.safetensors")
    assert not again.training
    assert again.facts == net.facts
    for (name, before), after in zip(net.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(before, after), name


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(AgeNet(ModelFacts(backbone=BACKBONE, num_bins=24)), path)
    with pytest.raises(BundleError, match=f"does not hold the weights of {BACKBONE}"):
        load_model({"backbone": BACKBONE}, path)


def test_absent_and_damaged_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        load_model({"backbone": BACKBONE}, tmp_path / "absent.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"no weights at all")
    with pytest.raises(BundleError):
        load_model({"backbone": BACKBONE}, damaged)


def test_facts_of_a_later_release_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="facts"):
        load_model({"backbone": BACKBONE, "novelty": 1}, tmp_path / "model.safetensors")


def test_a_trunk_starts_from_an_rgb_checkpoint_as_if_grey_were_its_rgb_copy(tmp_path: Path) -> None:
    torch.manual_seed(4)
    rgb = timm.create_model(BACKBONE, pretrained=False, features_only=True, out_indices=(-2, -1)).eval()
    head = {"fc.weight": torch.zeros(10, 96)}  # a classifier in the file is passed over
    safetensors.torch.save_file(rgb.state_dict() | head, tmp_path / "rgb.safetensors")
    net = AgeNet(ModelFacts(backbone=BACKBONE)).eval()
    load_start(net, tmp_path / "rgb.safetensors")
    x_B1HW, _ = inputs()
    with torch.no_grad():
        for grey, coloured in zip(net.trunk(x_B1HW), rgb(x_B1HW.expand(-1, 3, -1, -1)), strict=True):
            torch.testing.assert_close(grey, coloured, rtol=1e-4, atol=1e-4)


def test_a_trunk_of_another_network_is_refused(tmp_path: Path) -> None:
    save_weights(AgeNet(ModelFacts(backbone="resnet10t")).trunk, tmp_path / "other.safetensors")
    for name in ("other.safetensors", "absent.safetensors"):
        with pytest.raises(BundleError, match=f"does not hold a trunk of {BACKBONE}"):
            load_start(AgeNet(ModelFacts(backbone=BACKBONE)), tmp_path / name)


def test_an_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'resnet10t'"):
        AgeNet(ModelFacts(backbone="resnet10"))


def test_a_teacher_has_neither_gradients_nor_batch_statistics() -> None:
    teacher = frozen(AgeNet(ModelFacts(backbone=BACKBONE)))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    outputs = teacher(*inputs())
    assert not outputs.logits_BK.requires_grad
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
