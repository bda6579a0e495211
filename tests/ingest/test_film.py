"""The film's own pixels, from bytes: shutters, borders, padding and pixels that are not square."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.dicom.remarks import REMARKS
from engine.dicom.write import DX_FOR_PRESENTATION
from engine.imaging.preprocess import View
from engine.ingest.instance import InputRule, Instance
from tests.fixtures import dicom_fixture
from tests.fixtures.prepared import prepare

SALT = bytes(32)
RULE = InputRule(sop_classes=(DX_FOR_PRESENTATION,), view=View(size_HW=(64, 64)))
ROWS, COLUMNS = 240, 160


def film_HW() -> np.ndarray:
    y, x = np.mgrid[:ROWS, :COLUMNS]
    noise = np.random.default_rng(0).integers(0, 60, (ROWS, COLUMNS))
    return (1500 + 900 * np.sin(x / 19) * np.cos(y / 23) + noise).astype(np.uint16)


def seen(stored_HW: np.ndarray, **elements: Any) -> Instance:
    found = prepare(dicom_fixture.image(stored_HW, **elements), RULE, SALT)
    assert set(found.columns["remarks"]) <= set(REMARKS)
    return found


def grey_apart(one: Instance, other: Instance) -> int:
    return int(np.abs(one.image_HW.astype(int) - other.image_HW).max())


RECTANGLE = {
    "ShutterShape": "RECTANGULAR", "ShutterLeftVerticalEdge": 31, "ShutterRightVerticalEdge": 130,
    "ShutterUpperHorizontalEdge": 41, "ShutterLowerHorizontalEdge": 200,
}  # fmt: skip
CIRCLE = {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [120, 80], "RadiusOfCircularShutter": 60}
POLYGON = {
    "ShutterShape": "POLYGONAL",
    "VerticesOfThePolygonalShutter": [40, 30, 40, 130, 200, 130, 200, 30],
}
BOTH = {**CIRCLE, **RECTANGLE, "ShutterShape": ["CIRCULAR", "RECTANGULAR"]}


def is_open(shutter: dict[str, Any]) -> np.ndarray:
    row, column = np.mgrid[1 : ROWS + 1, 1 : COLUMNS + 1]
    shapes = {
        "RECTANGULAR": (column >= 31) & (column <= 130) & (row >= 41) & (row <= 200),
        "CIRCULAR": (row - 120) ** 2 + (column - 80) ** 2 <= 60**2,
        "POLYGONAL": (row >= 40) & (row < 200) & (column >= 30) & (column < 130),
    }
    names = shutter["ShutterShape"]
    return np.logical_and.reduce([shapes[name] for name in ([names] if isinstance(names, str) else names)])


@pytest.mark.parametrize("shutter", [RECTANGLE, CIRCLE, POLYGON, BOTH])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_what_a_shutter_hides_does_not_count(shutter: dict[str, Any], photometric: str) -> None:
    """Whatever lies there, and as if it were padding."""
    stored_HW, is_shown_HW = film_HW(), is_open(shutter)
    said = {"PhotometricInterpretation": photometric}
    one = seen(stored_HW, **shutter, **said)
    other = seen(np.where(is_shown_HW, stored_HW, 4095).astype(np.uint16), **shutter, **said)
    padded = seen(np.where(is_shown_HW, stored_HW, 9).astype(np.uint16), PixelPaddingValue=9, **said)
    assert grey_apart(one, other) == 0
    assert one.columns["remarks"] == ["shutter"]
    assert padded.columns["remarks"] == ["padding"]
    assert grey_apart(one, padded) == 0
    assert one.image_HW[0].max() == 0


@pytest.mark.parametrize(
    "shutter",
    [
        {"ShutterShape": "RECTANGULAR"},
        {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [9000, 9000], "RadiusOfCircularShutter": 5},
        {"ShutterShape": "CIRCULAR", "RadiusOfCircularShutter": 5},
        {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [1, 2, 3]},
        {"ShutterShape": "BITMAP"},
    ],
)
def test_a_shutter_without_sense_hides_nothing(shutter: dict[str, Any]) -> None:
    assert grey_apart(seen(film_HW(), **shutter), seen(film_HW())) == 0


@pytest.mark.parametrize("width", [1, 5, 24])
@pytest.mark.parametrize("sides", [(1, 1, 1, 1), (1, 0, 0, 0), (0, 0, 1, 0)])
def test_a_white_border_is_as_a_black_one(width: int, sides: tuple[int, int, int, int]) -> None:
    top, bottom, left, right = (width * side for side in sides)
    stored_HW = film_HW()
    inner = (slice(top, ROWS - bottom), slice(left, COLUMNS - right))

    def framed(grey: int) -> Instance:
        whole_HW = np.full((ROWS, COLUMNS), grey, np.uint16)
        whole_HW[inner] = stored_HW[inner]
        return seen(whole_HW)

    white, black = framed(4095), framed(0)
    assert grey_apart(white, black) == 0
    assert white.columns["remarks"] == ["border"]
    assert black.columns["remarks"] == []


def test_the_background_of_a_small_object_is_no_border() -> None:
    stored_HW = np.full((ROWS, COLUMNS), 100, np.uint16)
    stored_HW[100:130, 60:90] = film_HW()[100:130, 60:90]
    assert seen(stored_HW).image_HW.max() == 255
    assert seen(stored_HW).image_HW[2, 30] == 0


def test_an_image_of_one_grey_stays_black() -> None:
    assert not seen(np.full((ROWS, COLUMNS), 700, np.uint16)).image_HW.any()


@pytest.mark.parametrize(
    "said",
    [
        {"PixelSpacing": [0.2, 0.1]}, {"ImagerPixelSpacing": [0.3, 0.15]},
        {"NominalScannedPixelSpacing": [2, 1]}, {"PixelAspectRatio": [2, 1]},
        {"PixelSpacing": [0.2, 0.1], "PixelAspectRatio": [1, 1]},
    ],
)  # fmt: skip
def test_pixels_that_are_not_square_are_shown_as_they_lie_on_the_film(said: dict[str, Any]) -> None:
    stored_HW = film_HW()
    halved_HW = stored_HW.reshape(ROWS // 2, 2, COLUMNS).mean(1).round().astype(np.uint16)
    low, square = seen(halved_HW, **said), seen(stored_HW)
    assert np.abs(low.image_HW.astype(int) - square.image_HW).mean() < 1
    assert low.columns["remarks"] == ["pixel_aspect"]
    assert np.allclose(
        low.geometry.to_network(np.array([[40.0, 24.75]])),
        square.geometry.to_network(np.array([[40.0, 50.0]])),
    )


@pytest.mark.parametrize("said", [{"PixelSpacing": [0.1435, 0.1434]}, {"PixelAspectRatio": [0, 1]},
                                  {"ImagerPixelSpacing": [100, 1]}])  # fmt: skip
def test_a_proportion_by_rounding_or_without_sense_is_none(said: dict[str, Any]) -> None:
    assert grey_apart(seen(film_HW(), **said), seen(film_HW())) == 0
