"""Augmentation: draws that depend on seed, epoch and place alone, and what they do to an image."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from engine.errors import UsageError
from engine.imaging.augment import Augmentation, Draws, augmented, draw

torch.set_num_threads(1)

NOTHING = Augmentation(rotation_deg=0, scale=0, shift=0, gamma=0, contrast=0, flip=0)
STRONG = Augmentation(rotation_deg=40, scale=0.4, shift=0.3, gamma=1.5, contrast=0.9, flip=0.5)


def images(count: int = 6, size: int = 16) -> Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(2))


def turned(degrees: float) -> Draws:
    angle = math.radians(degrees)
    rows = [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]]
    return Draws(torch.tensor([rows]), torch.ones(1), torch.ones(1))


def test_draws_have_one_row_a_sample() -> None:
    draws = draw(5, STRONG, seed=0, epoch=0)
    assert draws.affine_N23.shape == (5, 2, 3)
    assert draws.gamma_N.shape == draws.contrast_N.shape == (5,)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_number_of_workers_changes_no_image(size: int) -> None:
    x_BVHW, draws = images(), draw(6, STRONG, seed=4, epoch=1)
    alone = augmented(x_BVHW, draws)
    for rank in range(size):
        mine = torch.arange(6)[rank::size]
        torch.testing.assert_close(augmented(x_BVHW[mine], draws.at(mine)), alone[mine], rtol=0, atol=0)


def test_the_order_of_samples_changes_no_image() -> None:
    x_BVHW, draws, order = images(), draw(6, STRONG, seed=4, epoch=1), torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = augmented(x_BVHW[order], draws.at(order))
    torch.testing.assert_close(shuffled, augmented(x_BVHW, draws)[order], rtol=0, atol=0)


def test_draws_repeat_for_an_epoch_and_differ_between_epochs_and_seeds() -> None:
    first, again = draw(4, STRONG, seed=1, epoch=2), draw(4, STRONG, seed=1, epoch=2)
    assert torch.equal(first.affine_N23, again.affine_N23)
    for other in (draw(4, STRONG, seed=1, epoch=3), draw(4, STRONG, seed=2, epoch=2)):
        assert not torch.equal(first.affine_N23, other.affine_N23)
        assert not torch.equal(first.gamma_N, other.gamma_N)


def test_zero_ranges_are_the_identity() -> None:
    x_BVHW = images()
    x_BVHW[:, :, :4] = 0.0
    torch.testing.assert_close(
        augmented(x_BVHW, draw(6, NOTHING, seed=3, epoch=0)), x_BVHW, rtol=0, atol=1e-5
    )


def test_images_keep_shape_and_range() -> None:
    shown = augmented(images(40), draw(40, STRONG, seed=5, epoch=0))
    assert shown.shape == (40, 1, 16, 16)
    assert shown.amin() >= 0
    assert shown.amax() <= 1


def test_a_certain_flip_mirrors_columns() -> None:
    x_BVHW = images()
    draws = draw(
        6, Augmentation(rotation_deg=0, scale=0, shift=0, gamma=0, contrast=0, flip=1), seed=0, epoch=0
    )
    torch.testing.assert_close(augmented(x_BVHW, draws), x_BVHW.flip(3), rtol=0, atol=1e-5)


def test_a_quarter_turn_is_a_rotation_without_shear() -> None:
    x_BVHW = images(1)
    torch.testing.assert_close(augmented(x_BVHW, turned(90)), x_BVHW.rot90(1, (2, 3)), rtol=0, atol=1e-4)


def test_outside_the_image_is_black() -> None:
    corner = augmented(torch.ones(1, 1, 32, 32), turned(45))[0, 0]
    assert corner[0, 0] == 0
    assert corner[16, 16] == 1


def test_gamma_and_contrast_by_hand() -> None:
    identity_N23 = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    x_BVHW = torch.full((1, 1, 8, 8), 0.5)
    shown = augmented(x_BVHW, Draws(identity_N23, torch.tensor([2.0]), torch.tensor([1.2])))
    torch.testing.assert_close(shown, torch.full((1, 1, 8, 8), 0.3), rtol=0, atol=1e-6)


def test_draws_stay_in_their_ranges() -> None:
    draws = draw(500, STRONG, seed=9, epoch=0)
    determinant_N = draws.affine_N23[:, 0, 0] * draws.affine_N23[:, 1, 1]
    determinant_N -= draws.affine_N23[:, 0, 1] * draws.affine_N23[:, 1, 0]
    zoom_N = determinant_N.abs().rsqrt()
    assert zoom_N.amin() < 0.62  # mirrored or not, the area tells the scale
    assert zoom_N.amax() > 1.38
    assert draws.affine_N23[:, :, 2].abs().amax() <= 0.6
    assert draws.contrast_N.amin() >= 0.1
    assert draws.contrast_N.amax() <= 1.9
    assert draws.gamma_N.log().abs().amax() <= 1.5
    assert 0.4 < (determinant_N < 0).float().mean() < 0.6


@pytest.mark.parametrize("name", ["rotation_deg", "scale", "shift", "gamma", "contrast", "flip"])
@pytest.mark.parametrize("value", [-0.1, 1e3, math.nan])
def test_senseless_ranges_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"augmentation.{name} must be in"):
        Augmentation(**{name: value})
