"""What a header may cost: caps on depth, count, lengths and inflation; and odd files that are read."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.dicom.header import TAGS, text
from engine.dicom.parse import DataSet, Limits, parse
from engine.dicom.part10 import DEFLATED
from engine.dicom.pixels import stored_values
from engine.errors import FilteredError, HeaderError, InstanceError, OverLimitError, TruncatedError
from tests.fixtures.dicom_fixture import EXPLICIT, IMPLICIT, data_set_of, deflated, image, meta, picture

ITEM, ITEM_END, SEQUENCE_END = b"\xfe\xff\0\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"
OPEN = b"\xff\xff\xff\xff"
PRIVATE, VOI_LUT = b"\x09\0\x10\x10", b"\x28\0\x10\x30"
MODALITY = b"\x08\0\x60\0CS"


def parsed(data: bytes, **limits: int) -> DataSet:
    return parse(data, TAGS, Limits(**limits))


def with_element(element: bytes, before: bytes = b"\x10\0\x20\0LO") -> bytes:
    """An explicit little endian file with one more element, before that of the patient ID."""
    data = image(picture())
    at = data.index(before)
    return data[:at] + element + data[at:]


def nested(depth: int, tag: bytes = PRIVATE) -> bytes:
    """Sequences of unknown length, one in the other."""
    head = tag + b"SQ\0\0" + OPEN + ITEM + OPEN
    return head * depth + (ITEM_END + bytes(4) + SEQUENCE_END + bytes(4)) * depth


@pytest.mark.parametrize("tag", [PRIVATE, VOI_LUT])
def test_nesting_has_an_end(tag: bytes) -> None:
    before = b"\x10\0\x20\0LO" if tag == PRIVATE else b"\xe0\x7f\x10\0OW"
    assert np.array_equal(stored_values(parsed(with_element(nested(32, tag), before)), Limits()), picture())
    for depth in (33, 5000):
        with pytest.raises(OverLimitError, match="nested deeper"):
            parsed(with_element(nested(depth, tag), before))


def test_a_known_length_hides_no_depth_in_what_is_parsed() -> None:
    """Sequences of known length are skipped, but not those that are handed to the parser."""
    inner = b""
    for _ in range(40):
        inner = (
            VOI_LUT
            + b"SQ\0\0"
            + struct.pack("<I", len(inner) + 8)
            + ITEM
            + struct.pack("<I", len(inner))
            + inner
        )
    with pytest.raises(OverLimitError, match="nested deeper"):
        parsed(with_element(inner, b"\xe0\x7f\x10\0OW"))
    assert parsed(with_element(inner.replace(VOI_LUT, PRIVATE))).pixel_value is not None


def test_elements_are_counted() -> None:
    many = b"".join(b"\x09\0" + struct.pack("<H", n) + b"UL\4\0" + bytes(4) for n in range(0x1000, 0x2000))
    assert parsed(with_element(many)).pixel_value is not None
    with pytest.raises(OverLimitError, match="more than 4000 elements"):
        parsed(with_element(many), elements=4000)


def test_wanted_bytes_are_counted_and_others_are_not() -> None:
    private = PRIVATE + b"OB\0\0" + struct.pack("<I", 5000) + bytes(5000)
    assert parsed(with_element(private), header_bytes=5000).pixel_value is not None
    maker = b"\x08\0\x70\0UT\0\0" + struct.pack("<I", 5000) + b"x" * 5000
    with pytest.raises(OverLimitError, match="5000 bytes"):
        parsed(with_element(maker), header_bytes=5000)


@pytest.mark.parametrize("length", [0x7FFFFFFF, 0xFFFFFFFE, 100_000])
def test_a_length_beyond_the_file_is_a_cut(length: int) -> None:
    element = PRIVATE + b"OB\0\0" + struct.pack("<I", length)
    data_set = parsed(with_element(element))
    assert data_set.is_truncated
    with pytest.raises(TruncatedError):
        stored_values(data_set, Limits())


@pytest.mark.parametrize(
    "element",
    [
        ITEM + bytes(4),
        ITEM_END + bytes(4),
        SEQUENCE_END + bytes(4),
        PRIVATE + b"SQ\0\0" + OPEN + ITEM + OPEN + ITEM_END + bytes(4),
        PRIVATE + b"SQ\0\0" + OPEN + ITEM + OPEN + SEQUENCE_END + bytes(4),
        PRIVATE + b"SQ\0\0" + OPEN,
        PRIVATE + b"UN\0\0" + OPEN + ITEM + bytes(4) + SEQUENCE_END + bytes(4),
        PRIVATE + b"OB\0\0" + OPEN + ITEM + b"\4\0\0\0\xff\xd8\xff\xd9" + SEQUENCE_END + bytes(4),
        PRIVATE + b"\3\0\0\0abc",
        b"\xff\xff\xff\xffUL\4\0abcd",
    ],
)  # fmt: skip
def test_what_a_careful_reader_passes_over(element: bytes) -> None:
    """Stray marks, delimiters that are missing, an unknown kind of sequence, an icon, no VR."""
    data_set = parsed(with_element(element))
    assert text(data_set.header, "PatientID") == "P1"
    assert np.array_equal(stored_values(data_set, Limits()), picture())


@pytest.mark.parametrize(
    "tail", [b"\0", b"\0" * 7, b"\0" * 500, b"garbage" * 99, b"\xfc\xff\xfc\xffOB\0\0\2\0\0\0\0\0"]
)
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_what_follows_the_pixels_is_no_matter(tail: bytes, syntax: str) -> None:
    data_set = parsed(image(picture(), syntax=syntax) + tail)
    assert np.array_equal(stored_values(data_set, Limits()), picture())


@pytest.mark.parametrize(
    "head",
    [b"", b"DICM", b"\0" * 127 + b"DICM", b"\0" * 256 + b"DICM", b"\xff" * 128 + b"DICM", b"\0" * 128],
)  # fmt: skip
def test_the_meta_group_is_found_without_its_preamble(head: bytes) -> None:
    data = image(picture())
    assert np.array_equal(stored_values(parsed(head + data[132:]), Limits()), picture())


def test_a_damaged_meta_group_is_named() -> None:
    data = bytearray(image(picture()))
    data[132:144] = b"\2\0\0\0\0\0\0\xff" + bytes(4)
    with pytest.raises(HeaderError, match="meta group"):
        parsed(bytes(data))


def test_the_byte_order_is_read_from_the_data_set() -> None:
    data = meta("1.2.840.10008.1.2.2") + data_set_of(image(picture()))
    assert np.array_equal(stored_values(parsed(data), Limits()), picture())


def test_a_deflated_stream_may_have_a_zlib_header() -> None:
    data = meta(DEFLATED) + zlib.compress(data_set_of(image(picture())))
    assert np.array_equal(stored_values(parsed(data), Limits()), picture())


def test_only_as_much_is_inflated_as_the_image_needs() -> None:
    data_set = data_set_of(image(picture()))
    at = data_set.index(b"\xe0\x7f\x10\0OW")
    longer = data_set[: at + 8] + struct.pack("<I", 40 << 20) + data_set[at + 12 :] + bytes(40 << 20)
    found = parsed(deflated(longer))
    assert len(found.pixel_value or b"") == 2 * picture().nbytes  # so that what is too much shows
    assert np.array_equal(stored_values(found, Limits()), picture())


BOMB = """
import sys, zlib
from engine.dicom.parse import Limits, parse
from engine.dicom.header import TAGS
from engine.errors import InstanceError

def peak_kib():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

small, bomb = (open(path, "rb").read() for path in sys.argv[1:])
parse(small, TAGS, Limits())
before = peak_kib()
try:
    parse(bomb, TAGS, Limits())
    reason = "read"
except InstanceError as error:
    reason = error.reason
print(reason, peak_kib() - before)
"""


@pytest.mark.parametrize("place", ["pixels", "claimed pixels", "header", "sequence"])
def test_a_bomb_of_200_kb_moves_memory_by_less_than_64_mib(tmp_path: Path, place: str) -> None:
    """A stream that inflates a thousandfold, wherever the zeros claim to belong; in a process of its own."""
    claims: dict[str, Any] = {"Rows": 10_000, "Columns": 10_000} if place == "claimed pixels" else {}
    data_set = data_set_of(image(picture(), **claims))
    head = PRIVATE + b"OB\0\0" + struct.pack("<I", 190 << 20)
    if place == "header":
        data_set = data_set[: data_set.index(b"\x10\0\x20\0LO")] + head
    elif place == "sequence":
        data_set = data_set[: data_set.index(b"\x10\0\x20\0LO")] + PRIVATE + b"SQ\0\0" + OPEN
    else:
        at = data_set.index(b"\xe0\x7f\x10\0OW")
        data_set = data_set[: at + 8] + struct.pack("<I", 190 << 20)
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    zeros = bytes(1 << 20)
    stream = packer.compress(data_set) + b"".join(packer.compress(zeros) for _ in range(190)) + packer.flush()
    assert len(stream) < 210_000
    (tmp_path / "small").write_bytes(deflated(data_set_of(image(picture()))))
    (tmp_path / "bomb").write_bytes(meta(DEFLATED) + stream)
    ran = subprocess.run(
        [sys.executable, "-c", BOMB, str(tmp_path / "small"), str(tmp_path / "bomb")],
        capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    reason, grown_kib = ran.stdout.split()
    assert reason == {"pixels": "read", "sequence": reason}.get(place, "over_limit")
    assert int(grown_kib) < 64 << 10


def test_every_error_is_typed_for_any_single_byte_change() -> None:
    data = bytearray(image(picture()))
    rng = np.random.default_rng(0)
    for at in rng.integers(132, data.index(b"\xe0\x7f\x10\0OW") + 12, 400):
        kept = data[at]
        data[at] = int(rng.integers(0, 256))
        with contextlib.suppress(InstanceError, FilteredError):
            stored_values(parsed(bytes(data)), Limits())
        data[at] = kept
