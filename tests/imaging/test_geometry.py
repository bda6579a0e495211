"""Geometry: hand-computed points, composition, and round trips far below a pixel."""

from __future__ import annotations

import numpy as np
import pytest

from engine.imaging import geometry
from engine.imaging.preprocess import View, apply


def test_resize_aligns_areas() -> None:
    """Halving 4 columns: the pair (0, 1) has its centre at 0.5 and becomes pixel 0."""
    half = geometry.resized((4, 4), (2, 2))
    assert half.to_network(np.array([[0.5, 0.5], [2.5, 2.5]])).tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert half.to_original(np.array([[1.0, 0.0]])).tolist() == [[2.5, 0.5]]


def test_padding_shifts_columns_by_left_and_rows_by_top() -> None:
    moved = geometry.padded((2, 2), (4, 6), top=1, left=3)
    assert moved.to_network(np.array([[0.0, 0.0]])).tolist() == [[3.0, 1.0]]


def test_then_is_first_one_then_the_other() -> None:
    both = geometry.resized((4, 4), (2, 2)).then(geometry.padded((2, 2), (2, 4), top=0, left=1))
    assert both.to_network(np.array([[0.5, 0.5]])).tolist() == [[1.0, 0.0]]
    assert (both.original_HW, both.network_HW) == ((4, 4), (2, 4))


@pytest.mark.parametrize("shape", [(100, 100), (2460, 2048), (37, 211), (1, 5)])
def test_the_view_of_an_image_round_trips(shape: tuple[int, int]) -> None:
    _, view = apply(np.zeros(shape, np.float32), View(size_HW=(112, 112)))
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1, (50, 2)) * [shape[1], shape[0]]
    assert np.abs(view.to_original(view.to_network(points)) - points).max() < 1e-3


def test_a_bright_dot_is_where_the_geometry_says() -> None:
    image = np.zeros((300, 200), np.float32)
    image[110:140, 50:80] = 1
    shown, view = apply(image, View(size_HW=(100, 100)))
    rows, columns = np.nonzero(shown > 128)
    centre = view.to_network(np.array([[64.5, 124.5]]))[0]
    assert np.abs(centre - [columns.mean(), rows.mean()]).max() < 0.5
