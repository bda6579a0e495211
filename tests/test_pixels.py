"""Stored -> modality -> display values, hand-computed over photometric, bits, sign, rescale and window."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from engine.dicom.pixels import display_lut
from engine.errors import HeaderError


def lut(bits: int = 12, *, signed: bool = False, inverted: bool = False, **values: Any) -> np.ndarray:
    header = Dataset()
    header.BitsAllocated = 8 if bits <= 8 else 16
    header.BitsStored, header.HighBit = bits, bits - 1
    header.PixelRepresentation = int(signed)
    header.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    for keyword, value in values.items():
        setattr(header, keyword, value)
    return display_lut(header)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("inverted", [False, True])
def test_without_a_window_the_full_range_is_shown(bits: int, inverted: bool) -> None:
    table = lut(bits, inverted=inverted)
    assert table.shape == (2**bits,)
    assert (table[0], table[-1]) == ((1.0, 0.0) if inverted else (0.0, 1.0))
    assert table[2 ** (bits - 1)] == pytest.approx(0.5, abs=2.0**-bits * 2)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_signed_values_are_read_as_two_s_complement(bits: int) -> None:
    table = lut(bits, signed=True)
    assert table[2 ** (bits - 1)] == 0.0  # the most negative value
    assert table[2 ** (bits - 1) - 1] == 1.0  # the most positive one
    assert table[0] > table[2**bits - 1]  # 0 is brighter than -1


def test_linear_window_of_the_standard() -> None:
    """PS3.3 C.11.2.1.2.1: c = 100, w = 51: black up to 74.5 - ..., white from 125 on, 0.5 at 99.5."""
    table = lut(WindowCenter=100, WindowWidth=51)
    assert table[74] == 0.0
    assert table[125] == 1.0
    assert table[99] == pytest.approx((99 - 99.5) / 50 + 0.5)
    assert table[110] == pytest.approx((110 - 99.5) / 50 + 0.5)


def test_linear_exact_window() -> None:
    table = lut(WindowCenter=100, WindowWidth=50, VOILUTFunction="LINEAR_EXACT")
    assert table[75] == 0.0
    assert table[100] == pytest.approx(0.5)
    assert table[125] == 1.0


def test_sigmoid_window() -> None:
    """PS3.3 C.11.2.1.3.1: 1 / (1 + exp(-4 (x - c) / w))."""
    table = lut(WindowCenter=2000, WindowWidth=1000, VOILUTFunction="SIGMOID")
    assert table[2000] == pytest.approx(0.5, abs=1e-6)
    assert table[2250] == pytest.approx(1 / (1 + np.exp(-1.0)), abs=1e-3)


def test_the_window_works_on_modality_values() -> None:
    """Slope 2, intercept -1000: the stored value 550 is the modality value 100."""
    table = lut(RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=100, WindowWidth=51)
    assert table[550] == pytest.approx((100 - 99.5) / 50 + 0.5)


def test_the_first_of_several_windows_counts() -> None:
    assert np.array_equal(
        lut(WindowCenter=[100, 2000], WindowWidth=[51, 3000]), lut(WindowCenter=100, WindowWidth=51)
    )


def test_a_window_of_width_zero_is_no_window() -> None:
    assert np.array_equal(lut(WindowCenter=0, WindowWidth=0), lut())


def test_a_negative_slope_inverts_and_monochrome1_inverts_again() -> None:
    assert lut(RescaleSlope=-1, RescaleIntercept=0)[0] == 1.0
    assert lut(RescaleSlope=-1, RescaleIntercept=0, inverted=True)[0] == 0.0


def test_presentation_lut_shape_repeats_monochrome1() -> None:
    assert np.array_equal(lut(inverted=True, PresentationLUTShape="INVERSE"), lut(inverted=True))


@pytest.mark.parametrize("bits", [0, 17, 32])
def test_senseless_bits_are_refused(bits: int) -> None:
    header = Dataset()
    header.BitsAllocated, header.BitsStored = 16, bits
    with pytest.raises(HeaderError, match="BitsStored"):
        display_lut(header)
