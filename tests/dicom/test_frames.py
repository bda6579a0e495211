"""Frames of every layout, samples, planes, packed bits, byte orders; against second decoders."""

from __future__ import annotations

import csv
import hashlib
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.pixels.decoders.rle import _rle_decode_frame

from engine.dicom.decoders import DECODERS, decode_frame, require_decoder
from engine.dicom.frame import FrameFacts
from engine.dicom.header import TAGS, num_frames
from engine.dicom.parse import Limits, parse
from engine.dicom.pixels import stored_values
from engine.errors import PixelDecodeError, TruncatedError, UnsupportedSyntaxError
from tests.fixtures.dicom_fixture import (
    BIG_ENDIAN,
    EXPLICIT,
    JPEG,
    JPEG_2000,
    JPEG_LS,
    LOSSLESS,
    RLE,
    picture,
    rle_frame,
)

Array = NDArray[Any]
HTJ2K, DEFLATED_FRAME = "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.8.1"
MATRIX = Path(__file__).resolve().parents[3] / "shared" / "data" / "dicom_matrix"


def colour(bits: int = 8, samples: int = 3) -> Array:
    """[rows, columns, samples]; no channel is like another."""
    grey_HW = picture((26, 18), bits)
    channels = [np.roll(grey_HW, 3 * number, axis=number % 2) for number in range(samples)]
    return np.stack(channels, axis=-1)


def facts(stored: Array, **changes: Any) -> FrameFacts:
    samples = stored.shape[2] if stored.ndim == 3 else 1
    bits = changes.pop("bits", stored.dtype.itemsize * 8)
    return FrameFacts(*stored.shape[:2], bits, changes.pop("is_little_endian", True), samples, **changes)


def rle_of(stored: Array) -> bytes:
    """RLE with the segments of each sample one after the other."""
    frames = [rle_frame(stored[..., sample]) for sample in range(stored.shape[2])]
    counts = [struct.unpack_from("<16I", frame) for frame in frames]
    segments = [
        frame[start:end]
        for frame, (count, *at) in zip(frames, counts, strict=True)
        for start, end in zip(at[:count], [*at[1:count], len(frame)], strict=True)
    ]
    starts = [64 + sum(map(len, segments[:number])) for number in range(len(segments))]
    table = struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(segments)))
    return table + b"".join(segments)


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("samples", [2, 3, 4])
def test_native_colour_comes_interleaved(bits: int, order: str, planar: int, samples: int) -> None:
    stored = colour(16, samples).astype(f"{order}u{bits // 8}")
    lying = np.moveaxis(stored, -1, 0) if planar else stored
    said = facts(stored, is_little_endian=order == "<", planar_configuration=planar)
    syntax = EXPLICIT if order == "<" else BIG_ENDIAN
    assert np.array_equal(decode_frame(syntax, memoryview(lying.tobytes()), said), stored)


@pytest.mark.parametrize("bits", [8, 16])
def test_rle_colour_comes_interleaved(bits: int) -> None:
    stored = colour(bits)
    data = rle_of(stored)
    assert np.array_equal(decode_frame(RLE, memoryview(data), facts(stored)), stored)
    second = _rle_decode_frame(data, *stored.shape, stored.dtype.itemsize * 8)
    planes = np.frombuffer(second, stored.dtype).reshape(3, *stored.shape[:2])
    assert np.array_equal(planes, np.moveaxis(stored, -1, 0))


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (JPEG_LS, imagecodecs.jpegls_encode),
        (LOSSLESS, lambda stored: imagecodecs.jpeg8_encode(stored, lossless=True)),
        (JPEG_2000, lambda stored: imagecodecs.jpeg2k_encode(stored, codecformat="J2K", level=0)),
        (HTJ2K, lambda stored: imagecodecs.htj2k_encode(stored, reversible=True)),
    ],
)
def test_compressed_colour_comes_interleaved(syntax: str, encode: Callable[[Array], bytes]) -> None:
    stored = colour()
    assert np.array_equal(decode_frame(syntax, memoryview(encode(stored)), facts(stored)), stored)


def test_jpeg_components_that_are_rgb_and_do_not_say_so_stay_as_they_lie() -> None:
    stored = np.stack([np.full((32, 32), value, np.uint8) for value in (90, 90, 90)], axis=-1)
    data = bytes(imagecodecs.jpeg8_encode(stored, colorspace="YCBCR", outcolorspace="YCBCR", level=98))
    start = data.index(b"\xff\xe0")
    silent = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]
    kept = decode_frame(JPEG, memoryview(silent), facts(stored, is_rgb=True))
    assert np.abs(kept.astype(int) - 90).max() <= 1
    converted = decode_frame(JPEG, memoryview(silent), facts(stored))
    assert np.abs(np.diff(converted.astype(int), axis=-1)).max() > 20
    assert DECODERS[JPEG].converts_colour


@pytest.mark.parametrize("first_bit", [0, 3, 7])
@pytest.mark.parametrize("shape", [(8, 8), (5, 7), (1, 1)])
def test_packed_bits_are_unpacked(shape: tuple[int, int], first_bit: int) -> None:
    stored = np.random.default_rng(0).integers(0, 2, shape, np.uint8)
    stream = np.packbits(np.concatenate([np.ones(first_bit, np.uint8), stored.ravel()]), bitorder="little")
    read = decode_frame(EXPLICIT, memoryview(stream.tobytes()), facts(stored, bits=1, first_bit=first_bit))
    assert np.array_equal(read, stored)


@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED_FRAME])
def test_a_short_frame_is_said_to_be_cut(syntax: str) -> None:
    stored = picture()
    data = (
        stored.tobytes()
        if syntax == EXPLICIT
        else imagecodecs.deflate_encode(stored.tobytes()[:99], raw=True)
    )
    with pytest.raises(TruncatedError):
        decode_frame(syntax, memoryview(data[:-1]), facts(stored))


def test_a_deflated_frame_inflates_no_further_than_it_is_long() -> None:
    bomb = imagecodecs.deflate_encode(bytes(1 << 24), raw=True)
    stored = np.zeros((4, 4), np.uint8)
    assert np.array_equal(decode_frame(DEFLATED_FRAME, memoryview(bomb), facts(stored)), stored)
    with pytest.raises(PixelDecodeError):
        decode_frame(DEFLATED_FRAME, memoryview(b"\xff" * 40), facts(stored))


@pytest.mark.parametrize("samples", [0, -1, 5, 255])
def test_odd_numbers_of_samples_are_refused(samples: int) -> None:
    with pytest.raises(PixelDecodeError, match="samples per pixel"):
        decode_frame(EXPLICIT, memoryview(bytes(64)), FrameFacts(2, 2, 8, True, samples))


@pytest.mark.parametrize(
    ("last", "why"), [("4.92", "multi-component"), ("4.110", "JPEG XL"), ("4.102", "video")]
)
def test_known_syntaxes_without_decoder_say_why(last: str, why: str) -> None:
    with pytest.raises(UnsupportedSyntaxError, match=why):
        require_decoder(f"1.2.840.10008.1.2.{last}")


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_pixels_are_equal_between_two_decoders(bits: int) -> None:
    stored = picture((64, 50), bits)
    said = facts(stored)
    lossless = bytes(imagecodecs.ljpeg_encode(stored, bitspersample=bits))
    ours = decode_frame(LOSSLESS, memoryview(lossless), said)
    assert np.array_equal(ours, imagecodecs.ljpeg_decode(lossless))
    assert np.array_equal(ours, imagecodecs.jpegsof3_decode(lossless))
    ht = bytes(imagecodecs.htj2k_encode(stored, reversible=True))
    assert np.array_equal(decode_frame(HTJ2K, memoryview(ht), said), imagecodecs.htj2k_decode(ht))
    rle = rle_frame(stored)
    second = np.frombuffer(_rle_decode_frame(rle, 64, 50, 1, stored.dtype.itemsize * 8), stored.dtype)
    assert np.array_equal(decode_frame(RLE, memoryview(rle), said), second.reshape(64, 50))


def test_lossy_pixels_are_within_one_of_a_second_decoder() -> None:
    stored = picture((64, 50), 8)
    data = bytes(imagecodecs.jpeg8_encode(stored, level=60))
    second = np.asarray(Image.open(BytesIO(data))).astype(int)
    assert np.abs(decode_frame(JPEG, memoryview(data), facts(stored)) - second).max() <= 1
    lossy = bytes(imagecodecs.jpeg2k_encode(stored, codecformat="J2K", level=40))
    second = np.asarray(Image.open(BytesIO(lossy))).astype(int)
    assert np.abs(decode_frame(JPEG_2000, memoryview(lossy), facts(stored)) - second).max() <= 1


def test_another_codec_takes_over_where_the_first_is_not_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        available = False

    for feature in ("JPEG8", "JPEG2K"):
        monkeypatch.setattr(imagecodecs, feature, Absent)
    stored = picture((64, 50), 12)
    data = bytes(
        imagecodecs.jpeg2k_encode(stored, codecformat="J2K", level=0, reversible=True, bitspersample=12)
    )
    assert np.array_equal(decode_frame(JPEG_2000, memoryview(data), facts(stored)), stored)
    with pytest.raises(UnsupportedSyntaxError, match="pip install imagecodecs"):
        require_decoder(LOSSLESS)
    twelve = bytes(imagecodecs.jpeg8_encode(stored, bitspersample=12))
    with pytest.raises(UnsupportedSyntaxError, match="pip install imagecodecs, or pip install pillow"):
        decode_frame(JPEG, memoryview(twelve), facts(stored))


def lossless_files() -> list[dict[str, str]]:
    """Rows of the matrix whose pixels other people's decoders have read, JPEG by cosine transform apart."""
    if not MATRIX.is_dir():
        return []
    with (MATRIX / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if is_comparable(row)]


def is_comparable(row: dict[str, str]) -> bool:
    is_dct = row["ts"].rpartition(".")[2] in {"50", "51"} or row["file"] == "dcmjs__sample-op.dcm"
    other = {"YBR_FULL"} if row["ts"] == EXPLICIT else set()  # the manifest holds them as RGB
    has_rest = {"dcm_qa_12bit__12bitSigned_0x0F0F.dcm", "pydicom-data__693_UNCR.dcm"}  # bits above BitsStored
    return bool(
        row["decode"] == "ok"
        and row["ts"] in DECODERS
        and row["bits_stored"]
        and not is_dct
        and row["photometric"] not in other
        and row["file"] not in has_rest
    )


@pytest.mark.skipif(
    not MATRIX.is_dir(), reason="the folder shared/data/dicom_matrix is not beside the checkout"
)
@pytest.mark.parametrize("row", lossless_files(), ids=lambda row: row["file"])
def test_real_files_have_the_pixels_that_other_decoders_found(row: dict[str, str]) -> None:
    """The manifest's digests come from pydicom with pylibjpeg and pyjpegls, none of which we use."""
    data_set = parse((MATRIX / "files" / row["file"]).read_bytes(), TAGS, Limits())
    frames = range(num_frames(data_set.header))
    stored = np.stack([stored_values(data_set, Limits(), frame=number) for number in frames])
    if row["pixel_rep"] == "1" and stored.dtype.kind == "u":
        sign = 1 << (int(row["bits_stored"]) - 1)
        stored = (stored.astype(np.int64) & (2 * sign - 1) ^ sign) - sign
    pixels = stored.astype(row["dtype"]).tobytes()
    assert hashlib.sha256(pixels).hexdigest().startswith(row["sha256_pixels"])
