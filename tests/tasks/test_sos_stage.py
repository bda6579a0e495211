"""sos-stage: soft labels, boxes on the grid, sets of stages, and the student's class maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.imaging.augment import Augmentation, draw
from engine.models.batch import Batch
from engine.models.grad_cam import attention, attention_target, closed_form
from engine.models.network import ModelFacts, num_parameters
from engine.tasks.sos_stage.answer import mass_until, quadratic_kappa, stage_set
from engine.tasks.sos_stage.learning import box_cells, outside_share, soft_labels
from engine.tasks.sos_stage.network import StageNetwork, stage_network
from engine.training.evaluate import gigaflops

STUDENT = ModelFacts(backbone="tf_efficientnet_lite0", stages=4, num_bins=5)


def batch(left: float, top: float, right: float, bottom: float, size: int = 64, count: int = 1) -> Batch:
    edges = dict(zip(("left", "top", "right", "bottom"), (left, top, right, bottom), strict=True))
    truth = {f"sos_{edge}": torch.full((count,), value) for edge, value in edges.items()}
    return Batch(torch.zeros(count, 1, size, size), torch.zeros(count, 0), truth)


def test_soft_labels_fall_off_by_distance() -> None:
    assert soft_labels(torch.tensor([2.0]), 0.0).tolist() == [[0, 0, 1, 0, 0]]
    soft_K = soft_labels(torch.tensor([1.0]), 0.5)[0]
    assert soft_K.sum().item() == pytest.approx(1)
    assert (soft_K[1] / soft_K[0]).item() == pytest.approx(np.exp(2))
    assert (soft_K[1] / soft_K[3]).item() == pytest.approx(np.exp(4))


def test_a_box_covers_cells_by_its_share_of_each() -> None:
    inside, is_known = box_cells(batch(7.5, -0.5, 23.5, 15.5), (4, 4))  # cells of 16 pixels
    assert is_known.tolist() == [True]
    assert inside[0].tolist() == [[0.5, 0.5, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    _, is_known = box_cells(batch(float("nan"), 0, 1, 1), (4, 4))
    assert is_known.tolist() == [False]


def test_the_box_moves_with_the_image() -> None:
    """A bright box, augmented, stays where the moved box says."""
    one = batch(15.5, 23.5, 32.5, 40.5, count=6)
    one.x_BVHW[:, :, 24:41, 16:33] = 1.0
    ranges = Augmentation(rotation_deg=10, scale=0.2, shift=0.2, gamma=0.0, contrast=0.0)
    warp = draw(6, ranges, seed=1, epoch=0).warp((64, 64))
    shown = warp.maps(one.x_BVHW)
    moved = Batch(shown, one.covariates_BQ, one.truth, warp)
    inside, _ = box_cells(moved, (64, 64))
    share = (shown[:, 0] * inside).sum((1, 2)) / shown.sum((1, 2, 3))
    assert (share > 0.95).all()  # the rest is blurred over the edge
    assert (shown[:, 0] * inside).sum() / inside.sum() > 0.6  # and the box is hardly larger


def test_the_share_outside_is_that_of_the_attention_map() -> None:
    from engine.models.network import Outputs

    maps = torch.zeros(1, 5, 4, 4)
    maps[0, 3, 0, 0], maps[0, 3, 3, 3] = 3.0, 1.0
    student = Outputs(maps.mean((2, 3)), maps, ())
    assert outside_share(student, batch(-0.5, -0.5, 15.5, 15.5)).item() == pytest.approx(0.25)
    assert outside_share(student, batch(float("nan"), 0, 1, 1)).item() == 0


def test_a_set_of_stages_grows_to_the_likelier_neighbour() -> None:
    p_K = np.array([0.05, 0.15, 0.5, 0.2, 0.1], np.float32)
    assert [stage_set(p_K, mass) for mass in (0.4, 0.6, 0.8, 0.9, 0.99)] == [
        (2, 2),
        (2, 3),
        (1, 3),
        (1, 4),
        (0, 4),
    ]
    assert [round(mass_until(p_K, stage), 3) for stage in range(5)] == [1.0, 0.85, 0.5, 0.7, 0.95]


def test_kappa_by_hand() -> None:
    """Truth 0, 0, 4, 4 read as 0, 4, 4, 4: w O = 16; by chance 16 (2 * 3 + 2 * 1) / 4 = 32."""
    assert quadratic_kappa(np.array([0, 4, 4, 4]), np.array([0, 0, 4, 4])) == pytest.approx(0.5)
    assert np.isnan(quadratic_kappa(np.array([1, 1]), np.array([1, 1])))


def test_the_student_is_small_and_its_region_spans_four_cells() -> None:
    net = stage_network(STUDENT)
    assert isinstance(net, StageNetwork)
    assert num_parameters(net) <= 0.9e6
    assert gigaflops(net, (384, 384)) <= 2.0
    outputs = net.eval()(torch.rand(1, 1, 384, 384), torch.zeros(1, 0))
    assert outputs.class_maps_BKhw.shape == (1, 5, 48, 48)
    assert 0.06 * 1.7 * 48 >= 4  # the least box of the phantom


def test_the_class_map_is_grad_cam_by_autograd() -> None:
    """At the maps that both poolings made of the head, with random pooling weights."""
    torch.manual_seed(0)
    net = stage_network(STUDENT).eval()
    assert isinstance(net, StageNetwork)
    torch.nn.init.normal_(net.look.weight)
    outputs = net(torch.rand(2, 1, 128, 128), torch.zeros(2, 0))
    maps = outputs.class_maps_BKhw
    bias = net.classify.bias
    assert torch.allclose(outputs.logits_BK, maps.mean((2, 3)) + bias, atol=1e-5)
    (gradient,) = torch.autograd.grad(attention_target(outputs.logits_BK).sum(), maps)
    by_gradient = (gradient.mean((2, 3), keepdim=True) * maps).sum(1).relu()
    slopes = outputs.logits_BK.detach().softmax(1) - 1 / 5
    assert (closed_form(maps, slopes) - by_gradient).abs().max() < 1e-5
    assert attention(outputs.logits_BK, maps).max() > 0
