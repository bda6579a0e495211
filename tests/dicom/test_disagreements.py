"""Two statements about one fact: of bits, code stream and length, and of an element that stands twice."""

from __future__ import annotations

import struct
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.encaps import encapsulate

from engine.dicom.frame import Frame
from engine.dicom.header import TAGS
from engine.dicom.parse import Limits, parse
from engine.dicom.pixels import read_frame
from engine.dicom.remarks import REMARKS
from engine.errors import HeaderError, InstanceError, PixelDecodeError
from tests.fixtures.dicom_fixture import (
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    JPEG,
    JPEG_2000,
    LOSSLESS,
    data_set_of,
    deflated,
    header,
    image,
    meta,
    picture,
    rle_frame,
    written,
)

Array = NDArray[Any]
SHAPE = (90, 70)
RLE = "1.2.840.10008.1.2.5"


def read(data: bytes) -> Frame:
    frame = read_frame(parse(data, TAGS, Limits()), Limits())
    assert set(frame.remarks) <= set(REMARKS)
    return frame


def film(bits: int = 12) -> Array:
    return picture(SHAPE, bits).astype(np.uint16)


def graphics(shape: tuple[int, int] = SHAPE) -> Array:
    """What an overlay holds: lines and a filled box."""
    drawn_HW = np.zeros(shape, bool)
    drawn_HW[5:40:7, 3:60] = True
    drawn_HW[50:60, 10:30] = True
    return drawn_HW


def with_overlay_bit(data: bytes, bit: int) -> bytes:
    """The file with OverlayBitPosition of group 6000, before its pixel data."""
    at = data.index(struct.pack("<HH", 0x7FE0, 0x0010))
    return data[:at] + struct.pack("<HH2sHH", 0x6000, 0x0102, b"US", 2, bit) + data[at:]


def lossless(stored_HW: Array, bits: int, **changes: Any) -> bytes:
    """JPEG 2000 of ``bits`` bits in a header of 12."""
    frame = bytes(
        imagecodecs.jpeg2k_encode(stored_HW, codecformat="J2K", level=0, reversible=True, bitspersample=bits)
    )
    return image(stored_HW, frame=frame, syntax=JPEG_2000, **changes)


JPEG_LS_NEAR, JPEG_2000_LOSSY = "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91"


@pytest.mark.parametrize("syntax", [JPEG_LS_NEAR, JPEG_2000_LOSSY])
@pytest.mark.parametrize("is_signed", [False, True])
def test_a_lossy_coding_that_goes_beyond_the_range_is_cut_there(syntax: str, is_signed: bool) -> None:
    """Its stream has 16 bits, the header says 12."""
    stored_HW = film()
    stored_HW[20:40, 20:40], stored_HW[40:60, 20:40] = 4095, 0
    said: dict[str, Any] = {"PixelRepresentation": int(is_signed)}
    signed_HW = stored_HW.astype(np.int16) - 2048 if is_signed else stored_HW
    if syntax == JPEG_LS_NEAR:
        if is_signed:
            pytest.skip("JPEG-LS holds no signs")
        beyond_HW = stored_HW + 2 * (stored_HW == 4095)
        frame = bytes(imagecodecs.jpegls_encode(beyond_HW.astype(np.uint16), level=2))
    else:
        beyond_HW = signed_HW + 9 * (stored_HW == 4095) - (9 * (stored_HW == 0) if is_signed else 0)
        frame = bytes(
            imagecodecs.jpeg2k_encode(
                beyond_HW.astype(signed_HW.dtype),
                codecformat="J2K",
                level=0,
                reversible=True,
                bitspersample=16,
            )
        )
    seen_HW = read(image(stored_HW, frame=frame, syntax=syntax, **said)).display_HW
    assert np.abs(seen_HW - stored_HW / 4095).max() <= 3 / 4095


@pytest.mark.parametrize("bit", [12, 13, 15])
@pytest.mark.parametrize("is_declared", [False, True])
@pytest.mark.parametrize("is_stream", [False, True])
def test_an_overlay_in_high_bits_leaves_the_film_as_it_is(
    bit: int, is_declared: bool, is_stream: bool
) -> None:
    stored_HW = film()
    covered_HW = stored_HW | (graphics().astype(np.uint16) << bit)
    data = lossless(covered_HW, 16) if is_stream else image(covered_HW)
    frame = read(with_overlay_bit(data, bit) if is_declared else data)
    assert np.array_equal(frame.display_HW, read(image(stored_HW)).display_HW)
    assert frame.remarks == (() if is_declared else ("high_bits",))


def test_an_overlay_in_low_bits_leaves_the_film_as_it_is() -> None:
    """Twelve bits from bit 4 up; an overlay in bit 0."""
    stored_HW = film()
    covered_HW = (stored_HW << 4) | graphics().astype(np.uint16)
    frame = read(with_overlay_bit(image(covered_HW, HighBit=15), 0))
    assert np.array_equal(frame.display_HW, read(image(stored_HW)).display_HW)


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_high_bit_above_the_film_is_not_believed(is_stream: bool) -> None:
    """HighBit 15 of a film in bits 0 to 11: its lowest four bits would be lost."""
    stored_HW = film()
    frame = read(lossless(stored_HW, 12, HighBit=15) if is_stream else image(stored_HW, HighBit=15))
    assert frame.remarks == ("high_bit",)
    assert np.array_equal(frame.display_HW, read(image(stored_HW)).display_HW)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("bits", [13, 14, 16])
def test_values_above_bits_stored_are_taken_as_they_lie(bits: int, is_stream: bool) -> None:
    """A film of more bits than its header says: wrapped around it would be stripes."""
    stored_HW = film(12) << (bits - 12)
    stored_HW = cv2.blur(stored_HW, (5, 5))
    frame = read(lossless(stored_HW, 16) if is_stream else image(stored_HW))
    assert "bits_above_stored" in frame.remarks
    assert np.array_equal(
        frame.display_HW, read(image(stored_HW, BitsStored=bits, HighBit=bits - 1)).display_HW
    )


def test_a_few_values_above_bits_stored_are_white_and_not_black() -> None:
    stored_HW = film()
    stored_HW[40:44, 30:34] = 4100
    stored_HW[38:46, 28:36] = np.maximum(stored_HW[38:46, 28:36], 4000)
    frame = read(image(stored_HW))
    assert frame.remarks == ("bits_above_stored",)
    assert frame.display_HW[40:44, 30:34].min() == frame.display_HW.max()


def test_bits_without_any_sense_are_refused() -> None:
    """Noise as wide as the twelve bits: with and without those above them it is as rough."""
    with pytest.raises(HeaderError, match="beyond BitsStored"):
        read(image(film(16)))


def test_a_sign_may_go_on_into_the_unused_bits_or_not() -> None:
    values_HW = film().astype(np.int16) - 2048
    extended = read(image(values_HW, PixelRepresentation=1))
    cut = read(image(values_HW.view(np.uint16) & 0x0FFF, PixelRepresentation=1))
    assert np.array_equal(extended.display_HW, cut.display_HW)
    assert extended.remarks == cut.remarks == ()


@pytest.mark.parametrize("syntax", [JPEG_2000, "1.2.840.10008.1.2.4.91"])
@pytest.mark.parametrize(
    ("kind", "is_signed", "remarks"),
    [
        (np.uint8, 0, ("stream_precision",)),
        (np.int8, 1, ("stream_precision",)),
        (np.int8, 0, ("stream_precision", "stream_sign")),
        (np.uint8, 1, ("stream_precision",)),  # the header's sign makes the smooth picture
    ],
)
def test_a_code_stream_with_fewer_bits_or_another_sign_is_believed(
    kind: type[np.generic], is_signed: int, remarks: tuple[str, ...], syntax: str
) -> None:
    """Twelve bits in the header, eight in the stream; values of the two signs lie around zero."""
    ramp_HW = np.arange(-32, 32, dtype=np.int8).reshape(8, 8)
    coded_HW = ramp_HW.astype(kind) if is_signed or kind is np.int8 else (ramp_HW + 32).astype(kind)
    frame = bytes(imagecodecs.jpeg2k_encode(coded_HW, codecformat="J2K", level=0))
    data = image(np.zeros((8, 8), np.uint16), frame=frame, syntax=syntax, PixelRepresentation=is_signed)
    found = read(data)
    lowest = 0 if (kind, is_signed) == (np.uint8, 0) else 96  # of 256
    assert found.display_HW == pytest.approx((ramp_HW.astype(float) + 32 + lowest) / 255, abs=1e-6)
    assert found.remarks == remarks


def test_a_stream_of_unsigned_values_is_not_folded_by_a_header_that_says_signed() -> None:
    stored_HW = film()
    frame = read(lossless(stored_HW, 12, PixelRepresentation=1))
    assert frame.remarks == ("stream_sign",)
    assert np.array_equal(frame.display_HW, read(image(stored_HW)).display_HW)


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (JPEG, lambda values: imagecodecs.jpeg8_encode(values, level=100)),
        (LOSSLESS, lambda values: imagecodecs.ljpeg_encode(values, bitspersample=8)),
    ],
)
def test_a_jpeg_of_eight_bits_in_a_header_of_twelve(syntax: str, encode: Any) -> None:
    stored_HW = picture(SHAPE, 8)
    found = read(image(np.zeros(SHAPE, np.uint16), frame=bytes(encode(stored_HW)), syntax=syntax))
    assert found.remarks == ("stream_precision",)
    assert np.abs(found.display_HW - stored_HW / 255).max() < (0.03 if syntax == JPEG else 1e-6)


def lengthened(more: bytes, syntax: str, **changes: Any) -> bytes:
    data_set = header(Rows=SHAPE[0], Columns=SHAPE[1], **changes)
    data_set.add_new(0x7FE00010, "OW", film().tobytes() + more)
    if syntax == DEFLATED:
        return deflated(data_set_of(written(data_set)))
    return written(data_set, syntax)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, DEFLATED])
@pytest.mark.parametrize(
    ("more", "is_refused"),
    [
        (b"", False), (b"\0\0", False), (b"\1\2\3\4\5\6\7\10", False), (bytes(12_600), False),
        (b"\xff" * 512, False), (film().tobytes(), True), (film().tobytes()[:140], True),
    ],
    ids=["none", "even", "rest", "zeros", "ones", "twice", "row"],
)  # fmt: skip
def test_pixel_data_that_go_on_after_the_image(more: bytes, is_refused: bool, syntax: str) -> None:
    """A pad, whole blocks of one value, or values that the header does not know of: then it is wrong."""
    data = lengthened(more, syntax)
    if is_refused:
        with pytest.raises(PixelDecodeError, match="by the header 12600"):
            read(data)
    else:
        assert np.array_equal(read(data).display_HW, read(image(film())).display_HW)


@pytest.mark.parametrize(
    "changes",
    [
        {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, {"Rows": SHAPE[0] // 2},
        {"Columns": SHAPE[1] // 2}, {"Rows": SHAPE[0] - 1},
    ],
)  # fmt: skip
def test_a_header_that_is_too_small_for_its_pixel_data(changes: dict[str, Any]) -> None:
    with pytest.raises(PixelDecodeError, match="NumberOfFrames is wrong"):
        read(image(film(), **changes))


@pytest.mark.parametrize("syntax", [JPEG_2000, RLE, "1.2.840.10008.1.2.1.98"])
def test_two_frames_where_the_header_says_one(syntax: str) -> None:
    stored_HW = film()
    frame = {
        JPEG_2000: lambda: bytes(imagecodecs.jpeg2k_encode(stored_HW, codecformat="J2K", bitspersample=12)),
        RLE: lambda: rle_frame(np.vstack((stored_HW, stored_HW))),
        "1.2.840.10008.1.2.1.98": lambda: stored_HW.tobytes() * 2,
    }[syntax]()
    data_set = header(Rows=SHAPE[0], Columns=SHAPE[1])
    data_set.add_new(0x7FE00010, "OB", encapsulate([frame, frame] if syntax == JPEG_2000 else [frame]))
    data_set["PixelData"].is_undefined_length = True
    with pytest.raises(InstanceError):
        read(written(data_set, syntax))


@pytest.mark.parametrize(
    ("first", "second", "is_refused"),
    [(b"12", b"12", False), (b"12", b"14", True), (b"12", b"", True)],
)
def test_an_element_that_stands_twice(first: bytes, second: bytes, is_refused: bool) -> None:
    """WindowCenter, twice: the same statement harms nobody, another one leaves nobody knowing."""

    def element(value: bytes) -> bytes:
        return struct.pack("<HH2sH", 0x0028, 0x1050, b"DS", len(value)) + value

    plain = data_set_of(image(film()))
    at = plain.index(struct.pack("<HH", 0x7FE0, 0x0010))
    data = meta(EXPLICIT) + plain[:at] + element(first) + element(second) + plain[at:]
    if is_refused:
        with pytest.raises(HeaderError, match=r"\(0028,1050\) stands twice"):
            read(data)
    else:
        assert read(data).remarks == ()


@pytest.mark.parametrize("is_refused", [False, True])
def test_an_element_that_stands_twice_in_an_item(is_refused: bool) -> None:
    """The descriptor of a modality LUT, in an item of undefined length."""

    def element(tag: int, vr: bytes, value: bytes) -> bytes:
        return struct.pack("<HH2sH", 0x0028, tag, vr, len(value)) + value

    described = [struct.pack("<3H", 4, first, 16) for first in (0, 9 if is_refused else 0)]
    inner = b"".join(element(0x3002, b"US", value) for value in described)
    inner += struct.pack("<HH2sHI", 0x0028, 0x3006, b"OW", 0, 8) + struct.pack("<4H", 0, 1, 2, 3)
    marks = [struct.pack("<HHI", 0xFFFE, element, length) for element, length in (
        (0xE000, 0xFFFFFFFF), (0xE00D, 0), (0xE0DD, 0),
    )]  # fmt: skip
    sequence = struct.pack("<HH2sHI", 0x0028, 0x3000, b"SQ", 0, 0xFFFFFFFF)
    sequence += marks[0] + inner + marks[1] + marks[2]
    plain = data_set_of(image(film()))
    at = plain.index(struct.pack("<HH", 0x7FE0, 0x0010))
    data = meta(EXPLICIT) + plain[:at] + sequence + plain[at:]
    if is_refused:
        with pytest.raises(HeaderError, match=r"\(0028,3002\) stands twice"):
            read(data)
    else:
        assert read(data).display_HW.max() == 1
