"""Stored values to display values, against values worked out by hand from PS3.3 C.11.1 and C.11.2."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from engine.dicom.frame import Frame
from engine.dicom.header import TAGS
from engine.dicom.parse import DataSet, Limits, parse
from engine.dicom.pixels import display_values, read_frame, stored_values
from engine.dicom.voi import ascending_lut, chain_of, layout
from engine.errors import (
    FilteredError,
    HeaderError,
    InstanceError,
    NoPixelDataError,
    NotGrayscaleError,
    OverLimitError,
    PixelDecodeError,
    TruncatedError,
    UnsupportedSyntaxError,
)
from tests.fixtures.dicom_fixture import (
    BIG_ENDIAN,
    EXPLICIT,
    JPEG_LS,
    data_set_of,
    header,
    image,
    item,
    meta,
    picture,
    written,
)

SPINE = Path(__file__).resolve().parents[3] / "shared" / "data" / "ct_lidc0314_spine" / "series"
WINDOW: dict[str, Any] = {"WindowCenter": 50, "WindowWidth": 100}
WIDE: dict[str, Any] = {"WindowCenter": 2000, "WindowWidth": 2900}
CURVE = struct.pack("<4096H", *(round(4095 * (value / 4095) ** 2) for value in range(4096)))
SIGMA_2 = 1 / (1 + math.exp(-2))  # the SIGMOID half a width above the centre


def shaded(frame: Frame) -> NDArray[np.float32]:
    return frame.display_HW


def display_lut(header: Dataset) -> NDArray[np.float32]:
    """The table of a file by its stored values, read as unsigned."""
    where = layout(header)
    table = ascending_lut(header, chain_of(header, where)).astype(np.float32)
    half = len(table) // 2
    return np.concatenate((table[half:], table[:half])) if where.is_signed else table


def eight(**changes: Any) -> Dataset:
    return header(**{"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7} | changes)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("is_signed", [False, True])
def test_the_whole_range_is_shown_without_a_window(photometric: str, bits: int, is_signed: bool) -> None:
    """Read as unsigned, the lowest signed value is the code with only the top bit set."""
    lut = display_lut(
        header(PhotometricInterpretation=photometric, BitsStored=bits, PixelRepresentation=int(is_signed))
    )
    top = (1 << bits) - 1
    half = 1 << (bits - 1)
    lowest, highest = (half, half - 1) if is_signed else (0, top)
    above_lowest = {lowest: 0.0, (lowest + 51) & top: 51 / top, highest: 1.0}
    assert lut.dtype == np.float32
    assert lut.shape == (1 << bits,)
    for code, unit in above_lowest.items():
        assert lut[code] == pytest.approx(1 - unit if photometric == "MONOCHROME1" else unit, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # LINEAR: (x - 49.5) / 99 + 0.5
        (WINDOW, {0: 0.0, 33: 1 / 3, 99: 1.0, 100: 1.0, 255: 1.0}),
        (WINDOW | {"VOILUTFunction": "LINEAR"}, {0: 0.0, 66: 2 / 3, 99: 1.0}),
        (WINDOW | {"PhotometricInterpretation": "MONOCHROME1"}, {0: 1.0, 33: 2 / 3, 99: 0.0, 255: 0.0}),
        # LINEAR_EXACT: (x - 50) / 100 + 0.5
        (
            WINDOW | {"VOILUTFunction": "LINEAR_EXACT"},
            {0: 0.0, 25: 0.25, 50: 0.5, 99: 0.99, 100: 1.0, 255: 1.0},
        ),
        # SIGMOID: 1 / (1 + exp(-4 (x - 50) / 100))
        (WINDOW | {"VOILUTFunction": "SIGMOID"}, {50: 0.5, 100: SIGMA_2, 0: 1 - SIGMA_2, 75: 0.7310586}),
        # A window wider than the range of codes does not stretch it: (x - 127.5) / 510 + 0.5
        ({"WindowCenter": 128, "WindowWidth": 511}, {0: 0.25, 51: 0.35, 255: 0.75}),
        # Only the first of several windows counts.
        ({"WindowCenter": [50, 5], "WindowWidth": [100, 5]}, {33: 1 / 3}),
        # Widths that mean no window, and the smallest that means one: a step above 99.5.
        ({"WindowCenter": 50, "WindowWidth": 0}, {0: 0.0, 51: 0.2, 255: 1.0}),
        ({"WindowCenter": 50, "WindowWidth": -9}, {51: 0.2}),
        # Functions in any spelling; one that is unknown, or has no such width, is a linear one.
        (WINDOW | {"VOILUTFunction": "linear_exact "}, {25: 0.25, 99: 0.99}),
        (WINDOW | {"VOILUTFunction": " Linear Exact"}, {25: 0.25}),
        (WINDOW | {"VOILUTFunction": "Sigmoid"}, {50: 0.5, 100: SIGMA_2}),
        (WINDOW | {"VOILUTFunction": "CUBIC"}, {0: 0.0, 33: 1 / 3, 99: 1.0}),
        ({"WindowCenter": 100, "WindowWidth": 0.5}, {99: 0.0, 100: 0.5, 101: 1.0}),
        ({"WindowWidth": 9}, {51: 0.2}),
        ({"WindowCenter": 100, "WindowWidth": 1}, {99: 0.0, 100: 1.0}),
        (
            {"WindowCenter": 100, "WindowWidth": 0.5, "VOILUTFunction": "LINEAR_EXACT"},
            {99: 0, 100: 0.5, 101: 1},
        ),
        # Modality values 2 x - 100, window (m - 50) / 100 + 0.5
        (
            {"RescaleSlope": 2, "RescaleIntercept": -100, "WindowCenter": 50.5, "WindowWidth": 101},
            {10: 0.0, 50: 0.0, 60: 0.2, 75: 0.5, 100: 1.0, 200: 1.0},
        ),
        ({"RescaleSlope": 2}, {0: 0.0, 51: 0.2, 255: 1.0}),
        ({"RescaleIntercept": 10, "WindowCenter": 60, "WindowWidth": 100}, {0: 0.0, 33: 1 / 3, 99: 1.0}),
        # A slope below zero turns the image round; MONOCHROME1 turns it back.
        ({"RescaleSlope": -1, "RescaleIntercept": 255}, {0: 1.0, 51: 0.8, 255: 0.0}),
        ({"RescaleSlope": -1, "PhotometricInterpretation": "MONOCHROME1"}, {0: 0.0, 255: 1.0}),
        # Signed codes: 0xF6 is -10; (x - 0.5 + 0.5) / 20 + 0.5
        (
            {"PixelRepresentation": 1, "WindowCenter": 0.5, "WindowWidth": 21},
            {0xF6: 0.0, 0xFB: 0.25, 0: 0.5, 5: 0.75, 10: 1.0, 0x80: 0.0, 0x7F: 1.0},
        ),
        # PresentationLUTShape says the polarity again.
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}, {0: 1.0, 255: 0.0}),
        ({"RescaleSlope": "", "RescaleIntercept": "", "WindowWidth": ""}, {51: 0.2}),
    ],
)
def test_eight_bit_tables(changes: dict[str, Any], expected: dict[int, float]) -> None:
    lut = display_lut(eight(**changes))
    assert {code: float(lut[code]) for code in expected} == pytest.approx(expected, abs=1e-6)


def test_a_modality_lut_comes_before_the_window() -> None:
    """Stored 10 to 13 become 0, 10, 20, 40; below and above, the ends. Window: m / 40."""
    table = item(LUTDescriptor=[4, 10, 16], LUTData=[0, 10, 20, 40], ModalityLUTType="US")
    lut = display_lut(
        eight(
            ModalityLUTSequence=[table], WindowCenter=20.5, WindowWidth=41, RescaleSlope=9, RescaleIntercept=9
        )
    )
    assert lut[[0, 10, 11, 12, 13, 255]].tolist() == pytest.approx([0, 0, 0.25, 0.5, 1, 1])


def test_a_voi_lut_goes_before_a_window_and_spans_its_own_range() -> None:
    """Stored 100 to 103 become 200, 300, 300, 600: display (v - 200) / 400."""
    table = item(LUTDescriptor=[4, 100, 16], LUTData=[200, 300, 300, 600])
    lut = display_lut(eight(VOILUTSequence=[table], **WINDOW))
    assert lut[[0, 100, 101, 102, 103, 255]].tolist() == pytest.approx([0, 0, 0.25, 0.25, 1, 1])


def test_an_empty_voi_lut_sequence_is_none() -> None:
    assert display_lut(eight(VOILUTSequence=[], **WINDOW))[33] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"BitsStored": 0}, {"BitsStored": 17}, {"BitsAllocated": 8, "BitsStored": 12},
        {"RescaleSlope": 0}, {"RescaleIntercept": 0, "RescaleSlope": 1e308, "BitsAllocated": 16},
        {"VOILUTSequence": [item(LUTDescriptor=[4, 0, 16])]},
        {"ModalityLUTSequence": [item(LUTDescriptor=[4, 0, 99], LUTData=[0, 1, 2, 3])]},
    ],
)  # fmt: skip
def test_a_chain_without_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(HeaderError):
        display_lut(header(**changes))


@pytest.mark.parametrize("text", ["nan", "inf", "1e999", "two", "1,5"])
def test_a_slope_that_is_no_number_is_refused(text: str) -> None:
    """pydicom writes no such slope: it goes in as text, whose bytes look the same."""
    slope = Tag("RescaleSlope")
    data_set = header()
    data_set.add_new(slope, "LO", text)
    place = struct.pack("<HH", slope.group, slope.element)
    data = written(data_set).replace(place + b"LO", place + b"DS")
    with pytest.raises(HeaderError, match="RescaleSlope is no finite number"):
        display_lut(parsed(data).header)


def parsed(data: bytes) -> DataSet:
    return parse(data, TAGS, Limits())


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 7), (65, 7), (200, 11)])
def test_display_values_are_the_table_at_every_pixel(shape: tuple[int, int]) -> None:
    stored_HW = picture(shape)
    shown_HW = display_values(parsed(image(stored_HW, **WIDE)), Limits())
    assert shown_HW.dtype == np.float32
    assert np.abs(shown_HW - display_lut(header(**WIDE))[stored_HW]).max() < 1e-6


@pytest.mark.parametrize("syntax", [EXPLICIT, BIG_ENDIAN])
def test_bits_above_the_stored_ones_are_ignored(syntax: str) -> None:
    """Overlays and other things once lay there."""
    stored_HW = np.array([[0, 4095, 819]], np.uint16)
    data = image(stored_HW | 0xA000, syntax=syntax)
    assert display_values(parsed(data), Limits()).tolist() == [pytest.approx([0, 1, 0.2], abs=1e-6)]


def test_bits_below_the_stored_ones_are_ignored() -> None:
    """HighBit 15: twelve bits at the upper end of the word."""
    stored_HW = (np.array([[0, 4095, 819]], np.uint16) << 4) | 0x7
    data = image(stored_HW, HighBit=15)
    assert display_values(parsed(data), Limits()).tolist() == [pytest.approx([0, 1, 0.2], abs=1e-6)]


def test_thirty_two_allocated_bits_keep_their_upper_half() -> None:
    stored_HW = np.array([[0, 0xFFFF, 0x3333]], np.uint32) << 16
    data = image(stored_HW, BitsStored=16, HighBit=31)
    assert display_values(parsed(data), Limits()).tolist() == [pytest.approx([0, 1, 0.2], abs=1e-6)]


def test_signed_values_go_below_zero() -> None:
    stored_HW = np.array([[-2048, 0, 2047]], np.int16)
    data = image(stored_HW, PixelRepresentation=1)
    assert display_values(parsed(data), Limits()).tolist() == [pytest.approx([0, 2048 / 4095, 1], abs=1e-6)]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"Rows": 0}, HeaderError),
        ({"Rows": None}, HeaderError),
        ({"BitsAllocated": None}, HeaderError),
        ({"HighBit": 16}, HeaderError),
        ({"Rows": 25}, TruncatedError),
        ({"Rows": 65535, "Columns": 65535}, OverLimitError),
        ({"NumberOfFrames": 1 << 30}, OverLimitError),
        ({"SamplesPerPixel": 3}, HeaderError),
        ({"PhotometricInterpretation": "RGB"}, HeaderError),
        ({"PhotometricInterpretation": "PUCE"}, HeaderError),
        ({"PhotometricInterpretation": None}, HeaderError),
        ({"PhotometricInterpretation": "CMYK"}, NotGrayscaleError),
        ({"BitsAllocated": 12, "BitsStored": 12}, PixelDecodeError),
        ({"BitsStored": 17}, HeaderError),
    ],
)
def test_pixels_that_cannot_be_read_are_refused_by_name(
    changes: dict[str, Any], error: type[InstanceError | FilteredError]
) -> None:
    with pytest.raises(error):
        display_values(parsed(image(picture(), **changes)), Limits())


@pytest.mark.parametrize(
    ("syntax", "error"), [("1.2.840.10008.1.2.4.100", UnsupportedSyntaxError), (JPEG_LS, HeaderError)]
)
def test_a_syntax_that_the_pixels_are_not_of(syntax: str, error: type[InstanceError]) -> None:
    with pytest.raises(error):
        stored_values(parsed(meta(syntax) + data_set_of(image(picture()))), Limits())


def test_no_pixel_data() -> None:
    with pytest.raises(NoPixelDataError):
        stored_values(parsed(written(header(Rows=1, Columns=1))), Limits())


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 2048, "WindowWidth": 4096}])
@pytest.mark.parametrize(
    ("padding", "black"),
    [
        ({"PixelPaddingValue": 0}, [0]),
        ({"PixelPaddingValue": 4095}, [4095]),
        ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 9}, [0, 5, 9]),
        ({"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 4000}, [4000, 4095]),
    ],
)
def test_padding_is_black_whatever_the_polarity(
    photometric: str, window: dict[str, Any], padding: dict[str, Any], black: list[int]
) -> None:
    """And what is no padding keeps what the chain shows of it."""
    stored_HW = np.array([[0, 5, 9, 10, 2000, 3999, 4000, 4095]], np.uint16)
    told = {"PhotometricInterpretation": photometric, **window}
    frame = read_frame(parsed(image(stored_HW, **told, **padding)), Limits())
    is_padding_HW = np.isin(stored_HW, black)
    assert frame.film_HW is not None
    assert np.array_equal(frame.film_HW, ~is_padding_HW)
    assert frame.remarks == ("padding",)
    expected_HW = np.where(is_padding_HW, 0.0, display_lut(header(**told))[stored_HW])
    assert frame.display_HW == pytest.approx(expected_HW, abs=1e-6)


@pytest.mark.parametrize("stated", [-2000, 63536])
def test_a_negative_padding_value_may_be_written_unsigned(stated: int) -> None:
    stored_HW = np.array([[-2000, -1000, 0, 1000]], np.int16)
    data = image(
        stored_HW, PixelRepresentation=1, BitsStored=16, HighBit=15, PhotometricInterpretation="MONOCHROME1",
        WindowCenter=0.5, WindowWidth=2001,
    )  # fmt: skip
    tag = Tag("PixelPaddingValue")
    element = struct.pack(
        "<HH2sHH", tag.group, tag.element, b"SS" if stated < 0 else b"US", 2, stated & 0xFFFF
    )
    at = data.index(struct.pack("<HH2s", 0x0028, 0x1050, b"DS"))
    shown = display_values(parsed(data[:at] + element + data[at:]), Limits())
    assert shown.tolist() == [pytest.approx([0, 1, 0.5, 0], abs=1e-6)]


@pytest.mark.parametrize("padding", [-5, 70_000, {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4095}])
def test_padding_that_no_value_has_or_all_values_have_is_none(padding: Any) -> None:
    changes = padding if isinstance(padding, dict) else {}
    data_set = header(**changes)
    if not changes:
        data_set.add_new(Tag("PixelPaddingValue"), "SL", padding)
    assert np.array_equal(display_lut(data_set), display_lut(header()))


def test_an_empty_item_of_a_lut_sequence_is_none() -> None:
    assert display_lut(eight(VOILUTSequence=[item()], ModalityLUTSequence=[item()], **WINDOW))[33] == (
        pytest.approx(1 / 3)
    )


@pytest.mark.parametrize("is_signed", [False, True])
def test_more_than_sixteen_bits_show_the_range_that_occurs(is_signed: bool) -> None:
    values = np.array([[-70_000, 0, 70_000]] if is_signed else [[0, 70_000, 140_000]], np.int64)
    stored_HW = values.astype(np.int32 if is_signed else np.uint32)
    data = image(stored_HW, BitsStored=32, HighBit=31, PixelRepresentation=int(is_signed))
    assert display_values(parsed(data), Limits()).tolist() == [[0.0, 0.5, 1.0]]


@pytest.mark.parametrize(
    "changes",
    [
        {}, WIDE, {"WindowCenter": 2000, "WindowWidth": 900}, {"PhotometricInterpretation": "MONOCHROME1"},
        {"RescaleSlope": 0.1, "RescaleIntercept": -7},
        {"WindowCenter": 2000, "WindowWidth": 900, "VOILUTFunction": "SIGMOID"},
        {"VOILUTSequence": [item(LUTDescriptor=[4096, 0, 12], LUTData=CURVE)]},
    ],
)  # fmt: skip
def test_line_and_table_show_the_same(changes: dict[str, Any]) -> None:
    """A frame is handed on as a line where its table is one; both give the display value of each pixel."""
    stored_HW = picture((70, 60))
    data_set = parsed(image(stored_HW, **changes))
    shown_HW = shaded(read_frame(data_set, Limits()))
    assert np.abs(shown_HW - display_lut(data_set.header)[stored_HW]).max() < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {}, WINDOW, {"PhotometricInterpretation": "MONOCHROME1"},
        {"VOILUTSequence": [item(LUTDescriptor=[4096, 0, 12], LUTData=CURVE)]},
    ],
)  # fmt: skip
def test_a_window_of_modality_values_goes_before_all_that_the_file_says(changes: dict[str, Any]) -> None:
    """Hounsfield units -1024 + 2 x stored: -200 is shown black, 200 grey, 600 white."""
    stored_HW = np.array([[0, 412, 512, 612, 812, 4095]], np.uint16)
    data = image(stored_HW, RescaleSlope=2, RescaleIntercept=-1024, **changes)
    shown_HW = shaded(read_frame(parsed(data), Limits(), window=(-200.0, 600.0)))
    assert np.allclose(shown_HW, [[0, 0, 0.25, 0.5, 1, 1]], atol=1e-6)


@pytest.mark.skipif(not SPINE.is_dir(), reason="the shared CT series is not here")
def test_a_real_ct_slice_is_windowed_in_hounsfield_units() -> None:
    """Air outside the patient is black, and bone is white, as pydicom's own rescale says."""
    path = sorted(SPINE.glob("*.dcm"))[20]
    plain = pydicom.dcmread(path)
    units_HW = plain.pixel_array.astype(np.float64) * plain.RescaleSlope + plain.RescaleIntercept
    shown_HW = shaded(read_frame(parsed(path.read_bytes()), Limits(), window=(-100.0, 400.0)))
    padding = plain.get("PixelPaddingValue")
    is_shown = plain.pixel_array != padding if padding is not None else np.ones(units_HW.shape, bool)
    assert np.abs(shown_HW - np.clip((units_HW + 100) / 500, 0, 1))[is_shown].max() < 1e-5
    assert 0 < (shown_HW == 1).mean() < 0.2


def test_float_pixels_are_refused_by_name() -> None:
    data_set = header(Rows=1, Columns=1, BitsAllocated=32, BitsStored=None, HighBit=None)
    data_set.add_new(0x7FE00008, "OF", struct.pack("<f", 0.5))
    with pytest.raises(PixelDecodeError, match="floating-point"):
        display_values(parsed(written(data_set)), Limits())
