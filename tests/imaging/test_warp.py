"""Warps: an image, its maps, points and boxes move together, between views and by augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.imaging import geometry
from engine.imaging.augment import Augmentation, augmented, draw
from engine.imaging.geometry import Geometry
from engine.imaging.warp import Warp, between

torch.set_num_threads(1)

MOVING = Augmentation(rotation_deg=40, scale=0.2, shift=0.1, gamma=0, contrast=0, flip=0.5)


def dot(point_xy: Tensor, size_HW: tuple[int, int], sd: float = 2.0) -> Tensor:
    """A smooth spot [1, 1, H, W] at a pixel point."""
    rows, columns = torch.meshgrid(torch.arange(size_HW[0]), torch.arange(size_HW[1]), indexing="ij")
    squared = (columns - point_xy[0]) ** 2 + (rows - point_xy[1]) ** 2
    return torch.exp(-squared / (2 * sd**2))[None, None].float()


def centre(image_HW: Tensor) -> Tensor:
    """Centre of gravity (x, y) in pixels."""
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in image_HW.shape), indexing="ij")
    return torch.stack([(image_HW * axis).sum() / image_HW.sum() for axis in (columns, rows)])


@pytest.mark.parametrize("size_HW", [(64, 64), (48, 80)])
def test_an_image_its_points_and_boxes_move_with_one_affine(size_HW: tuple[int, int]) -> None:
    draws = draw(20, MOVING, seed=3, epoch=0)
    warp = draws.warp(size_HW)
    point = torch.tensor([size_HW[1] / 2 + 6.0, size_HW[0] / 2 - 5.0])
    images = dot(point, size_HW).expand(20, -1, -1, -1)
    points_BP2 = warp.points(point.expand(20, 1, 2))
    for shown, to in zip(augmented(images, draws), points_BP2[:, 0], strict=True):
        torch.testing.assert_close(centre(shown[0]), to.float(), atol=0.1, rtol=0)
    left, top, right, bottom = warp.boxes(torch.tensor([[[*(point - 4), *(point + 4)]]]).expand(20, 1, 4))[
        :, 0
    ].T
    assert ((left < points_BP2[:, 0, 0]) & (points_BP2[:, 0, 0] < right)).all()
    assert ((top < points_BP2[:, 0, 1]) & (points_BP2[:, 0, 1] < bottom)).all()


def test_a_coarse_map_moves_as_the_image_does() -> None:
    """Pooling a moved image to 8 x 8 is moving its pooled map, but for the bilinear blur of a cell."""
    draws = draw(8, MOVING, seed=5, epoch=0)
    smooth = dot(torch.tensor([70.0, 56.0]), (128, 128), sd=24.0).expand(8, -1, -1, -1)
    pooled = torch.nn.functional.avg_pool2d
    moved_map = draws.warp((128, 128)).maps(pooled(smooth, 16))
    torch.testing.assert_close(moved_map, pooled(augmented(smooth, draws), 16), atol=0.12, rtol=0)


def test_a_rotation_turns_without_shear_on_a_view_that_is_not_square() -> None:
    turned = draw(1, Augmentation(rotation_deg=40, scale=0, shift=0, gamma=0, contrast=0), seed=1, epoch=0)
    corners = torch.tensor(
        [[[39.5, 23.5], [49.5, 23.5], [39.5, 33.5]]]
    )  # the centre, and 10 px along each axis
    middle, right, down = turned.warp((48, 80)).points(corners)[0]
    torch.testing.assert_close(middle, corners[0, 0].double())
    across, along = right - middle, down - middle
    assert across.norm().item() == pytest.approx(10) == along.norm().item()
    assert (across @ along).item() == pytest.approx(0, abs=1e-9)


def views() -> tuple[Geometry, Geometry]:
    """A full view of 60 x 60 and a crop of 40 x 48 of the same original of 240 x 200."""
    full = geometry.resized((240, 200), (60, 50)).then(geometry.padded((60, 50), (60, 60), top=0, left=5))
    crop = geometry.padded((240, 200), (80, 96), top=-90, left=-60).then(geometry.resized((80, 96), (40, 48)))
    return full, crop


def matrices(view: Geometry, count: int = 1) -> Tensor:
    return torch.from_numpy(view.matrix_33).expand(count, 3, 3)


def test_what_a_crop_saw_is_found_again_on_the_full_view() -> None:
    full, crop = views()
    original = np.array([[110.0, 130.0]])
    on_crop = torch.from_numpy(crop.to_network(original)[0])
    warp = between(matrices(crop), matrices(full), (40, 48), (60, 60))
    torch.testing.assert_close(
        warp.points(on_crop[None, None])[0], torch.from_numpy(full.to_network(original))
    )
    shown = warp.maps(dot(on_crop, (40, 48)))[0, 0]
    # The map keeps its own grid of 40 x 48 over the full view of 60 x 60.
    found = (centre(shown) + 0.5) * torch.tensor([60 / 48, 60 / 40]) - 0.5
    torch.testing.assert_close(
        found.double(), torch.from_numpy(full.to_network(original)[0]), atol=0.3, rtol=0
    )
    assert shown[0, 0] == 0  # a place that the crop did not see


def test_a_warp_between_views_and_an_augmentation_are_one_warp() -> None:
    full, crop = views()
    draws = draw(6, MOVING, seed=9, epoch=2)
    first = between(matrices(crop, 6), matrices(full, 6), (40, 48), (60, 60))
    both = first.then(draws.warp((60, 60)))
    assert (both.source_HW, both.shown_HW) == ((40, 48), (60, 60))
    points = torch.rand(6, 3, 2, generator=torch.Generator().manual_seed(0)) * 40
    torch.testing.assert_close(both.points(points), draws.warp((60, 60)).points(first.points(points)))


@pytest.mark.parametrize("grid", [(4, 4), (7, 5)])
def test_equal_views_and_no_augmentation_leave_a_map_as_it_is(grid: tuple[int, int]) -> None:
    full, _ = views()
    still = draw(2, Augmentation(rotation_deg=0, scale=0, shift=0, gamma=0, contrast=0), seed=0, epoch=0)
    warp: Warp = between(matrices(full, 2), matrices(full, 2), (60, 60), (60, 60)).then(still.warp((60, 60)))
    maps = torch.randn(2, 3, *grid, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(warp.maps(maps), maps, atol=1e-5, rtol=0)
