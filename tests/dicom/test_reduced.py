"""Frames at a part of their resolution: far above what was asked, so that the network sees the same film."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.encaps import generate_frames

from engine.dicom.decoders import DECODERS, decode_frame
from engine.dicom.frame import FrameFacts
from engine.dicom.header import TAGS
from engine.dicom.parse import Limits, parse
from engine.dicom.pixels import read_frame
from engine.errors import PixelDecodeError, TruncatedError
from engine.imaging.borders import without_border
from engine.imaging.preprocess import View, apply_to_frame, fitted_HW
from tests.fixtures.dicom_fixture import (
    EXPLICIT,
    JPEG,
    JPEG_2000,
    JPEG_LS,
    LOSSLESS,
    RLE,
    image,
    item,
    picture,
    rle_frame,
)

Array = NDArray[Any]
HTJ2K, JPEG_2000_LOSSY = "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.91"
CURVE = (np.arange(4096) ** 2 >> 8).astype("<u2").tobytes()
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FILMS = [
    *sorted((DATA / "hand_rsna_full" / "images").glob("*.png")),
    *sorted((DATA / "ceph_isbi2015" / "fullres").glob("*.jpg")),
    *sorted((DATA / "hand_dha_landmarks" / "images").glob("*.png"))[:2],
]
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


@pytest.mark.parametrize("syntax", [JPEG_2000, HTJ2K])
@pytest.mark.parametrize(
    ("shape", "least_HW", "expected"),
    [
        ((203, 121), (12, 7), (102, 61)), ((203, 121), (13, 7), (203, 121)),
        ((203, 121), (12, 8), (203, 121)),
        ((203, 121), (1, 1), (102, 61)), ((203, 121), (300, 300), (203, 121)),
        ((101, 99), (6, 6), (51, 50)), ((101, 99), (7, 6), (101, 99)), ((64, 64), (4, 4), (32, 32)),
    ],
)  # fmt: skip
def test_half_the_resolution_where_it_is_eight_times_what_is_needed(
    syntax: str, shape: tuple[int, int], least_HW: tuple[int, int], expected: tuple[int, int]
) -> None:
    """Sizes that halve to odd ones too: Pillow's own `reduce` refuses 101 x 99."""
    assert stream(syntax, picture(shape, 8)).decoded(least_HW).shape == expected


@pytest.mark.parametrize(("levels", "side"), [(0, 256), (1, 128), (2, 128)])
def test_no_more_halvings_than_one_and_than_the_stream_has_levels(levels: int, side: int) -> None:
    made = stream(JPEG_2000, picture((256, 256), 12), 12, resolutions=levels + 1)
    assert made.decoded((1, 1)).shape == (side, side)


@pytest.mark.parametrize("syntax", [EXPLICIT, RLE, LOSSLESS, JPEG_LS, JPEG])
def test_other_syntaxes_come_in_full(syntax: str) -> None:
    stored_HW = picture((64, 48), 8)
    made = stream(syntax, stored_HW)
    assert np.array_equal(made.decoded((2, 2)), made.decoded())


@pytest.mark.parametrize(
    ("kind", "bits", "value"),
    [
        ("u1", 8, 200), ("u1", 6, 33), ("i1", 8, -77), ("u2", 10, 700), ("u2", 12, 4095), ("i2", 12, -2048),
        ("u2", 16, 65535), ("i2", 16, -32768), ("i2", 16, 1234),
    ],
)  # fmt: skip
def test_bits_and_signs_are_those_of_the_full_frame(kind: str, bits: int, value: int) -> None:
    made = stream(JPEG_2000, np.full((90, 70), value, kind), bits)
    full, small = made.decoded(), made.decoded((4, 4))
    assert small.shape == (45, 35)
    assert small.dtype == full.dtype
    assert set(small.flat) == set(full.flat) == {value}


def test_colour_is_reduced_too() -> None:
    channels = [picture((96, 80), 8), picture((96, 80), 7), np.full((96, 80), 9, np.uint8)]
    made = stream(JPEG_2000, np.stack(channels, axis=-1))
    small = made.decoded((6, 5))
    assert small.shape == (48, 40, 3)
    assert np.abs(small.mean((0, 1)) - made.decoded().mean((0, 1))).max() < 3


def of_file(path: Path) -> Stream:
    data_set = pydicom.dcmread(path)
    frame = next(generate_frames(data_set.PixelData, number_of_frames=1))
    facts = FrameFacts(
        data_set.Rows, data_set.Columns, data_set.BitsAllocated, True, data_set.SamplesPerPixel
    )
    return Stream(str(data_set.file_meta.TransferSyntaxUID), frame, facts)


def encoded(grey_HW: Array, syntax: str) -> bytes:
    """The film with 12 bits and noise below those of its source, which a smooth picture would not have."""
    grain_HW = np.random.default_rng(0).normal(0.0, 4.0, grey_HW.shape)
    stored_HW = np.clip(grey_HW * 16.0 + 8 + grain_HW, 0, 4095).astype(np.uint16)
    if syntax == HTJ2K:  # its encoder knows whole words only
        words_HW = stored_HW << 4
        frame = bytes(imagecodecs.htj2k_encode(words_HW, reversible=True))
        return image(words_HW, frame=frame, syntax=syntax, BitsStored=16, HighBit=15)
    frames = {
        JPEG_2000: lambda: jpeg_2000(stored_HW, 12),
        JPEG_2000_LOSSY: lambda: jpeg_2000(stored_HW, 12, reversible=False, level=45),
    }
    return image(stored_HW, frame=frames[syntax](), syntax=syntax)


@pytest.mark.skipif(not FILMS, reason="the folder shared/data is not beside the checkout")
@pytest.mark.parametrize(
    ("syntax", "films"), [(JPEG_2000, FILMS), (JPEG_2000_LOSSY, FILMS[::4]), (HTJ2K, FILMS[::4])]
)
def test_the_networks_input_of_real_films_is_that_of_a_full_decode(syntax: str, films: list[Path]) -> None:
    """At most 1 grey on average and 3 at the 99.9th percentile, at the view of the tasks."""
    view, reductions = View(size_HW=(112, 112)), set()
    for path in films:
        grey_HW = np.asarray(Image.open(path).convert("L"))
        data_set = parse(encoded(grey_HW, syntax), TAGS, Limits())
        least_HW = fitted_HW(view, grey_HW.shape)
        frames = [
            without_border(read_frame(data_set, Limits(), least_HW=least)) for least in (None, least_HW)
        ]
        full_HW, seen_HW = (apply_to_frame(without_border(frame), view)[0].astype(int) for frame in frames)
        away_HW = np.abs(full_HW - seen_HW)
        assert away_HW.mean() <= 1, path.name
        assert np.percentile(away_HW, 99.9) <= 3, path.name
        reductions.add(frames[1].reduction)
    assert reductions == {2}


@pytest.mark.parametrize(
    "changes",
    [
        {"PixelPaddingValue": 0}, {"WindowCenter": 2000, "WindowWidth": 3000},
        {"VOILUTFunction": "SIGMOID", "WindowCenter": 2048, "WindowWidth": 2000},
        {"ModalityLUTSequence": [item(LUTDescriptor=[4096, 0, 16], LUTData=CURVE)]},
        {"VOILUTSequence": [item(LUTDescriptor=[4096, 0, 16], LUTData=CURVE)]},
        {"BitsStored": 10, "HighBit": 9}, {"BitsStored": 14, "HighBit": 13}, {"HighBit": 15},
        {"PixelRepresentation": 1},
    ],
)  # fmt: skip
def test_what_has_no_means_is_decoded_in_full(changes: dict[str, Any]) -> None:
    """Padding, tables that bend, and bits of which code stream and header say other things."""
    stored_HW = picture((160, 160), 12) // 4 * 4
    frame = jpeg_2000(stored_HW, 12)
    plain, changed = (
        parse(image(stored_HW, frame=frame, syntax=JPEG_2000, **told), TAGS, Limits())
        for told in ({}, changes)
    )
    assert read_frame(plain, Limits(), least_HW=(10, 10)).reduction == 2
    assert read_frame(changed, Limits(), least_HW=(10, 10)).reduction == 1


@pytest.mark.skipif(not HIPS, reason="the folder shared/data/hip_ddh is not beside the checkout")
def test_a_real_hip_is_close() -> None:
    made = of_file(HIPS[0])
    full = made.decoded()
    small = made.decoded((full.shape[0] // 16, full.shape[1] // 16))
    assert small.shape[0] == -(-full.shape[0] // 2)
    assert small.shape[2:] == full.shape[2:]
    assert abs(small.mean() - full.mean()) < 2


@cache
def small_streams() -> dict[str, Stream]:
    stored_HW = picture((48, 40), 8)
    return {syntax: stream(syntax, stored_HW) for syntax in (JPEG_2000, HTJ2K)}


@pytest.mark.parametrize("syntax", [JPEG_2000, HTJ2K])
def test_a_cut_stream_is_refused_at_part_resolution_too(syntax: str) -> None:
    made = small_streams()[syntax]
    whole = made.decoded((2, 2))
    assert whole.shape == (24, 20)
    for end in range(len(made.data)):
        cut = Stream(syntax, made.data[:end], made.facts)
        try:
            part = cut.decoded((2, 2))
        except (PixelDecodeError, TruncatedError):
            continue
        assert np.array_equal(part, whole)  # only the end marker was lost


@pytest.mark.parametrize("syntax", [JPEG_2000, HTJ2K])
def test_a_scrambled_stream_is_refused_or_keeps_a_shape(syntax: str) -> None:
    made, rng = small_streams()[syntax], np.random.default_rng(1)
    for _ in range(300):
        scrambled = bytearray(made.data)
        for place in rng.integers(0, len(scrambled), 3):
            scrambled[place] = rng.integers(0, 256)
        with contextlib.suppress(PixelDecodeError, TruncatedError):
            shape = Stream(syntax, bytes(scrambled), made.facts).decoded((2, 2)).shape
            assert shape in {(48, 40), (24, 20)}


def test_a_stream_of_another_size_is_refused_before_it_is_decoded() -> None:
    made = small_streams()[JPEG_2000]
    data = bytearray(made.data)
    struct.pack_into(">II", data, 8, 60_000, 60_000)
    struct.pack_into(">II", data, 24, 60_000, 60_000)
    with pytest.raises(PixelDecodeError, match="60000 x 60000 x 1"):
        Stream(JPEG_2000, bytes(data), made.facts).decoded((2, 2))


def test_the_full_path_decides_where_the_reduced_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Array:
        raise OSError

    monkeypatch.setattr("engine.dicom.reduced.jpeg_2000", broken)
    made = small_streams()[JPEG_2000]
    assert made.decoded((2, 2)).shape == (48, 40)
    assert DECODERS[JPEG_2000].available()
