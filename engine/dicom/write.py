"""Writes one projection radiograph as a DICOM Part 10 file, compressed on request.

Used by the phantom generator and by the adapters for public data sets. Nothing in a file depends on the
clock or on a random source, so the same arguments give the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from engine.errors import UnknownNameError

DX_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_COLOUR = 3  # dimensions of an array with a colour axis
IMPLEMENTATION_UID = "2.25.219743176028714025713849620127463218054"

_EMPTY = (
    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientName", "PatientBirthDate",
)  # fmt: skip

Stored = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the file says beside its pixels. ``None`` leaves the element out (or empty, where type 2)."""

    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    patient_id: str
    patient_sex: str | None = None
    patient_age: str | None = None
    """DICOM age string, ``nnnD|W|M|Y``."""
    sop_class_uid: str = DX_FOR_PRESENTATION
    modality: str = "DX"
    manufacturer: str | None = None
    body_part_examined: str | None = None
    view_position: str | None = None
    image_laterality: str | None = None
    photometric_interpretation: str = "MONOCHROME2"
    bits_stored: int = 12
    imager_pixel_spacing_mm: tuple[float, float] | None = None
    """(row, column) spacing at the detector."""
    window_center_width: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Encoder:
    """A transfer syntax that can be written; ``encode`` is None for uncompressed pixels."""

    transfer_syntax_uid: str
    encode: Callable[..., bytes | bytearray] | None = None


_jpeg_2000 = partial(imagecodecs.jpeg2k_encode, codecformat="J2K", reversible=True, level=0)

ENCODERS: dict[str, Encoder] = {
    "explicit": Encoder("1.2.840.10008.1.2.1"),
    "implicit": Encoder("1.2.840.10008.1.2"),
    "jpeg-lossless": Encoder("1.2.840.10008.1.2.4.70", imagecodecs.ljpeg_encode),
    "jpeg-ls": Encoder("1.2.840.10008.1.2.4.80", lambda frame, **_: imagecodecs.jpegls_encode(frame)),
    "jpeg-2000": Encoder("1.2.840.10008.1.2.4.90", _jpeg_2000),
}


def uid_from(*parts: str) -> str:
    """A UID under 2.25 derived from ``parts``: the same parts always give the same UID."""
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def write_instance(path: Path, stored_HW: Stored, facts: Facts, *, syntax: str = "explicit") -> None:
    """Write ``stored_HW`` (stored values, rows x columns) to ``path`` in a syntax named in ENCODERS.

    Raises:
        UnknownNameError: ``syntax`` is not in ENCODERS.
    """
    if syntax not in ENCODERS:
        raise UnknownNameError("transfer syntax", syntax, ENCODERS)
    _write(path, stored_HW, facts, ENCODERS[syntax])


def write_photo(path: Path, rgb_HW3: NDArray[np.uint8], facts: Facts) -> None:
    """Write an 8-bit colour picture (rows x columns x red, green, blue), uncompressed.

    ``facts.photometric_interpretation`` and ``facts.bits_stored`` are not asked: it is RGB with 8 bits.
    """
    facts = dataclasses.replace(facts, photometric_interpretation="RGB", bits_stored=8)
    _write(path, rgb_HW3, facts, ENCODERS["explicit"])


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> FileMetaDataset:
    """The file meta group (PS3.10 7.1) of a file that we write."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    return meta


def _write(path: Path, stored: Stored, facts: Facts, encoder: Encoder) -> None:
    data_set = _header(facts)
    _add_pixels(data_set, stored, facts, encoder)
    data_set.file_meta = file_meta(facts.sop_class_uid, facts.sop_instance_uid, encoder.transfer_syntax_uid)
    data_set.save_as(path, enforce_file_format=True)


def _header(facts: Facts) -> Dataset:
    elements: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": facts.sop_class_uid,
        "SOPInstanceUID": facts.sop_instance_uid,
        "StudyInstanceUID": facts.study_instance_uid,
        "SeriesInstanceUID": facts.series_instance_uid,
        **dict.fromkeys(_EMPTY, ""),
        **dict.fromkeys(("StudyID", "SeriesNumber", "InstanceNumber"), "1"),
        "Modality": facts.modality,
        "Manufacturer": facts.manufacturer or "",
        "PatientID": facts.patient_id,
        "PatientSex": facts.patient_sex or "",
        "ImageType": ["DERIVED", "PRIMARY"],
    }
    optional: dict[str, Any] = {
        "PatientAge": facts.patient_age,
        "BodyPartExamined": facts.body_part_examined,
        "ViewPosition": facts.view_position,
        "ImageLaterality": facts.image_laterality,
        "ImagerPixelSpacing": list(facts.imager_pixel_spacing_mm) if facts.imager_pixel_spacing_mm else None,
    }
    if facts.window_center_width:
        optional["WindowCenter"], optional["WindowWidth"] = facts.window_center_width
    if facts.sop_class_uid == SECONDARY_CAPTURE:
        optional["ConversionType"] = "WSD"
    if facts.sop_class_uid == DX_FOR_PRESENTATION:
        optional["PresentationIntentType"] = "FOR PRESENTATION"
        optional["PresentationLUTShape"] = (
            "INVERSE" if facts.photometric_interpretation == "MONOCHROME1" else "IDENTITY"
        )
    data_set = Dataset()
    for keyword, value in {**elements, **{k: v for k, v in optional.items() if v is not None}}.items():
        setattr(data_set, keyword, value)
    return data_set


def _add_pixels(data_set: Dataset, stored: Stored, facts: Facts, encoder: Encoder) -> None:
    """``stored`` is [rows, columns], or [rows, columns, 3] for colour."""
    frame: Stored = np.require(stored, requirements="C")
    data_set.SamplesPerPixel = 3 if frame.ndim == _COLOUR else 1
    if frame.ndim == _COLOUR:
        data_set.PlanarConfiguration = 0
    data_set.PhotometricInterpretation = facts.photometric_interpretation
    data_set.Rows, data_set.Columns = frame.shape[:2]
    data_set.BitsAllocated = frame.dtype.itemsize * 8
    data_set.BitsStored = facts.bits_stored
    data_set.HighBit = facts.bits_stored - 1
    data_set.PixelRepresentation = 0
    if encoder.encode is None:
        pixels = frame.tobytes()
        data_set.add_new(0x7FE00010, "OW", pixels + b"\0" * (len(pixels) % 2))
        return
    coded = bytes(encoder.encode(frame, bitspersample=facts.bits_stored))
    data_set.add_new(0x7FE00010, "OB", encapsulate([coded]))
    data_set["PixelData"].is_undefined_length = True
