"""Frames at a part of their resolution: never below what was asked, close to full decode + area resize."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.encaps import generate_frames

from engine.dicom.decoders import DECODERS, decode_frame
from engine.dicom.frame import FrameFacts
from engine.dicom.write import Facts, write_instance
from engine.errors import PixelDecodeError, TruncatedError
from tests.fixtures.dicom_fixture import EXPLICIT, JPEG, JPEG_2000, JPEG_LS, LOSSLESS, RLE, picture, rle_frame

Array = NDArray[Any]
HTJ2K = "1.2.840.10008.1.2.4.201"
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
HANDS = sorted((DATA / "hand_rsna_full" / "images").glob("*.png"))
HIPS = sorted((DATA / "hip_ddh").glob("*.dcm"))


def jpeg_2000(stored: Array, bits: int, **options: Any) -> bytes:
    settings = {"codecformat": "J2K", "reversible": True, "level": 0, "bitspersample": bits}
    return bytes(imagecodecs.jpeg2k_encode(stored, **settings | options))


@dataclass(frozen=True, slots=True)
class Stream:
    """A code stream and what its header says."""

    syntax: str
    data: bytes
    facts: FrameFacts

    def decoded(self, least_HW: tuple[int, int] | None = None) -> Array:
        return decode_frame(self.syntax, memoryview(self.data), self.facts, least_HW=least_HW)


def stream(syntax: str, stored: Array, bits: int = 8, **options: Any) -> Stream:
    encoders = {
        JPEG_2000: lambda: jpeg_2000(stored, bits, **options),
        HTJ2K: lambda: bytes(imagecodecs.htj2k_encode(stored, reversible=True)),
        JPEG: lambda: bytes(imagecodecs.jpeg8_encode(stored, level=95)),
        JPEG_LS: lambda: bytes(imagecodecs.jpegls_encode(stored)),
        LOSSLESS: lambda: bytes(imagecodecs.ljpeg_encode(stored, bitspersample=bits)),
        RLE: lambda: rle_frame(stored),
        EXPLICIT: stored.tobytes,
    }
    samples = 1 if stored.ndim == 2 else stored.shape[2]
    facts = FrameFacts(*stored.shape[:2], stored.dtype.itemsize * 8, True, samples)
    return Stream(syntax, encoders[syntax](), facts)


@pytest.mark.parametrize("syntax", [JPEG_2000, HTJ2K, JPEG])
@pytest.mark.parametrize(
    ("shape", "least_HW", "expected"),
    [
        ((203, 121), (100, 50), (102, 61)), ((203, 121), (51, 31), (51, 31)),
        ((203, 121), (51, 32), (102, 61)), ((203, 121), (52, 31), (102, 61)),
        ((203, 121), (102, 61), (102, 61)), ((203, 121), (103, 1), (203, 121)),
        ((203, 121), (300, 300), (203, 121)), ((203, 121), (203, 121), (203, 121)),
        ((101, 99), (26, 25), (26, 25)), ((98, 65), (25, 17), (25, 17)), ((64, 64), (32, 32), (32, 32)),
    ],
)  # fmt: skip
def test_the_smallest_resolution_that_is_large_enough(
    syntax: str, shape: tuple[int, int], least_HW: tuple[int, int], expected: tuple[int, int]
) -> None:
    """Sizes that halve to odd ones too: Pillow's own `reduce` refuses 101 x 99 at a quarter."""
    assert stream(syntax, picture(shape, 8)).decoded(least_HW).shape == expected


def test_jpeg_2000_is_halved_twice_at_most_and_jpeg_three_times() -> None:
    shapes = {kind: stream(kind, picture((98, 65), 8)).decoded((4, 4)).shape for kind in (JPEG_2000, JPEG)}
    assert shapes == {JPEG_2000: (25, 17), JPEG: (13, 9)}


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_no_more_halvings_than_the_stream_has_levels(levels: int) -> None:
    made = stream(JPEG_2000, picture((256, 256), 12), 12, resolutions=levels + 1)
    assert made.decoded((1, 1)).shape == (256 >> levels, 256 >> levels)


@pytest.mark.parametrize("syntax", [EXPLICIT, RLE, LOSSLESS, JPEG_LS])
def test_other_syntaxes_come_in_full(syntax: str) -> None:
    stored_HW = picture((64, 48), 8)
    assert np.array_equal(stream(syntax, stored_HW).decoded((8, 8)), stored_HW)


@pytest.mark.parametrize(
    ("kind", "bits", "value"),
    [
        ("u1", 8, 200), ("u1", 6, 33), ("i1", 8, -77), ("u2", 10, 700), ("u2", 12, 4095), ("i2", 12, -2048),
        ("u2", 16, 65535), ("i2", 16, -32768), ("i2", 16, 1234),
    ],
)  # fmt: skip
def test_bits_and_signs_are_those_of_the_full_frame(kind: str, bits: int, value: int) -> None:
    made = stream(JPEG_2000, np.full((90, 70), value, kind), bits)
    full, small = made.decoded(), made.decoded((20, 18))
    assert small.shape == (23, 18)
    assert small.dtype == full.dtype
    assert set(small.flat) == set(full.flat) == {value}


@pytest.mark.parametrize("syntax", [JPEG_2000, JPEG])
def test_colour_is_reduced_too(syntax: str) -> None:
    channels = [picture((96, 80), 8), picture((96, 80), 7), np.full((96, 80), 9, np.uint8)]
    made = stream(syntax, np.stack(channels, axis=-1))
    small = made.decoded((24, 20))
    assert small.shape == (24, 20, 3)
    assert np.abs(small.mean((0, 1)) - made.decoded().mean((0, 1))).max() < 3


def centred(values: Array, reduction: int) -> Array:
    """JPEG 2000 keeps values at every second pixel, not between two: half of a reduced pixel aside."""
    shift = (reduction - 1) / (2 * reduction)
    move = np.array([[1, 0, shift], [0, 1, shift]])
    size = values.shape[1::-1]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(values, move, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def distance(made: Stream, bits: int, side: int) -> tuple[float, float]:
    """(Mean, greatest) difference to full decode + area resize, as parts of the full range."""

    def resized(values: Array) -> Array:
        shape = (side, side)
        return cv2.resize(values, shape, interpolation=cv2.INTER_AREA) / ((1 << bits) - 1)

    full, small = (made.decoded(least).astype(np.float32) for least in (None, (side, side)))
    reduction = round(full.shape[0] / small.shape[0])
    assert reduction > 1
    if made.syntax != JPEG:
        small = centred(small, reduction)
    difference = np.abs(resized(full) - resized(small))
    return float(difference.mean()), float(difference.max())


def of_file(path: Path) -> Stream:
    data_set = pydicom.dcmread(path)
    frame = next(generate_frames(data_set.PixelData, number_of_frames=1))
    facts = FrameFacts(
        data_set.Rows, data_set.Columns, data_set.BitsAllocated, True, data_set.SamplesPerPixel
    )
    return Stream(str(data_set.file_meta.TransferSyntaxUID), frame, facts)


@pytest.mark.skipif(not HANDS, reason="the folder shared/data/hand_rsna_full is not beside the checkout")
def test_real_hands_written_as_jpeg_2000_are_close(tmp_path: Path) -> None:
    facts = Facts(
        sop_instance_uid="1.2.3", study_instance_uid="1.2", series_instance_uid="1.2.1", patient_id="p"
    )
    for path in HANDS[:1]:
        hand_HW = np.asarray(Image.open(path).convert("L")).astype(np.uint16) << 4
        write_instance(tmp_path / path.stem, hand_HW, facts, syntax="jpeg-2000")
        mean, greatest = distance(of_file(tmp_path / path.stem), 12, 512)
        assert mean < 0.006
        assert greatest < 0.12


@pytest.mark.skipif(not HANDS, reason="the folder shared/data/hand_rsna_full is not beside the checkout")
@pytest.mark.parametrize(("syntax", "most"), [(HTJ2K, 0.12), (JPEG, 0.06)])
def test_real_hands_in_other_syntaxes_are_close(syntax: str, most: float) -> None:
    hand_HW = np.asarray(Image.open(HANDS[0]).convert("L"))
    mean, greatest = distance(stream(syntax, hand_HW), 8, 512)
    assert mean < 0.006
    assert greatest < most


@pytest.mark.skipif(not HIPS, reason="the folder shared/data/hip_ddh is not beside the checkout")
def test_a_real_hip_is_close() -> None:
    made = of_file(HIPS[0])
    full = made.decoded()
    small = made.decoded((full.shape[0] // 4, full.shape[1] // 4))
    assert small.shape[0] == -(-full.shape[0] // 4)
    assert small.shape[2:] == full.shape[2:]
    assert abs(small.mean() - full.mean()) < 2


@cache
def small_streams() -> dict[str, Stream]:
    stored_HW = picture((48, 40), 8)
    return {syntax: stream(syntax, stored_HW) for syntax in (JPEG_2000, HTJ2K, JPEG)}


@pytest.mark.parametrize("syntax", [JPEG_2000, HTJ2K, JPEG])
def test_a_cut_stream_is_refused_at_part_resolution_too(syntax: str) -> None:
    made = small_streams()[syntax]
    whole = made.decoded((10, 10))
    assert whole.shape == (12, 10)
    for end in range(len(made.data)):
        cut = Stream(syntax, made.data[:end], made.facts)
        try:
            part = cut.decoded((10, 10))
        except (PixelDecodeError, TruncatedError):
            continue
        assert np.array_equal(part, whole)  # only the end marker was lost


@pytest.mark.parametrize("syntax", [JPEG_2000, HTJ2K, JPEG])
def test_a_scrambled_stream_is_refused_or_keeps_a_shape(syntax: str) -> None:
    made, rng = small_streams()[syntax], np.random.default_rng(1)
    for _ in range(300):
        scrambled = bytearray(made.data)
        for place in rng.integers(0, len(scrambled), 3):
            scrambled[place] = rng.integers(0, 256)
        with contextlib.suppress(PixelDecodeError, TruncatedError):
            shape = Stream(syntax, bytes(scrambled), made.facts).decoded((10, 10)).shape
            assert shape in {(48, 40), (24, 20), (12, 10)}


def test_a_stream_of_another_size_is_refused_before_it_is_decoded() -> None:
    made = small_streams()[JPEG_2000]
    data = bytearray(made.data)
    struct.pack_into(">II", data, 8, 60_000, 60_000)
    struct.pack_into(">II", data, 24, 60_000, 60_000)
    with pytest.raises(PixelDecodeError, match="60000 x 60000 x 1"):
        Stream(JPEG_2000, bytes(data), made.facts).decoded((10, 10))


def test_the_full_path_decides_where_the_reduced_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Array:
        raise OSError

    monkeypatch.setattr("engine.dicom.reduced.jpeg_2000", broken)
    made = small_streams()[JPEG_2000]
    assert made.decoded((10, 10)).shape == (48, 40)
    assert DECODERS[JPEG_2000].available()


def test_a_jpeg_of_12_bits_comes_in_full() -> None:
    data = bytes(imagecodecs.jpeg8_encode(picture((48, 40), 12), bitspersample=12))
    assert Stream(JPEG, data, FrameFacts(48, 40, 16, True)).decoded((10, 10)).shape == (48, 40)


def test_a_progressive_jpeg_is_reduced() -> None:
    file = BytesIO()
    Image.fromarray(picture((48, 40), 8)).save(file, "JPEG", progressive=True)
    assert Stream(JPEG, file.getvalue(), FrameFacts(48, 40, 8, True)).decoded((12, 10)).shape == (12, 10)
