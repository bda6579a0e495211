"""DICOM bytes for tests: one small grey image in any transfer syntax, with any element changed."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.native import _encode_segment
from pydicom.uid import UID

from engine.dicom.write import DX_FOR_PRESENTATION

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"
JPEG, JPEG_12, LOSSLESS = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.70"
JPEG_LS, JPEG_2000 = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"


def picture(shape: tuple[int, int] = (24, 19), bits: int = 12) -> NDArray[Any]:
    """A smooth ramp with noise over the whole range of ``bits``, unsigned."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    ramp = (rows + columns) / max(sum(shape) - 2, 1)
    noisy = ramp + np.random.default_rng(bits).normal(0, 0.02, shape)
    kind = np.uint8 if bits <= 8 else np.uint16
    return (noisy.clip(0, 1) * ((1 << bits) - 1)).round().astype(kind)


def header(**changes: Any) -> Dataset:
    """A data set of a 12-bit image without pixels; a change to None takes the element out."""
    elements = {
        "SOPClassUID": DX_FOR_PRESENTATION, "SOPInstanceUID": "1.2.3.4", "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.1", "Modality": "DX", "PatientID": "P1", "PatientSex": "F",
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16,
        "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0,
    }  # fmt: skip
    data_set = Dataset()
    for keyword, value in (elements | changes).items():
        if value is not None:
            setattr(data_set, keyword, value)
    return data_set


def item(**elements: Any) -> Dataset:
    """One item of a sequence."""
    inner = Dataset()
    for keyword, value in elements.items():
        setattr(inner, keyword, value)
    return inner


def image(
    stored_HW: NDArray[Any], *, frame: bytes | None = None, syntax: str = EXPLICIT, **changes: Any
) -> bytes:
    """A Part 10 file of ``stored_HW``; ``frame`` is its code stream where ``syntax`` is a compressed one."""
    bits = stored_HW.dtype.itemsize * 8
    sizes = {"Rows": stored_HW.shape[0], "Columns": stored_HW.shape[1], "BitsAllocated": bits}
    stored_bits = {"BitsStored": min(bits, 12), "HighBit": min(bits, 12) - 1}
    data_set = header(**sizes | stored_bits | changes)
    if frame is not None:
        data_set.add_new(0x7FE00010, "OB", encapsulate([frame]))
        data_set["PixelData"].is_undefined_length = True
    else:
        order = ">" if syntax == BIG_ENDIAN else "<"
        pixels = stored_HW.astype(stored_HW.dtype.newbyteorder(order)).tobytes()
        data_set.add_new(0x7FE00010, "OW", in_words(pixels, is_swapped=syntax == BIG_ENDIAN and bits == 8))
    return written(data_set, syntax)


def in_words(pixels: bytes, *, is_swapped: bool) -> bytes:
    """The value of an OW element; where its words are big endian, bytes change places (PS3.5 7.3)."""
    padded = pixels + b"\0" * (len(pixels) % 2)
    return np.frombuffer(padded, np.uint16).byteswap().tobytes() if is_swapped else padded


def written(data_set: Dataset, syntax: str = EXPLICIT) -> bytes:
    """The Part 10 bytes of a data set."""
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = UID(syntax)
    data_set.file_meta.MediaStorageSOPClassUID = UID(DX_FOR_PRESENTATION)
    data_set.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    stream = BytesIO()
    data_set.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def meta(syntax: str) -> bytes:
    """Preamble, prefix and a file meta group with nothing but the transfer syntax."""
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    return b"\0" * 128 + b"DICM" + b"\x02\0\x10\0UI" + struct.pack("<H", len(value)) + value


def deflated(data_set: bytes) -> bytes:
    """A Part 10 file around an explicit little endian data set."""
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return meta(DEFLATED) + deflater.compress(data_set) + deflater.flush()


def data_set_of(part_10: bytes) -> bytes:
    """What follows the file meta group in a file of ``written`` or ``image``."""
    (length,) = struct.unpack_from("<I", part_10, 140)
    return part_10[144 + length :]


def rle_frame(stored_HW: NDArray[Any]) -> bytes:
    """The frame that pydicom's own encoder makes: PS3.5 G, the most significant byte first."""
    planes = stored_HW.astype(stored_HW.dtype.newbyteorder(">")).view(np.uint8)
    planes = planes.reshape(*stored_HW.shape, stored_HW.dtype.itemsize)
    width = stored_HW.shape[1]
    segments = [bytes(_encode_segment(planes[..., i].tobytes(), width)) for i in range(planes.shape[-1])]
    offsets = [64 + sum(len(segment) for segment in segments[:i]) for i in range(len(segments))]
    return struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(segments))) + b"".join(segments)
