"""One lookup table, however it is written: the display values are those worked out by hand."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from engine.dicom.header import TAGS
from engine.dicom.parse import Limits, parse
from engine.dicom.pixels import read_frame
from engine.errors import HeaderError
from tests.fixtures.dicom_fixture import BIG_ENDIAN, EXPLICIT, IMPLICIT, image, picture

Array = NDArray[Any]
SHAPE = (60, 50)
SEQUENCES = ["ModalityLUTSequence", "VOILUTSequence"]


def item(descriptor: list[int], data: Any, vr: str, *, is_signed: bool = False) -> Dataset:
    """A table's item with the VRs as given; words of OW in the order of the file are the caller's affair."""
    inner = Dataset()
    inner.add_new(0x00283002, "SS" if is_signed else "US", descriptor)
    inner.add_new(0x00283006, vr, data)
    return inner


def curve(entries: int, top: int) -> Array:
    """A table that bends, from 0 to ``top``."""
    return np.rint(top * (np.arange(entries) / (entries - 1)) ** 2).astype(np.int64)


def words(table: Array, syntax: str) -> bytes:
    return table.astype(">u2" if syntax == BIG_ENDIAN else "<u2").tobytes()


def packed(table: Array, syntax: str) -> bytes:
    """Two entries of 8 bits to a word, the first in its low byte."""
    pairs = table.reshape(-1, 2)
    return words(pairs[:, 0] | pairs[:, 1] << 8, syntax)


def shown(stored_HW: Array, sequence: str, table: Dataset, syntax: str = EXPLICIT, **changes: Any) -> Array:
    data = image(stored_HW, syntax=syntax, **{sequence: [table]}, **changes)
    return read_frame(parse(data, TAGS, Limits()), Limits()).display_HW


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize(("bits", "form"), [
    (8, "words"), (8, "packed"), (10, "words"), (11, "words"), (12, "words"), (13, "words"), (14, "words"),
    (15, "words"), (16, "words"), (8, "numbers"), (12, "numbers"), (16, "numbers"),
])  # fmt: skip
def test_entries_of_any_bits_in_any_form(bits: int, form: str, sequence: str, syntax: str) -> None:
    """4096 entries; beside 256 of them an 8-bit index would begin again."""
    stored_HW, table = picture(SHAPE), curve(4096, (1 << bits) - 1)
    data = {"words": words, "packed": packed}.get(form, lambda table, syntax: table.tolist())(table, syntax)
    made = item([4096, 0, bits], data, "US" if form == "numbers" else "OW")
    if form == "numbers" and syntax == IMPLICIT:
        pytest.skip("without VR a table of several entries is OW")
    found_HW = shown(stored_HW, sequence, made, syntax)
    assert found_HW == pytest.approx(table[stored_HW] / ((1 << bits) - 1), abs=1e-6)


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_a_short_table_goes_on_with_its_ends(sequence: str) -> None:
    """256 entries of 8 bits from 1000 on."""
    stored_HW, table = picture(SHAPE), curve(256, 255)
    found_HW = shown(stored_HW, sequence, item([256, 1000, 8], packed(table, EXPLICIT), "OW"))
    expected_HW = table[np.clip(stored_HW.astype(int) - 1000, 0, 255)] / 255
    assert found_HW == pytest.approx(expected_HW, abs=1e-6)


@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize(("first", "is_signed"), [(-2048, True), (63_488, False)])
def test_the_first_value_of_signed_pixels_may_be_written_unsigned(
    first: int, is_signed: bool, sequence: str
) -> None:
    stored_HW, table = picture(SHAPE).astype(np.int16) - 2048, curve(4096, 4095)
    made = item([4096, first, 12], words(table, EXPLICIT), "OW", is_signed=is_signed)
    found_HW = shown(stored_HW, sequence, made, PixelRepresentation=1)
    assert found_HW == pytest.approx(table[stored_HW + 2048] / 4095, abs=1e-6)


@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize(("first", "is_signed"), [(40_000, False), (-25_536, True)])
def test_the_first_value_of_unsigned_pixels_may_be_written_signed(
    first: int, is_signed: bool, sequence: str
) -> None:
    stored_HW, table = picture(SHAPE) + 40_000, curve(4096, 4095)
    made = item([4096, first, 12], words(table, EXPLICIT), "OW", is_signed=is_signed)
    found_HW = shown(stored_HW, sequence, made, BitsStored=16, HighBit=15)
    assert found_HW == pytest.approx(table[stored_HW - 40_000] / 4095, abs=1e-6)


@pytest.mark.parametrize(("first", "is_signed"), [(-1024, True), (64_512, False)])
def test_a_voi_lut_begins_below_zero_where_the_modality_values_do(first: int, is_signed: bool) -> None:
    stored_HW, table = picture(SHAPE), curve(4096, 4095)
    made = item([4096, first, 12], words(table, EXPLICIT), "OW", is_signed=is_signed)
    found_HW = shown(stored_HW, "VOILUTSequence", made, RescaleIntercept=-1024, RescaleSlope=1)
    assert found_HW == pytest.approx(table[stored_HW] / 4095, abs=1e-6)


@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("is_signed", [False, True])
def test_zero_entries_are_65536(is_signed: bool, sequence: str) -> None:
    stored_HW, table = picture(SHAPE, 16), curve(65_536, 65_535)
    half = 32_768 if is_signed else 0
    values_HW = (stored_HW.astype(int) - half).astype(np.int16 if is_signed else np.uint16)
    made = item([0, -half, 16], words(table, EXPLICIT), "OW", is_signed=is_signed)
    told = {"BitsStored": 16, "HighBit": 15, "PixelRepresentation": int(is_signed)}
    assert shown(values_HW, sequence, made, **told) == pytest.approx(table[stored_HW] / 65_535, abs=1e-6)


@pytest.mark.parametrize("descriptor", [[4096, 0, 7], [4096, 0, 17], [5000, 0, 12], [4096, 0]])
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_a_table_without_sense_is_refused(descriptor: list[int], sequence: str) -> None:
    made = item(descriptor, words(curve(4096, 4095), EXPLICIT), "OW")
    with pytest.raises(HeaderError, match="no sense"):
        shown(picture(SHAPE), sequence, made)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("first", [0, 10])
def test_a_grey_palette_is_a_table_too(first: int, bits: int, syntax: str) -> None:
    """256 entries, whose data element is one of words also where each holds two."""
    stored_HW = picture(SHAPE, 8)
    table = curve(256, (1 << bits) - 1)
    data = packed(table, syntax) if bits == 8 else words(table, syntax)
    told: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name in ("Red", "Green", "Blue"):
        told |= {
            f"{name}PaletteColorLookupTableDescriptor": [256, first, bits],
            f"{name}PaletteColorLookupTableData": data,
        }
    found = read_frame(parse(image(stored_HW, syntax=syntax, **told), TAGS, Limits()), Limits())
    expected_HW = table[np.clip(stored_HW.astype(int) - first, 0, 255)] / ((1 << bits) - 1)
    assert found.display_HW == pytest.approx(expected_HW, abs=1e-6)


def test_a_palette_of_65536_entries() -> None:
    stored_HW, table = picture(SHAPE, 16), curve(65_536, 65_535)
    told: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR", "BitsStored": 16, "HighBit": 15}
    for name in ("Red", "Green", "Blue"):
        told |= {
            f"{name}PaletteColorLookupTableDescriptor": [0, 0, 16],
            f"{name}PaletteColorLookupTableData": struct.pack("<65536H", *table.tolist()),
        }
    found = read_frame(parse(image(stored_HW, **told), TAGS, Limits()), Limits())
    assert found.display_HW == pytest.approx(table[stored_HW] / 65_535, abs=1e-6)
