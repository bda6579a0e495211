"""The layout of knees: every column, and rows that cannot be used."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from engine.datasets.convert import convert
from engine.errors import UsageError
from engine.tasks.ages.layouts import LAYOUTS

KNEE = LAYOUTS["knee"]
COLUMNS = "uid,path,sex,chron_months,bone_months,pseudo_mean,pseudo_sd,patient,laterality,split"


def folder(root: Path, *rows: str, columns: str = COLUMNS) -> Path:
    root.mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.full((20, 16), 7 if name == "a" else 9, np.uint8)).save(root / f"{name}.png")
    (root / "knees.csv").write_text("\ufeff" + "\n".join([columns, *rows]) + "\n", encoding="utf-8")
    return root


def rows_of(archive: Path) -> list[dict[str, str]]:
    with (archive / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_column_reaches_the_header_or_the_label_table(tmp_path: Path) -> None:
    source = folder(
        tmp_path / "in",
        "1.2.3,a.png,M,130.4,120,118.5,2.25,p1,left,train",
        "k2,b.png,female,,,90,,p2,,test",
    )
    counts = convert(KNEE, source, tmp_path / "out")
    assert (counts["written"], counts["skipped"], counts["train"], counts["test"]) == (2, 0, 1, 1)
    first, second = rows_of(tmp_path / "out")
    assert (first["sop_instance_uid"], first["bone_age_months"]) == ("1.2.3", "120")
    assert (first["pseudo_mean_months"], first["pseudo_sd_months"]) == ("118.5", "2.25")
    assert (second["bone_age_months"], second["pseudo_mean_months"]) == ("", "90")
    assert second["pseudo_sd_months"] == ""
    data = {str(d.PatientID): d for d in map(pydicom.dcmread, (tmp_path / "out").rglob("*.dcm"))}
    assert (data["knee-p1"].PatientAge, data["knee-p1"].PatientSex) == ("130M", "M")
    assert (data["knee-p1"].BodyPartExamined, data["knee-p1"].ImageLaterality) == ("KNEE", "L")
    assert data["knee-p1"].pixel_array.max() == 7
    assert "PatientAge" not in data["knee-p2"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("k,a.png,M,130,,,,p,,", "no_label"),
        ("k,a.png,X,130,120,,,p,,", "no_label"),
        ("k,a.png,M,130,many,,,p,,", "no_label"),
        ("k,a.png,M,130,nan,,,p,,", "no_label"),
        ("k,a.png,M,130,120,,,p,,later", "no_label"),
        ("k/../x,a.png,M,130,120,,,p,,", "no_label"),
        ("k,../outside.png,M,130,120,,,p,,", "unreadable"),
        ("k,absent.png,M,130,120,,,p,,", "unreadable"),
    ],
)
def test_a_row_that_cannot_be_used_is_skipped_with_its_reason(tmp_path: Path, row: str, reason: str) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "outside.png")
    source = folder(tmp_path / "in", "ok,a.png,M,130,120,,,p1,,", row)
    counts = convert(KNEE, source, tmp_path / "out")
    assert (counts["written"], counts["skipped"]) == (1, 1)
    if reason == "no_label":
        assert counts["skipped_reasons"] == {"no_label": 1}


def test_a_second_row_of_a_film_is_skipped(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", "k,a.png,M,130,120,,,p1,,", "k,b.png,M,130,120,,,p1,,")
    assert convert(KNEE, source, tmp_path / "out")["skipped"] == 1


def test_what_is_no_knee_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no column chron_months"):
        convert(KNEE, folder(tmp_path / "in", columns="uid,path,sex,patient"), tmp_path / "out")
    (tmp_path / "in" / "other.csv").write_text("uid\n")
    with pytest.raises(UsageError, match="2 CSV files"):
        convert(KNEE, tmp_path / "in", tmp_path / "out")
