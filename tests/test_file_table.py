"""Every file others collected, and where it has to end under a rule that takes all classes of images.

``file_table.csv`` was made from what an independent reader says of each file, and from its maker's notes; its
column ``why`` says what decided. pydicom brings its files, those of ``shared/data`` lie beside a checkout.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pydicom.data
import pytest

from engine.errors import EngineError, FilteredError
from engine.instance import InputRule
from engine.isolation import Isolation, Reader
from engine.preprocess import View
from engine.reading import Reading
from tests.sop_classes import IMAGES

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FOLDERS = {
    "pydicom": Path(str(pydicom.data.__file__)).parent / "test_files",
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
    reading = Reading(source=str(FOLDERS[name]), rule=RULE, salt=b"s" * 32)
    paths = [path for path in present(name) if path in table]
    reader = Reader(Isolation())
    found = {}
    for path, outcome in zip(paths, reader.read(reading, paths), strict=True):
        if isinstance(outcome, EngineError):
            found[path] = ("filtered" if isinstance(outcome, FilteredError) else "quarantine", outcome.reason)
        else:
            found[path] = ("samples", "")
    reader.close()
    assert found == {path: table[path] for path in paths}
    assert len(found) > 0.9 * len(table)  # another release of pydicom may have moved a few of its files


def test_the_table_knows_every_file_that_is_here() -> None:
    for name in ("dicom_matrix", "dicom_malformed"):
        if FOLDERS[name].is_dir():
            assert set(present(name)) == set(expected(name))
