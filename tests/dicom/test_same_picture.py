"""One film whose values are written in other ways: the network's input stays what it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.dicom.header import TAGS
from engine.dicom.parse import Limits, parse
from engine.dicom.pixels import read_frame
from engine.dicom.voi import shows_film
from engine.imaging.borders import without_border
from engine.imaging.preprocess import View, apply_to_frame
from tests.fixtures.dicom_fixture import JPEG, JPEG_2000, header, image, written

Array = NDArray[Any]
VIEW = View(size_HW=(112, 112))
JPEG_2000_LOSSY = "1.2.840.10008.1.2.4.91"


def film(bits: int = 12) -> Array:
    """A hand's worth of grey: fingers of bone with soft edges on a background with grain, none at an end."""
    rows, columns = np.mgrid[:640, :480]
    bones = sum(
        np.exp(-(((columns - 480 * (0.2 + 0.15 * finger)) / 18) ** 2)) * (rows > 60 + 40 * abs(finger - 2))
        for finger in range(5)
    )
    soft = np.exp(-(((columns - 240) / 200) ** 2 + ((rows - 400) / 260) ** 2))
    unit = 0.15 + 0.25 * soft + 0.4 * bones + np.random.default_rng(1).normal(0, 0.004, rows.shape)
    return np.rint(unit.clip(0.02, 0.98) * ((1 << bits) - 1)).astype(np.uint16 if bits > 8 else np.uint8)


def seen(data: bytes) -> tuple[Array, tuple[str, ...]]:
    """(The network's input, remarks)."""
    frame = without_border(read_frame(parse(data, TAGS, Limits()), Limits(), least_HW=(112, 84)))
    return apply_to_frame(frame, VIEW)[0].astype(np.int64), frame.remarks


FILM = film()
PLAIN = seen(image(FILM))[0]
EIGHT = film(8)


AFFINE: dict[str, Callable[[], bytes]] = {
    "window": lambda: image(FILM, WindowCenter=2048, WindowWidth=4096),
    "window 1.2 times as wide": lambda: image(FILM, WindowCenter=2048, WindowWidth=4096 * 1.2),
    "window 300 times as wide": lambda: image(FILM, WindowCenter=2048, WindowWidth=4096 * 300),
    "LINEAR_EXACT": lambda: image(
        FILM, WindowCenter=2048, WindowWidth=4096, VOILUTFunction="linear exact"
    ),
    "values + 800": lambda: image(FILM + 800, BitsStored=13, HighBit=12),
    "MONOCHROME1": lambda: image(4095 - FILM, PhotometricInterpretation="MONOCHROME1"),
    "MONOCHROME1, 16 bits": lambda: image(
        65_535 - FILM, PhotometricInterpretation="MONOCHROME1", BitsStored=16, HighBit=15
    ),
    "12 bits in 16": lambda: image(FILM, BitsStored=16, HighBit=15),
    "12 bits in 16, MONOCHROME1": lambda: image(
        4095 - FILM, PhotometricInterpretation="MONOCHROME1", BitsStored=16, HighBit=15
    ),
    "signed": lambda: image(FILM.astype(np.int16) - 2048, PixelRepresentation=1),
    "signed 16 bits": lambda: image(
        FILM.astype(np.int16) - 1024, PixelRepresentation=1, BitsStored=16, HighBit=15
    ),
    "32 bits": lambda: image(FILM.astype(np.uint32), BitsStored=32, HighBit=31),
    "32 bits, signed": lambda: image(
        FILM.astype(np.int32) - 70_000, BitsStored=32, HighBit=31, PixelRepresentation=1
    ),
    "upper bits of 16": lambda: image(FILM << 4, HighBit=15),
    "upper bits of 32": lambda: image(FILM.astype(np.uint32) << 20, HighBit=31),
    "rescale": lambda: image(FILM, RescaleSlope=0.1, RescaleIntercept=-77),
    "rescale below zero": lambda: image(4095 - FILM, RescaleSlope=-1, RescaleIntercept=4095),
    "rescale below zero, MONOCHROME1": lambda: image(
        FILM, RescaleSlope=-2, RescaleIntercept=9, PhotometricInterpretation="MONOCHROME1"
    ),
    "rescale and window": lambda: image(
        FILM, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=3096, WindowWidth=8192
    ),
    "identity modality LUT": lambda: image(FILM, ModalityLUTSequence=[table(np.arange(4096), 16)]),
    "linear VOI LUT": lambda: image(FILM, VOILUTSequence=[table(np.arange(4096) * 4 + 7, 16)]),
    "JPEG 2000": lambda: image(FILM, frame=jpeg_2000(FILM), syntax=JPEG_2000),
    "JPEG 2000, 16 bits": lambda: image(FILM, frame=jpeg_2000(FILM, bits=16), syntax=JPEG_2000),
    "JPEG 2000, signed": lambda: image(
        FILM.astype(np.int16) - 2048, frame=jpeg_2000(FILM.astype(np.int16) - 2048), syntax=JPEG_2000,
        PixelRepresentation=1,
    ),
}  # fmt: skip


def table(values: Array, bits: int) -> Any:
    inner = header()
    inner.clear()
    inner.add_new(0x00283002, "US", [len(values), 0, bits])
    inner.add_new(0x00283006, "OW", values.astype("<u2").tobytes())
    return inner


def jpeg_2000(stored_HW: Array, bits: int = 12, **options: Any) -> bytes:
    settings = {"codecformat": "J2K", "level": 0, "reversible": True, "bitspersample": bits}
    return bytes(imagecodecs.jpeg2k_encode(stored_HW, **settings | options))


@pytest.mark.parametrize("rewriting", AFFINE)
def test_affine_rewritings_leave_the_networks_input_as_it_is(rewriting: str) -> None:
    """Equal but for a value that lies on the edge of two greys."""
    image_HW, _ = seen(AFFINE[rewriting]())
    away_HW = np.abs(image_HW - PLAIN)
    assert away_HW.max() <= 1
    assert away_HW.mean() < 0.01


WINDOWS: dict[str, dict[str, Any]] = {
    "far below": {"WindowCenter": -30_000, "WindowWidth": 400},
    "far above": {"WindowCenter": 30_000, "WindowWidth": 400},
    "just above": {"WindowCenter": 5000, "WindowWidth": 1700},
    "width 1": {"WindowCenter": 900, "WindowWidth": 1},
    "width 2": {"WindowCenter": 900, "WindowWidth": 2},
    "width 9": {"WindowCenter": 900, "WindowWidth": 9},
    "width 0": {"WindowCenter": 900, "WindowWidth": 0},
    "width -5": {"WindowCenter": 900, "WindowWidth": -5},
    "a million wide": {"WindowCenter": 0, "WindowWidth": 1_000_000},
    "sigmoid far below": {"WindowCenter": -9000, "WindowWidth": 400, "VOILUTFunction": "SIGMOID"},
    "level VOI LUT": {"VOILUTSequence": [table(np.full(4096, 5), 16)]},
    "VOI LUT of two greys": {"VOILUTSequence": [table((np.arange(4096) > 900) * 255, 8)]},
}


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", WINDOWS)
def test_a_window_that_shows_next_to_nothing_is_ignored_with_a_remark(window: str, photometric: str) -> None:
    stored_HW = FILM if photometric == "MONOCHROME2" else 4095 - FILM
    image_HW, remarks = seen(image(stored_HW, PhotometricInterpretation=photometric, **WINDOWS[window]))
    assert remarks == ("window_ignored",)
    assert np.abs(image_HW - PLAIN).max() <= 1


@pytest.mark.parametrize("greys", [3, 8])
def test_a_film_of_few_greys_keeps_a_voi_lut_that_falls(greys: int) -> None:
    few_HW = (FILM // (4096 // greys) * (4096 // greys)).astype(np.uint16)
    falling = table(np.arange(4096)[::-1] * 16, 16)
    said = {"PhotometricInterpretation": "MONOCHROME1", "VOILUTSequence": [falling]}
    assert np.abs(seen(image(few_HW, **said))[0] - seen(image(few_HW))[0]).max() <= 1
    beside = {"WindowCenter": -30_000, "WindowWidth": 400}
    assert np.abs(seen(image(few_HW, **beside))[0] - seen(image(few_HW))[0]).max() <= 1


@pytest.mark.parametrize("kind", [np.uint16, np.uint32])
def test_a_falling_voi_lut_that_is_ignored_leaves_black_black(kind: Any) -> None:
    """It clips nearly all: the full range is shown, the way round that the table says."""
    steep = table(np.clip(65_535 - (np.arange(4096) - 100) * 60_000, 0, 65_535), 16)
    said = {"PhotometricInterpretation": "MONOCHROME1", "VOILUTSequence": [steep]}
    told = {"BitsStored": 32, "HighBit": 31} if kind is np.uint32 else {}
    image_HW, remarks = seen(image(FILM.astype(kind), **said, **told))
    assert remarks == ("window_ignored",)
    assert np.abs(image_HW - PLAIN).max() <= 1


@pytest.mark.parametrize("kind", [np.uint16, np.uint32])
def test_a_window_for_the_bones_is_kept(kind: Any) -> None:
    """From 600 to 2600 of 4096, so that both ends are clipped."""
    told = {"BitsStored": 32, "HighBit": 31} if kind is np.uint32 else {}
    image_HW, remarks = seen(image(FILM.astype(kind), WindowCenter=1600, WindowWidth=2000, **told))
    assert remarks == ()
    assert np.abs(image_HW - PLAIN).max() > 20


def test_the_first_window_counts_whatever_follows() -> None:
    told = {"WindowCenter": [1600, 2048], "WindowWidth": [2000, 4096]}
    first, _ = seen(image(FILM, WindowCenter=1600, WindowWidth=2000))
    assert np.array_equal(seen(image(FILM, **told))[0], first)


def test_a_film_of_a_few_greys_keeps_them() -> None:
    """Eight levels: the window is ignored, and the full range shows the same."""
    steps_HW = FILM // 512 * 512
    plain, _ = seen(image(steps_HW))
    image_HW, _ = seen(image(steps_HW, WindowCenter=2048, WindowWidth=4096))
    assert np.abs(image_HW - plain).max() <= 1


def test_a_twentieth_of_the_film_in_sixteen_greys_is_enough() -> None:
    """The two bounds, by hand: 1000 pixels, of which 50 have 16 greys."""
    shown = np.zeros(1000)
    shown[:50] = (np.arange(50) % 16 + 1) / 255
    assert shows_film(shown)
    assert not shows_film(np.where(shown == 16 / 255, 0, shown))
    assert not shows_film(np.where(np.arange(1000) == 0, 0, shown))


def colour(photometric: str, planar: int = 0) -> bytes:
    """The 8-bit film in three equal channels, or as Y with neutral chroma."""
    chroma_HW = EIGHT if photometric == "RGB" else np.full_like(EIGHT, 128)
    channels = np.stack((EIGHT, chroma_HW, chroma_HW), axis=0 if planar else -1)
    data_set = header(
        Rows=640, Columns=480, SamplesPerPixel=3, PhotometricInterpretation=photometric, BitsAllocated=8,
        BitsStored=8, HighBit=7, PlanarConfiguration=planar,
    )  # fmt: skip
    data_set.add_new(0x7FE00010, "OW", channels.tobytes())
    return written(data_set)


COLOURS: dict[str, Callable[[], bytes]] = {
    "RGB": lambda: colour("RGB"), "RGB in planes": lambda: colour("RGB", 1),
    "YBR_FULL": lambda: colour("YBR_FULL"), "YBR_FULL in planes": lambda: colour("YBR_FULL", 1),
    "JPEG 2000, YBR_RCT": lambda: coded(jpeg_2000(stacked(), bits=8, mct=True), JPEG_2000, "YBR_RCT"),
    "JPEG 2000, RGB": lambda: coded(jpeg_2000(stacked(), bits=8, mct=False), JPEG_2000, "RGB"),
    "palette": lambda: image(EIGHT, PhotometricInterpretation="PALETTE COLOR", **palette()),
}  # fmt: skip


def stacked() -> Array:
    return np.stack([EIGHT] * 3, axis=-1)


def coded(frame: bytes, syntax: str, photometric: str) -> bytes:
    return image(
        EIGHT, frame=frame, syntax=syntax, SamplesPerPixel=3, PhotometricInterpretation=photometric,
        PlanarConfiguration=0,
    )  # fmt: skip


def palette() -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name in ("Red", "Green", "Blue"):
        told[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
        told[f"{name}PaletteColorLookupTableData"] = bytes(range(256))
    return told


@pytest.mark.parametrize("rewriting", COLOURS)
def test_grey_stored_as_colour_is_the_grey_film(rewriting: str) -> None:
    grey, _ = seen(image(EIGHT))
    assert np.abs(seen(COLOURS[rewriting]())[0] - grey).max() <= 1


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422"])
def test_a_jpeg_of_grey_in_colour_is_close_to_the_grey_jpeg(photometric: str) -> None:
    grey, _ = seen(image(EIGHT, frame=bytes(imagecodecs.jpeg8_encode(EIGHT, level=90)), syntax=JPEG))
    coloured, _ = seen(coded(bytes(imagecodecs.jpeg8_encode(stacked(), level=90)), JPEG, photometric))
    away_HW = np.abs(grey - coloured)
    assert away_HW.mean() <= 1
    assert np.percentile(away_HW, 99.9) <= 3


def padded(value: int) -> tuple[Array, Array]:
    """(A film on a turned plate whose corners are padding, which of it is film)."""
    rows, columns = np.mgrid[:640, :480]
    is_film_HW = np.abs(rows - 320) / 320 + np.abs(columns - 240) / 240 < 1.35
    return np.where(is_film_HW, FILM, value).astype(np.uint16), is_film_HW


@pytest.mark.parametrize(("value", "decibels"), [(0, 50), (0, 60), (4095, 50), (4095, 60)])
def test_padding_in_a_lossy_coding_is_found_in_spite_of_its_ringing(value: int, decibels: int) -> None:
    """At 0.5 to 2.3 bits a pixel."""
    stored_HW, is_film_HW = padded(value)
    told = {"PixelPaddingValue": value, "PhotometricInterpretation": "MONOCHROME2"}
    lossless, remarks = seen(image(stored_HW, **told))
    frame = jpeg_2000(stored_HW, reversible=False, level=decibels)
    coded_HW, coded_remarks = seen(image(stored_HW, frame=frame, syntax=JPEG_2000_LOSSY, **told))
    assert remarks == coded_remarks == ("padding",)
    away_HW = np.abs(lossless - coded_HW)
    assert away_HW.mean() <= 1
    assert np.percentile(away_HW, 99.9) <= 3


def test_padding_of_a_jpeg_is_found_in_spite_of_its_blocks() -> None:
    stored_HW = (padded(0)[0] >> 4).astype(np.uint8)
    lossless, _ = seen(image(stored_HW, PixelPaddingValue=0))
    frame = bytes(imagecodecs.jpeg8_encode(stored_HW, level=90))
    coded_HW, remarks = seen(image(stored_HW, frame=frame, syntax=JPEG, PixelPaddingValue=0))
    burnt, _ = seen(image(imagecodecs.jpeg8_decode(frame), PixelPaddingValue=0, LossyImageCompression="01"))
    assert remarks == ("padding",)
    assert np.array_equal(coded_HW, burnt)  # once decoded and stored plainly, it rings as before
    away_HW = np.abs(lossless - coded_HW)
    assert away_HW.mean() <= 1
    assert np.percentile(away_HW, 99.9) <= 3


@pytest.mark.parametrize("bit", [12, 15])
def test_an_overlay_bit_in_a_lossy_coding_leaves_the_film_within_the_bound(bit: int) -> None:
    """Lines and a box in a bit above the film's, coded together at 2 bits a pixel."""
    is_drawn_HW = np.zeros(FILM.shape, bool)
    is_drawn_HW[20:200:23, 30:300] = True
    is_drawn_HW[400:470, 100:180] = True
    covered_HW = FILM | (is_drawn_HW.astype(np.uint16) << bit)
    frame = jpeg_2000(covered_HW, bits=16, reversible=False, level=80)
    coded_HW, remarks = seen(image(FILM, frame=frame, syntax=JPEG_2000_LOSSY))
    away_HW = np.abs(coded_HW - PLAIN)
    assert remarks == ("high_bits",)
    assert away_HW.mean() <= 1
    assert np.percentile(away_HW, 99.9) <= 3
