"""Phantoms of an ankle: two bones, a gap that is narrower with each grade, and a box around it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.fixtures.dicom_fixture import image
from tests.unplanned_task.answer import GRADES

ROWS_COLUMNS = (100, 120)
_GAP_HEIGHTS = (18, 12, 7, 2)


def film(grade: int, seed: int) -> tuple[NDArray[np.uint16], tuple[int, int, int, int]]:
    """Stored values of 12 bits, and the box of the joint: left, top, right, bottom in pixels."""
    rng = np.random.default_rng(seed)
    height, width = ROWS_COLUMNS
    middle, left = int(rng.integers(40, 60)), int(rng.integers(25, 45))
    right, gap = left + 50, _GAP_HEIGHTS[grade]
    values = rng.normal(300, 40, ROWS_COLUMNS)
    values[8:-8, left:right] += 2200
    values[middle - gap // 2 : middle + gap - gap // 2, left:right] -= 1800
    return values.clip(0, 4095).astype(np.uint16), (left - 4, middle - 14, right + 4, middle + 14)


def write_archive(folder: Path, count: int) -> None:
    """``count`` films of as many patients below ``folder``, and beside it their tables.

    Every fourth has no box, every third no covariate.
    """
    labels, covariates = [], []
    for number in range(count):
        grade = number % GRADES
        stored_HW, box = film(grade, number)
        uid = f"1.2.826.0.1.99.{number + 1}"
        elements = {
            "SOPInstanceUID": f"{uid}.1.1", "SeriesInstanceUID": f"{uid}.1", "StudyInstanceUID": uid,
            "PatientID": f"ANKLE-{number}", "PatientName": "Doe^J", "PatientSex": "FM"[number % 2],
            "PatientAge": "045Y", "BodyPartExamined": "ANKLE", "StudyDate": "20200101", "StudyTime": "1200",
            "StudyID": "1", "SeriesNumber": 1, "InstanceNumber": 1,
        }  # fmt: skip
        path = folder / f"{number:03d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(stored_HW, **elements))
        split = "test" if number % 5 == 0 else "train"
        labels.append([f"{uid}.1.1", grade, *(box if number % 4 else [""] * 4), split])
        covariates.append([f"{uid}.1.1", "" if number % 3 == 0 else 3.0 + 6 * grade])
    sides = [f"joint_{side}" for side in ("left", "top", "right", "bottom")]
    _write(folder.parent / "labels.csv", ["sop_instance_uid", "grade", *sides, "split"], labels)
    _write(folder.parent / "covariates.csv", ["sop_instance_uid", "c_reactive_protein"], covariates)


def _write(path: Path, header: list[str], rows: list[list[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
