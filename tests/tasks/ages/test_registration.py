"""The common frame: hands that lie differently come to lie over each other, and what does not fit is told."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.datasets.phantom.hand import carpal_box, expose
from engine.imaging.boxes import Box, iou
from engine.imaging.geometry import Geometry
from engine.imaging.preprocess import View, apply
from engine.tasks.ages.attention_boxes import Found, brought
from engine.tasks.ages.registration import SIDE, Placed, common_frame, place

COUNT, SIZE = 24, 128
AGES = np.linspace(40.0, 200.0, COUNT)

Image = NDArray[np.uint8]


def hand(number: int) -> tuple[Image, Geometry, Box]:
    """A phantom on a square view, the way to it, and its carpals in original pixels."""
    rng = np.random.default_rng(number)
    state = np.random.default_rng(number)
    film_HW = expose(float(AGES[number]), "M", rng, 2 * SIZE).stored_HW
    image_HW, view = apply((film_HW / film_HW.max()).astype(np.float32), View(size_HW=(SIZE, SIZE)))
    return image_HW, view, carpal_box(float(AGES[number]), "M", state, 2 * SIZE)


@pytest.fixture(scope="module")
def hands() -> list[tuple[Image, Geometry, Box]]:
    return [hand(number) for number in range(COUNT)]


@pytest.fixture(scope="module")
def frame_SS(hands: list[tuple[Image, Geometry, Box]]) -> NDArray[np.float32]:
    return common_frame([image_HW for image_HW, _, _ in hands])


def middle(box: Box) -> NDArray[np.float64]:
    return np.array([[(box.left + box.right) / 2, (box.top + box.bottom) / 2]])


def test_the_same_part_of_every_hand_comes_to_the_same_place(
    hands: list[tuple[Image, Geometry, Box]], frame_SS: NDArray[np.float32]
) -> None:
    placed = [place(frame_SS, image_HW) for image_HW, _, _ in hands]
    assert np.mean([one.is_sure for one in placed]) >= 0.9
    at_N2 = np.concatenate(
        [one.view(view).to_network(middle(box)) for one, (_, view, box) in zip(placed, hands, strict=True)]
    )
    off_N = np.linalg.norm(at_N2 - np.median(at_N2, axis=0), axis=1)
    before_N2 = np.concatenate([view.to_network(middle(box)) * SIDE / SIZE for _, view, box in hands])
    before_N = np.linalg.norm(before_N2 - np.median(before_N2, axis=0), axis=1)
    assert np.quantile(off_N, 0.8) < 1.5 < np.quantile(before_N, 0.5)


def test_a_box_of_the_frame_lies_on_the_part_in_each_image(
    hands: list[tuple[Image, Geometry, Box]], frame_SS: NDArray[np.float32]
) -> None:
    views = [place(frame_SS, image_HW).view(view) for image_HW, view, _ in hands]
    corners_N4 = np.array(
        [
            np.concatenate(way.to_network(np.array([(box.left, box.top), (box.right, box.bottom)])))
            for way, (_, _, box) in zip(views, hands, strict=True)
        ]
    )
    left, top, right, bottom = np.median(corners_N4, axis=0).tolist()
    found = Found(box=Box(left=left, top=top, right=right, bottom=bottom), ok=True)
    good = [iou(brought(found, way).box, box) >= 0.5 for way, (_, _, box) in zip(views, hands, strict=True)]
    assert np.mean(good) >= 0.9


def test_a_mirrored_hand_is_placed_mirrored(
    hands: list[tuple[Image, Geometry, Box]], frame_SS: NDArray[np.float32]
) -> None:
    image_HW = hands[COUNT // 2][0]
    as_it_is = place(frame_SS, image_HW)
    mirrored = place(frame_SS, np.ascontiguousarray(image_HW[:, ::-1]))
    assert as_it_is.is_sure
    assert mirrored.is_sure
    assert np.linalg.det(as_it_is.from_frame_33) > 0 > np.linalg.det(mirrored.from_frame_33)


def test_what_is_no_hand_is_not_believed(frame_SS: NDArray[np.float32]) -> None:
    noise_HW = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE), np.uint8)
    assert not place(frame_SS, noise_HW).is_sure
    assert not place(frame_SS, np.zeros((SIZE, SIZE), np.uint8)).is_sure


def test_a_map_goes_where_its_image_goes() -> None:
    matrix_33 = np.vstack([cv2.getRotationMatrix2D((31.5, 31.5), 20, 1.1), [0.0, 0.0, 1.0]])
    placed = Placed(matrix_33, 0.9)
    map_SS = np.zeros((SIDE, SIDE), np.float32)
    map_SS[40, 22] = 1.0
    view = placed.view(Geometry(np.eye(3), (SIDE, SIDE), (SIDE, SIDE)))
    (x, y) = view.to_network(np.array([[22.0, 40.0]]))[0]
    row, column = np.unravel_index(int(placed.carried(map_SS).argmax()), (SIDE, SIDE))
    assert max(abs(column - x), abs(row - y)) < 1.0


def test_a_negative_map_says_nothing() -> None:
    assert not Placed(np.eye(3), 0.9).carried(np.full((7, 7), -1.0, np.float32)).any()
