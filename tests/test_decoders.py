"""A contract over DECODERS: every transfer syntax gives the stored values of an independent reader."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from engine.dicom import header as elements
from engine.dicom.decoders import DECODERS, require_decoder
from engine.dicom.guard import DataSet, Limits, parse
from engine.dicom.pixels import stored_values
from engine.dicom.write import ENCODERS, Facts, uid_from, write_instance
from engine.errors import InstanceError, PixelDecodeError, TruncatedError, UnsupportedSyntaxError

WRITTEN = {encoder.transfer_syntax_uid: name for name, encoder in ENCODERS.items()}
BUNDLED = {
    "1.2.840.10008.1.2.1.99": "image_dfl.dcm",
    "1.2.840.10008.1.2.2": "MR_small_bigendian.dcm",
    "1.2.840.10008.1.2.5": "MR_small_RLE.dcm",
}
"""Syntaxes that we do not write, with a file inside the pydicom wheel that pydicom itself can decode."""
LOSSY_OR_KIN = {
    "1.2.840.10008.1.2.4.50": "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.51": "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.57": "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.81": "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.91": "1.2.840.10008.1.2.4.90",
}
"""Syntaxes of the same code stream as another one."""


def picture(bits: int) -> np.ndarray:
    y, x = np.mgrid[0:61, 0:47]
    wave = (np.sin(x / 9) + np.cos(y / 7) + 2) / 4 * (2**bits - 1)
    return wave.astype(np.uint8 if bits <= 8 else np.uint16)


def parsed(data: bytes) -> DataSet:
    return parse(data, elements.TAGS, Limits())


def written(tmp_path: Path, syntax: str, bits: int) -> bytes:
    facts = Facts(
        sop_instance_uid=uid_from("i"), study_instance_uid=uid_from("s"), series_instance_uid=uid_from("r"),
        patient_id="p", bits_stored=bits,
    )  # fmt: skip
    write_instance(tmp_path / "x", picture(bits), facts, syntax=syntax)
    return (tmp_path / "x").read_bytes()


@pytest.mark.parametrize("uid", DECODERS)
def test_every_decoder_is_available_and_has_a_case(uid: str) -> None:
    assert require_decoder(uid).available()
    assert uid in WRITTEN or uid in BUNDLED or uid in LOSSY_OR_KIN


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("uid", WRITTEN)
def test_what_was_written_comes_back(tmp_path: Path, uid: str, bits: int) -> None:
    assert np.array_equal(
        stored_values(parsed(written(tmp_path, WRITTEN[uid], bits)), Limits()), picture(bits)
    )


@pytest.mark.parametrize("uid", BUNDLED)
def test_same_stored_values_as_pydicom(uid: str) -> None:
    path = Path(str(get_testdata_file(BUNDLED[uid])))
    reference = pydicom.dcmread(path)
    assert reference.file_meta.TransferSyntaxUID == uid
    ours = stored_values(parsed(path.read_bytes()), Limits())
    assert np.array_equal(ours.astype(np.uint16), reference.pixel_array.astype(np.uint16))


@pytest.mark.parametrize("uid", LOSSY_OR_KIN)
def test_kin_syntaxes_share_their_decoder(uid: str) -> None:
    assert DECODERS[uid].decode is DECODERS[LOSSY_OR_KIN[uid]].decode


def test_jpeg_baseline_is_near_what_was_encoded(tmp_path: Path) -> None:
    """Lossy: close to the picture, not equal to it."""
    import imagecodecs
    from pydicom.encaps import encapsulate

    data_set = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    data_set.Rows, data_set.Columns = 61, 47
    data_set.BitsAllocated, data_set.BitsStored, data_set.HighBit = 8, 8, 7
    data_set.PixelData = encapsulate([bytes(imagecodecs.jpeg8_encode(picture(8), level=95))])
    data_set["PixelData"].is_undefined_length = True
    data_set["PixelData"].VR = "OB"
    data_set.file_meta.TransferSyntaxUID = pydicom.uid.UID("1.2.840.10008.1.2.4.50")
    data_set.save_as(tmp_path / "x")
    ours = stored_values(parsed((tmp_path / "x").read_bytes()), Limits())
    assert 0 < np.abs(ours.astype(int) - picture(8)).max() <= 6


@pytest.mark.parametrize("syntax", [name for name in ENCODERS if ENCODERS[name].encode])
def test_a_cut_or_scrambled_code_stream_is_a_typed_error(tmp_path: Path, syntax: str) -> None:
    data = bytearray(written(tmp_path, syntax, 12))
    with pytest.raises(InstanceError):
        stored_values(parsed(bytes(data[: len(data) - len(data) // 3])), Limits())
    start = len(data) // 2
    data[start : start + 64] = b"\xff" * 64
    with contextlib.suppress(PixelDecodeError, TruncatedError):
        assert stored_values(parsed(bytes(data)), Limits()).shape == (61, 47)


def test_unknown_syntax_is_named() -> None:
    with pytest.raises(UnsupportedSyntaxError, match=r"1\.2\.840\.10008\.1\.2\.4\.100"):
        require_decoder("1.2.840.10008.1.2.4.100")
