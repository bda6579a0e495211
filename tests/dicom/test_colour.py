"""Grey stored as colour is grey, by table over the ways to store it; one pixel of colour makes it none."""

from __future__ import annotations

import struct
from typing import Any, Literal

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.dicom.header import TAGS
from engine.dicom.parse import DataSet, Limits, parse
from engine.dicom.pixels import display_values
from engine.errors import HeaderError, NotGrayscaleError
from tests.fixtures.dicom_fixture import (
    BIG_ENDIAN,
    EXPLICIT,
    IMPLICIT,
    JPEG,
    JPEG_LS,
    header,
    in_words,
    picture,
    written,
)

LOSSLESS_TOLERANCE, LOSSY_TOLERANCE = 1e-6, 6 / 255


def stored(grey_HW: NDArray[Any], photometric: str, planar: int) -> NDArray[Any]:
    neutral = np.full_like(grey_HW, 1 << (grey_HW.dtype.itemsize * 8 - 1))
    chroma = grey_HW if photometric == "RGB" else neutral
    if photometric == "YBR_FULL_422":
        return np.stack((grey_HW[:, ::2], grey_HW[:, 1::2], chroma[:, ::2], chroma[:, ::2]), axis=-1)
    return np.stack((grey_HW, chroma, chroma), axis=0 if planar else -1)


def data_set_of(pixels: bytes, shape: tuple[int, int], bits: int, syntax: str, **changes: Any) -> DataSet:
    sizes = {"Rows": shape[0], "Columns": shape[1], "BitsAllocated": bits, "BitsStored": bits}
    values = header(**sizes | {"HighBit": bits - 1, "SamplesPerPixel": 3} | changes)
    if syntax in {JPEG, JPEG_LS}:
        item = b"\xfe\xff\0\xe0"
        pixels += b"\0" * (len(pixels) % 2)
        values.add_new(0x7FE00010, "OB", item + bytes(4) + item + len(pixels).to_bytes(4, "little") + pixels)
        values["PixelData"].is_undefined_length = True
    else:
        is_swapped = syntax == BIG_ENDIAN and bits == 8
        values.add_new(0x7FE00010, "OW", in_words(pixels, is_swapped=is_swapped))
    return parse(written(values, syntax), TAGS, Limits())


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("photometric", "planar"),
    [("RGB", 0), ("RGB", 1), ("YBR_FULL", 0), ("YBR_FULL", 1), ("YBR_FULL_422", 0)],
)
def test_grey_stored_as_colour_is_grey(photometric: str, planar: int, bits: int, syntax: str) -> None:
    grey_HW = picture((10, 8), bits)
    order: Literal[">", "<"] = ">" if syntax == BIG_ENDIAN else "<"
    pixels = stored(grey_HW, photometric, planar)
    told = {"PhotometricInterpretation": photometric, "PlanarConfiguration": planar}
    window = {"WindowCenter": 3, "WindowWidth": 5}  # is of no colour pixels

    def shown(values: NDArray[Any]) -> NDArray[np.float32]:
        raw = values.astype(values.dtype.newbyteorder(order)).tobytes()
        return display_values(data_set_of(raw, (10, 8), bits, syntax, **told, **window), Limits())

    assert shown(pixels) == pytest.approx(grey_HW / ((1 << bits) - 1), abs=LOSSLESS_TOLERANCE)
    pixels.reshape(-1)[pixels.size // 2 + 2] ^= 1 << (bits - 2)
    if photometric == "YBR_FULL_422" or not planar:
        with pytest.raises(NotGrayscaleError):
            shown(pixels)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422"])
def test_a_jpeg_of_grey_in_three_channels_is_grey(photometric: str) -> None:
    grey_HW = picture((32, 48), 8)
    coloured = np.stack([grey_HW] * 3, axis=-1)
    told = {"PhotometricInterpretation": photometric, "PlanarConfiguration": 0}
    stream = bytes(imagecodecs.jpeg8_encode(coloured, level=95))
    shown = display_values(data_set_of(stream, (32, 48), 8, JPEG, **told), Limits())
    assert np.abs(shown - grey_HW / 255).mean() < LOSSY_TOLERANCE
    coloured[4:20, 4:20, 0] = 255 - coloured[4:20, 4:20, 0] // 2
    stream = bytes(imagecodecs.jpeg8_encode(coloured, level=95))
    with pytest.raises(NotGrayscaleError):
        display_values(data_set_of(stream, (32, 48), 8, JPEG, **told), Limits())


def palette(red: list[int], green: list[int], first: int, bits: int) -> dict[str, Any]:
    def packed(values: list[int]) -> bytes:
        return struct.pack(f"<{len(values)}{'B' if bits == 8 else 'H'}", *values)

    tables = {"Red": red, "Green": green, "Blue": green}
    data = {f"{name}PaletteColorLookupTableData": packed(values) for name, values in tables.items()}
    descriptors = {f"{name}PaletteColorLookupTableDescriptor": [len(red), first, bits] for name in tables}
    return {"SamplesPerPixel": 1, "PhotometricInterpretation": "PALETTE COLOR", **data, **descriptors}


@pytest.mark.parametrize(("bits", "white"), [(8, 255), (16, 65535)])
def test_a_grey_palette_is_looked_up(bits: int, white: int) -> None:
    """Stored 10 to 13 are black, white, a fifth and black; below and above, the first and the last entry."""
    ramp = [0, white, white // 5, 0]
    codes = np.array([[0, 10, 11, 12, 13, 99]], np.uint8)
    data_set = data_set_of(codes.tobytes(), (1, 6), 8, EXPLICIT, **palette(ramp, ramp, 10, bits))
    assert display_values(data_set, Limits()).tolist() == [pytest.approx([0, 0, 1, 0.2, 0, 0])]


def test_a_coloured_entry_counts_where_it_is_used() -> None:
    tables = palette([0, 255, 80, 0], [0, 255, 0, 0], 0, 8)
    unused = data_set_of(bytes([0, 1, 1, 0]), (1, 4), 8, EXPLICIT, **tables)
    assert display_values(unused, Limits()).tolist() == [[0, 1, 1, 0]]
    with pytest.raises(NotGrayscaleError):
        display_values(data_set_of(bytes([0, 1, 2, 0]), (1, 4), 8, EXPLICIT, **tables), Limits())


def test_a_palette_that_is_cut_has_no_sense() -> None:
    tables = palette([0, 255, 80, 0], [0, 255, 0, 0], 0, 8)
    tables["GreenPaletteColorLookupTableData"] = b"\0\1"
    with pytest.raises(HeaderError, match="palette"):
        display_values(data_set_of(bytes(4), (1, 4), 8, EXPLICIT, **tables), Limits())


def silent(jpeg: bytes) -> bytes:
    """The JPEG stream without its JFIF marker: nothing in it says what its components are."""
    start = jpeg.index(b"\xff\xe0")
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]


def test_a_jpeg_of_rgb_components_without_a_marker_is_read_as_the_header_says() -> None:
    """libjpeg takes three silent components for YBR; equal ones are grey as RGB, and green-violet as YBR."""
    grey_HW = np.kron(picture((4, 6), 8), np.ones((8, 8), np.uint8))  # a tone a block: nothing is lost
    coloured = np.stack([grey_HW] * 3, axis=-1)
    as_it_lies: dict[str, Any] = {"colorspace": "YCBCR", "outcolorspace": "YCBCR", "subsampling": "444"}
    stream = silent(bytes(imagecodecs.jpeg8_encode(coloured, level=98, **as_it_lies)))

    def shown(photometric: str) -> NDArray[np.float32]:
        told = {"PhotometricInterpretation": photometric}
        return display_values(data_set_of(stream, grey_HW.shape, 8, JPEG, **told), Limits())

    assert shown("RGB") == pytest.approx(grey_HW / 255, abs=LOSSY_TOLERANCE)
    with pytest.raises(NotGrayscaleError):
        shown("YBR_FULL")
