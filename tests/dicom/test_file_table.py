"""Every file others collected, and where it has to end under a rule that takes all classes of images.

``file_table.csv`` was made from what an independent reader says of each file, and from its maker's notes; its
column ``why`` says what decided. Where pixels are kept without loss, ``sha256_pixels`` digests the stored
values that pydicom found with pylibjpeg, pylibjpeg-openjpeg, pylibjpeg-libjpeg and pylibjpeg-rle, none of
which we use. pydicom and pydicom-data bring their files, those of ``shared/data`` lie beside a checkout.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
from numpy.typing import NDArray

from engine.dicom.header import TAGS, integer, num_frames
from engine.dicom.parse import Limits, parse
from engine.dicom.pixels import stored_values
from engine.errors import EngineError, FilteredError
from engine.imaging.preprocess import View
from engine.ingest.decode_process import Isolation, Reader
from engine.ingest.instance import InputRule
from engine.ingest.sample import Reading
from tests.fixtures.sop_classes import IMAGES

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
_STORE = find_spec("data_store")  # the module of pydicom-data
FOLDERS = {
    "pydicom": Path(str(pydicom.data.__file__)).parent / "test_files",
    "pydicom-data": Path(str(_STORE and _STORE.origin)).parent / "data",
    "dicom_matrix": DATA / "dicom_matrix" / "files",
    "dicom_malformed": DATA / "dicom_malformed",
}
NOTES = {"manifest.csv", "README.txt"}
RULE = InputRule(sop_classes=IMAGES, view=View(size_HW=(32, 32)))


def rows() -> Iterator[dict[str, str]]:
    with Path(__file__).with_name("file_table.csv").open(encoding="utf-8") as stream:
        yield from csv.DictReader(stream)


def expected(name: str) -> dict[str, tuple[str, str]]:
    return {row["file"]: (row["table"], row["reason"]) for row in rows() if row["set"] == name}


def present(name: str) -> list[str]:
    root = FOLDERS[name]
    paths = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(str(path) for path in paths if path.name not in NOTES)


@pytest.mark.parametrize("name", FOLDERS)
def test_each_file_ends_as_the_table_says(name: str) -> None:
    if not FOLDERS[name].is_dir():
        pytest.skip(f"the folder of {name} is not beside the checkout")
    table = expected(name)
    reading = Reading(source=str(FOLDERS[name]), rules=(RULE,), salt=b"s" * 32)
    paths = [path for path in present(name) if path in table]
    reader = Reader(Isolation())
    found = {}
    for path, (outcome,) in zip(paths, reader.read(reading, paths), strict=True):
        if isinstance(outcome, EngineError):
            found[path] = ("filtered" if isinstance(outcome, FilteredError) else "quarantine", outcome.reason)
        else:
            found[path] = ("samples", "")
    reader.close()
    assert found == {path: table[path] for path in paths}
    assert len(found) > 0.9 * len(table)  # another release of pydicom may have moved a few of its files


def test_the_table_knows_every_file_that_is_here() -> None:
    for name in ("dicom_matrix", "dicom_malformed", "pydicom-data"):
        if FOLDERS[name].is_dir():
            assert set(present(name)) == set(expected(name))


def values_of(path: Path) -> NDArray[np.int64]:
    """Stored values of all frames, without sign and without the bits beyond BitsStored."""
    data_set = parse(path.read_bytes(), TAGS, Limits())
    frames = range(num_frames(data_set.header))
    stacked = np.stack([stored_values(data_set, Limits(), frame=number) for number in frames])
    return stacked.astype("<i8") & ((1 << integer(data_set.header, "BitsStored")) - 1)


@pytest.mark.parametrize("name", ["pydicom", "pydicom-data"])
def test_lossless_pixels_are_those_of_other_decoders(name: str) -> None:
    known = {row["file"]: row["sha256_pixels"] for row in rows() if row["set"] == name}
    paths = [path for path, digest in known.items() if digest and (FOLDERS[name] / path).is_file()]
    found = {
        path: hashlib.sha256(values_of(FOLDERS[name] / path).tobytes()).hexdigest()[:16] for path in paths
    }
    assert found == {path: known[path] for path in paths}
    assert len(found) > 55


UNCOMPRESSED_BY_OTHERS = [
    ("693_J2KI", "693_UNCI"), ("MR2_J2KI", "MR2_UNCI"), ("RG1_J2KI", "RG1_UNCI"), ("RG3_J2KI", "RG3_UNCI"),
    ("US1_J2KI", "US1_UNCI"), ("JPEG2000", "JPEG2000_UNC"), ("SC_rgb_gdcm_KY", "SC_rgb_gdcm2k_uncompressed"),
    ("SC_rgb_jpeg", "SC_rgb_jpeg_dcmd"), ("SC_jpeg_no_color_transform", "SC_rgb_jpeg_dcmd"),
    ("SC_jpeg_no_color_transform_2", "SC_rgb_jpeg_app14_dcmd"),
    ("SC_rgb_dcmtk_+eb+cr", "SC_rgb_dcmtk_ebcr_dcmd"), ("SC_rgb_dcmtk_+eb+cy+n1", "SC_rgb_dcmtk_ebcyn1_dcmd"),
    ("SC_rgb_dcmtk_+eb+cy+n2", "SC_rgb_dcmtk_ebcyn2_dcmd"),
    ("SC_rgb_dcmtk_+eb+cy+np", "SC_rgb_dcmtk_ebcynp_dcmd"),
    ("SC_rgb_dcmtk_+eb+cy+s2", "SC_rgb_dcmtk_ebcys2_dcmd"),
    ("SC_rgb_dcmtk_+eb+cy+s4", "SC_rgb_dcmtk_ebcys4_dcmd"),
]  # fmt: skip
"""Lossy files, and what their makers decoded from them: with GDCM, DCMTK or the reference software."""


@pytest.mark.parametrize(("lossy", "reference"), UNCOMPRESSED_BY_OTHERS)
def test_lossy_pixels_are_within_one_of_what_others_decoded(lossy: str, reference: str) -> None:
    def found(name: str) -> NDArray[Any]:
        places = (FOLDERS[folder] / f"{name}.dcm" for folder in ("pydicom", "pydicom-data"))
        return values_of(next(place for place in places if place.is_file()))

    assert np.abs(found(lossy) - found(reference)).max() <= 1
