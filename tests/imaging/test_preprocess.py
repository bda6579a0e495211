"""A contract over STEPS, and what a view does to an image."""

from __future__ import annotations

import numpy as np
import pytest

from engine.dicom.frame import Frame
from engine.errors import UnknownNameError
from engine.imaging.preprocess import STEPS, View, apply, apply_to_frame, fitted_HW, view_from_facts

VIEW = View(size_HW=(32, 48))


def picture(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("shape", [(64, 64), (30, 90), (1, 1), (1, 6553)])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_every_step_is_pure_keeps_the_unit_range_and_sees_the_film_alone(
    name: str, shape: tuple[int, int], share: float
) -> None:
    image = picture(shape).astype(np.float64)
    film = np.random.default_rng(1).uniform(0, 1, shape) < share
    before = image.copy()
    shown = STEPS[name](image, film, VIEW)
    assert np.array_equal(image, before)
    assert (shown.dtype, shown.shape) == (np.float64, shape)
    assert shown.min() >= 0
    assert shown.max() <= 1
    other = STEPS[name](np.where(film, image, 1 - image), film, VIEW)
    assert np.array_equal(shown[film], other[film])


@pytest.mark.parametrize("shape", [(64, 64), (30, 90), (1, 1), (1, 65535), (40_000, 2), (300, 299)])
def test_a_view_gives_bytes_on_its_own_grid(shape: tuple[int, int]) -> None:
    shown, moved = apply(picture(shape), VIEW)
    assert (shown.dtype, shown.shape) == (np.uint8, VIEW.size_HW)
    assert (moved.original_HW, moved.network_HW) == (shape, VIEW.size_HW)
    centre = moved.to_network(np.array([[(shape[1] - 1) / 2, (shape[0] - 1) / 2]]))
    assert np.abs(centre - [23.5, 15.5]).max() <= 0.5  # an odd margin goes to one side


def test_resize_keeps_the_aspect_and_pads_with_black() -> None:
    shown, _ = apply(np.ones((20, 10), np.float32), View(size_HW=(20, 20), steps=()))
    assert shown[:, 5:15].tolist() == [[255] * 10] * 20
    assert shown.sum() == 255 * 200


def test_area_resize_averages() -> None:
    image = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)
    shown, _ = apply(image, View(size_HW=(1, 1), steps=()))
    assert shown.tolist() == [[128]]


def test_stretch_maps_percentiles_to_black_and_white() -> None:
    image = np.linspace(0.4, 0.6, 101, dtype=np.float32)[None]
    view = View(size_HW=(1, 101), stretch_percentiles=(10.0, 90.0))
    shown, _ = apply(image, view)
    assert shown[0, :11].max() == 0
    assert shown[0, 90:].min() == 255
    assert shown[0, 50] in (127, 128)


@pytest.mark.parametrize("percents", [(0.5, 99.5), (0.0, 100.0), (12.0, 13.0), (50.0, 50.1)])
def test_stretch_takes_the_percentiles_that_numpy_gives(percents: tuple[float, float]) -> None:
    image = picture((31, 77))
    shown = STEPS["stretch"](
        image.astype(np.float64),
        np.ones(image.shape, bool),
        View(size_HW=(31, 77), stretch_percentiles=percents),
    )
    low, high = np.percentile(image, percents)
    assert np.abs(shown - np.clip((image - low) / (high - low), 0, 1)).max() < 2e-3


@pytest.mark.parametrize("shape", [(256, 384), (255, 383), (257, 381), (1031, 1500)])
def test_averaging_in_two_steps_is_averaging(shape: tuple[int, int]) -> None:
    """From 3 pixels a side on, 2 x 2 come first; against sums over each pixel of the view, counted out."""
    view = View(size_HW=(32, 48), steps=())
    rows, columns = np.indices(shape)
    smooth = (0.5 + 0.3 * np.sin(rows / 60) * np.cos(columns / 75)).astype(np.float32)
    shown, moved = apply(smooth, view)
    inner = moved.to_network(np.array([[-0.5, -0.5], [shape[1] - 0.5, shape[0] - 0.5]]))
    (left, top), (right, bottom) = np.rint(inner + 0.5).astype(int)
    kept = shown[top:bottom, left:right].astype(int)
    exact = 255 * _mean_over(_mean_over(smooth, bottom - top).T, right - left).T
    assert np.abs(kept - exact).max() <= 1


def _mean_over(values: np.ndarray, count: int) -> np.ndarray:
    """Means [count, ...] over equal parts of the first axis; a pixel on an edge is shared by both sides."""
    edges = np.linspace(0, len(values), count + 1)
    sums = np.concatenate((np.zeros((1, values.shape[1])), np.cumsum(values, axis=0, dtype=np.float64)))
    at = np.stack([np.interp(edges, np.arange(len(sums)), column) for column in sums.T], axis=1)
    return np.diff(at, axis=0) * count / len(values)


def test_a_flat_image_becomes_black() -> None:
    shown, _ = apply(np.full((8, 8), 0.7, np.float32), View(size_HW=(8, 8)))
    assert not shown.any()


def test_facts_round_trip() -> None:
    assert view_from_facts(VIEW.facts()) == VIEW


def test_unknown_step_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'stretch'"):
        View(size_HW=(8, 8), steps=("strech",))


@pytest.mark.parametrize("shape", [(301, 203), (64, 64), (20, 10), (1, 999)])
@pytest.mark.parametrize("steps", [("stretch",), ()])
def test_a_picture_becomes_what_its_display_values_become(
    shape: tuple[int, int], steps: tuple[str, ...]
) -> None:
    """To map before or after the resize is one, but for rounding."""
    view = View(size_HW=(32, 48), steps=steps)
    stored = np.random.default_rng(1).integers(0, 60_000, shape).astype(np.uint16)
    shown, moved = apply_to_frame(Frame(stored, -1 / 65535, 1.0, shape), view)
    expected, mapped = apply((1 - stored / 65535).astype(np.float32), view)
    assert np.abs(shown.astype(int) - expected).max() <= 1
    assert np.array_equal(moved.matrix_33, mapped.matrix_33)


@pytest.mark.parametrize("reduction", [2, 4])
@pytest.mark.parametrize("shape", [(640, 480), (637, 479), (401, 643)])
def test_a_reduced_picture_lies_where_the_full_one_does(shape: tuple[int, int], reduction: int) -> None:
    """A reduced grid may reach beyond the original; the map stays that of the original."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = (0.5 + 0.5 * np.sin(x / 40) * np.cos(y / 50)).astype(np.float32)
    room = [(0, -side % reduction) for side in shape]
    tiles = np.pad(image, room, mode="edge")
    small = tiles.reshape(tiles.shape[0] // reduction, reduction, -1, reduction).mean(axis=(1, 3))
    view = View(size_HW=(60, 60), steps=())
    shown, moved = apply_to_frame(Frame(small, 1.0, 0.0, shape, reduction), view)
    expected, mapped = apply(image, view)
    assert np.abs(shown.astype(int) - expected).max() <= 2
    assert moved.original_HW == shape
    assert np.array_equal(moved.matrix_33, mapped.matrix_33)


def test_the_least_resolution_is_what_the_view_keeps() -> None:
    assert fitted_HW(View(size_HW=(100, 100)), (2000, 1000)) == (100, 50)
    assert fitted_HW(View(size_HW=(100, 100)), (1000, 1000), aspect=2.0) == (100, 50)


def film(shape: tuple[int, int]) -> np.ndarray:
    """A smooth picture, so that a row more or less says little."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (0.5 + 0.3 * np.sin(x / 9) * np.cos(y / 11) + 0.1 * picture(shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(200, 120), (120, 200), (40, 30), (30, 40)])
@pytest.mark.parametrize(("gain", "offset"), [(0.5, 0.0), (0.5, 0.45), (-0.3, 0.9), (1 / 256, 0.7)])
def test_a_view_does_not_change_with_the_window_of_its_film(
    shape: tuple[int, int], gain: float, offset: float
) -> None:
    """Bars of a portrait or a landscape are no part of the contrast, whatever its darkest grey is."""
    values = film(shape)
    expected, _ = apply(values, View(size_HW=(64, 64)))
    shown, _ = apply_to_frame(Frame(values, gain, offset, shape), View(size_HW=(64, 64)))
    bars = expected == apply(1 - values, View(size_HW=(64, 64)))[0]
    as_is = shown if gain > 0 else np.where(bars, shown, 255 - shown)
    assert np.abs(as_is.astype(int) - expected).max() <= 1
    assert np.mean(as_is != expected) < 0.02


@pytest.mark.parametrize("shape", [(200, 120), (120, 200), (640, 480)])
def test_what_is_no_film_is_black_and_does_not_count(shape: tuple[int, int]) -> None:
    values, view = film(shape), View(size_HW=(64, 64))
    film_HW = np.ones(shape, bool)
    film_HW[: shape[0] // 4] = False
    film_HW[:, : shape[1] // 5] = False
    one, _ = apply_to_frame(Frame(np.where(film_HW, values, 0), 1.0, 0.0, shape, film_HW=film_HW), view)
    other, moved = apply_to_frame(Frame(np.where(film_HW, values, 9), 1.0, 0.0, shape, film_HW=film_HW), view)
    assert np.array_equal(one, other)
    corner = moved.to_network(np.array([[shape[1] / 10, shape[0] / 8]])).round().astype(int)[0]
    assert one[corner[1], corner[0]] == 0
    whole, _ = apply(values[shape[0] // 4 :, shape[1] // 5 :], View(size_HW=(64, 64)))
    assert abs(float(one[one > 0].mean()) - float(whole[whole > 0].mean())) < 8


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (50, 40)])
@pytest.mark.parametrize("axis", [0, 1])
def test_pixels_that_are_not_square_are_shown_in_their_proportions(shape: tuple[int, int], axis: int) -> None:
    values, view = film(shape), View(size_HW=(64, 64))
    halved = values.reshape(shape[0] // 2, 2, shape[1]).mean(1) if axis == 0 else (
        values.reshape(shape[0], shape[1] // 2, 2).mean(2)
    )  # fmt: skip
    expected, square = apply(values, view)
    frame = Frame(halved, 1.0, 0.0, halved.shape, aspect=2.0 if axis == 0 else 0.5)
    shown, moved = apply_to_frame(frame, view)
    assert np.abs(shown.astype(int) - expected).mean() < (0.6 if min(shape) > 64 else 4)
    place = np.array([[19.5, 29.5]])
    inside = (place + 0.5) / ([1, 2] if axis == 0 else [2, 1]) - 0.5
    assert np.allclose(moved.to_network(inside), square.to_network(place))
