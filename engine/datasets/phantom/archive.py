"""An archive of phantoms: who is in it, what their headers say, and the faults on request.

    out/study-5f0c.../IM0001[.dcm] ... and, last, out/labels.csv

Instance ``index`` depends on the seed, its index and the size alone: a larger archive begins with the smaller
one, and the same request gives the same bytes. Each run of five instances is four patients, of whom the first
came twice, with one to two and a half years between the visits; train and test never share a patient.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.datasets.archive import Label, check_syntax, each, prepare_folder, syntax_of, write_labels
from engine.datasets.phantom import maturity
from engine.datasets.phantom.faults import write_faults
from engine.datasets.phantom.hand import FULL_SCALE, Film, carpal_box, expose
from engine.dicom.write import Facts, uid_from, write_instance
from engine.errors import UsageError
from engine.imaging.boxes import Box

SMALLEST_SIZE, LARGEST_SIZE = 64, 4096
_BLOCK, _PATIENTS_A_BLOCK = 5, 4
_PERSON, _PICTURE = 1, 2  # streams of random numbers that never meet
_INVERTED_SHARE, _WINDOWED_SHARE = 0.15, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One instance to be: who, and how old. Ages in months."""

    index: int
    patient: int
    sex: str
    bone_age_months: float
    chronological_age_months: int


def write_archive(  # noqa: PLR0913  these are the options of `osteoray phantom`
    out: Path,
    *,
    count: int,
    seed: int = 0,
    size: int = 512,
    syntax: str = "mixed",
    faults: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Write ``count`` hand radiographs of ``size`` rows, and labels.csv; ``faults`` come on top of them.

    Returns:
        How many ``instances``, ``patients``, ``train``, ``test`` (instances) and ``faults`` (files).

    Raises:
        UsageError: ``out`` is not empty, or a number is out of range.
        UnknownNameError: ``syntax`` is neither "mixed" nor in ENCODERS.
    """
    check_syntax(syntax)
    check_numbers(count=count, seed=seed, size=size)
    prepare_folder(out)
    write_one = functools.partial(_write, _Request(out=out, seed=seed, size=size, syntax=syntax))
    labels = list(each(write_one, range(count), on_progress=on_progress))
    number_of_faults = write_faults(out, seed) if faults else 0
    write_labels(out, labels)
    splits = Counter(label.split for label in labels)
    return {
        "instances": count,
        "patients": len({plan_visit(seed, index).patient for index in range(count)}),
        "train": splits["train"],
        "test": splits["test"],
        "faults": number_of_faults,
    }


def check_numbers(*, count: int, seed: int, size: int) -> None:
    """Raise UsageError where one of the numbers of an archive is out of range."""
    if count < 1:
        raise UsageError(f"count is {count}: at least one instance is needed")
    if seed < 0:
        raise UsageError(f"seed is {seed}: it cannot be negative")
    if not SMALLEST_SIZE <= size <= LARGEST_SIZE:
        raise UsageError(f"size is {size}: it goes from {SMALLEST_SIZE} to {LARGEST_SIZE} rows")


def plan_visit(seed: int, index: int) -> Visit:
    """Who instance ``index`` shows. Bone ages are spread evenly over 12..216 months.

    Chronological age is bone age less a personal deviation (sd 9 months) and one of the day (sd 4).
    """
    block, place = divmod(index, _BLOCK)
    again = place == _BLOCK - 1
    patient = block * _PATIENTS_A_BLOCK + (0 if again else place)
    person = np.random.default_rng([seed, _PERSON, patient])
    low, high = maturity.AGE_RANGE_MONTHS
    sex = maturity.SEXES[int(person.integers(2))]
    bone_age = float(person.uniform(low, high))
    ahead = float(person.normal(0.0, 9.0))
    later = float(person.uniform(12.0, 30.0))
    if again:
        bone_age += later if bone_age + later <= high else -later
    of_the_day = float(np.random.default_rng([seed, _PERSON, patient, index]).normal(0.0, 4.0))
    bone_age = round(bone_age, 1)
    return Visit(
        index=index,
        patient=patient,
        sex=sex,
        bone_age_months=bone_age,
        chronological_age_months=max(1, round(bone_age - ahead - of_the_day)),
    )


def true_carpals(*, count: int, seed: int = 0, size: int = 512) -> dict[str, Box]:
    """The carpal region of each instance of such an archive, by SOP instance UID, in original pixels."""
    boxes = {}
    for visit in (plan_visit(seed, index) for index in range(count)):
        rng = np.random.default_rng([seed, _PICTURE, visit.index])
        box = carpal_box(visit.bone_age_months, visit.sex, rng, size)
        boxes[uid_from(*_name(seed, visit.index, size), "instance")] = box
    return boxes


def split_of(patient_id: str) -> str:
    """One patient in five, by a hash of the name, is held out."""
    return "test" if hashlib.sha256(patient_id.encode()).digest()[0] % 5 == 0 else "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    out: Path
    seed: int
    size: int
    syntax: str


def _write(request: _Request, index: int) -> Label:
    visit = plan_visit(request.seed, index)
    rng = np.random.default_rng([request.seed, _PICTURE, index])
    film = expose(visit.bone_age_months, visit.sex, rng, request.size)
    facts = _facts(request, visit, film, rng)
    stored_HW = film.stored_HW
    if facts.photometric_interpretation == "MONOCHROME1":
        stored_HW = (FULL_SCALE - stored_HW).astype(np.uint16)
    digest = hashlib.sha256(facts.study_instance_uid.encode()).hexdigest()
    path = request.out / f"study-{digest[:12]}" / ("IM0001.dcm" if index % 3 == 0 else "IM0001")
    path.parent.mkdir()
    write_instance(path, stored_HW, facts, syntax=syntax_of(index, request.syntax))
    return Label(
        sop_instance_uid=facts.sop_instance_uid,
        bone_age_months=visit.bone_age_months,
        split=split_of(facts.patient_id),
    )


def _name(seed: int, index: int, size: int) -> tuple[str, ...]:
    return ("phantom", "hand-age", str(seed), str(index), str(size))


def _facts(request: _Request, visit: Visit, film: Film, rng: np.random.Generator) -> Facts:
    name = _name(request.seed, visit.index, request.size)
    inverted = rng.random() < _INVERTED_SHARE
    low, high = np.percentile(film.stored_HW[::4, ::4], (2.0, 99.5)).tolist()
    center = FULL_SCALE - (low + high) / 2 if inverted else (low + high) / 2
    window = (round(center), max(1, round((high - low) * float(rng.uniform(0.9, 1.2)))))
    spacing = round(film.spacing_mm, 6)
    return Facts(
        sop_instance_uid=uid_from(*name, "instance"),
        study_instance_uid=uid_from(*name, "study"),
        series_instance_uid=uid_from(*name, "series"),
        patient_id=f"phantom-{request.seed}-{visit.patient:06d}",
        patient_sex=visit.sex,
        patient_age=f"{visit.chronological_age_months:03d}M",
        manufacturer="osteoray phantom",
        body_part_examined="HAND",
        view_position="PA",
        image_laterality="L",
        photometric_interpretation="MONOCHROME1" if inverted else "MONOCHROME2",
        bits_stored=12,
        imager_pixel_spacing_mm=(spacing, spacing),
        window_center_width=window if rng.random() < _WINDOWED_SHARE else None,
    )
