"""An archive of phantom children: a knee of each visit, and the hand of the same child on the same day.

    out/study-5f0c.../IM0001 (knee), IM0002 (hand) ... and, last, out/labels.csv

Bone age is that of the child: one for both films. Chronological age, in the header, departs from it, so that
a model which looks at the chronological age alone is wrong where it matters. labels.csv also says which
films are a pair. Visit ``index`` depends on the seed, its index and the size alone; each fifth visit is the
second one of a child; train and test never share a child.
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
from engine.datasets.phantom.archive import check_numbers, split_of
from engine.datasets.phantom.faults import write_faults
from engine.datasets.phantom.hand import Film, expose
from engine.datasets.phantom.knee import SIDES, expose_knee
from engine.dicom.write import Facts, uid_from, write_instance

PARTS = ("KNEE", "HAND")
_BLOCK, _CHILDREN_A_BLOCK = 5, 4
_CHILD, _PICTURE = 11, 12  # streams of random numbers that never meet
_COMMON_SD_MONTHS, _RARE_SD_MONTHS, _RARE_SHARE = 9.0, 22.0, 0.2
_STEADY_FROM_MONTHS = 60.0
"""Below this age a deviation is smaller in proportion: nobody of two years is two years behind."""
_LEAST_MONTHS, _MOST_MONTHS = 6, 228


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildVisit:
    """One pair of films to be. Ages in months; ``side`` is that of the knee."""

    index: int
    child: int
    sex: str
    side: str
    bone_age_months: float
    chronological_age_months: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    out: Path
    seed: int
    size: int
    syntax: str


def write_knee_archive(  # noqa: PLR0913  these are the options of `osteoray phantom`
    out: Path,
    *,
    count: int,
    seed: int = 0,
    size: int = 512,
    syntax: str = "mixed",
    faults: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Write ``count`` knees, as many paired hands, and labels.csv; ``faults`` come on top of them.

    Returns:
        How many ``instances``, ``knees``, ``patients``, ``train``, ``test`` (instances) and ``faults``.

    Raises:
        UsageError: ``out`` is not empty, or a number is out of range.
        UnknownNameError: ``syntax`` is neither "mixed" nor in ENCODERS.
    """
    check_syntax(syntax)
    check_numbers(count=count, seed=seed, size=size)
    prepare_folder(out)
    write_one = functools.partial(_write, _Request(out=out, seed=seed, size=size, syntax=syntax))
    labels = [label for pair in each(write_one, range(count), on_progress=on_progress) for label in pair]
    number_of_faults = write_faults(out, seed) if faults else 0
    write_labels(out, labels)
    splits = Counter(label.split for label in labels)
    return {
        "instances": len(labels),
        "knees": count,
        "patients": len({plan_child_visit(seed, index).child for index in range(count)}),
        "train": splits["train"],
        "test": splits["test"],
        "faults": number_of_faults,
    }


def plan_child_visit(seed: int, index: int) -> ChildVisit:
    """Who pair ``index`` shows. Bone ages are spread evenly over 12..216 months.

    Bone less chronological age is a child's own: four children in five have a sd of 9 months, the fifth of 22
    (12.7 over all, with heavy tails), less before the age of five.
    """
    block, place = divmod(index, _BLOCK)
    again = place == _BLOCK - 1
    child = block * _CHILDREN_A_BLOCK + (0 if again else place)
    own = np.random.default_rng([seed, _CHILD, child])
    low, high = maturity.AGE_RANGE_MONTHS
    sex = maturity.SEXES[int(own.integers(2))]
    bone_age = float(own.uniform(low, high))
    sd = _RARE_SD_MONTHS if own.random() < _RARE_SHARE else _COMMON_SD_MONTHS
    ahead, later = float(own.normal(0.0, sd)), float(own.uniform(12.0, 30.0))
    if again:
        bone_age += later if bone_age + later <= high else -later
    ahead *= min(1.0, bone_age / _STEADY_FROM_MONTHS)
    return ChildVisit(
        index=index,
        child=child,
        sex=sex,
        side=SIDES[int(np.random.default_rng([seed, _CHILD, child, index]).integers(2))],
        bone_age_months=round(bone_age, 1),
        chronological_age_months=min(_MOST_MONTHS, max(_LEAST_MONTHS, round(bone_age - ahead))),
    )


def _write(request: _Request, index: int) -> tuple[Label, Label]:
    visit = plan_child_visit(request.seed, index)
    rng = np.random.default_rng([request.seed, _PICTURE, index])
    films = (
        expose_knee(visit.bone_age_months, visit.sex, visit.side, rng, request.size),
        expose(visit.bone_age_months, visit.sex, rng, request.size),
    )
    facts = [_facts(request, visit, part, film) for part, film in zip(PARTS, films, strict=True)]
    digest = hashlib.sha256(facts[0].study_instance_uid.encode()).hexdigest()
    folder = request.out / f"study-{digest[:12]}"
    folder.mkdir()
    for number, (film, told) in enumerate(zip(films, facts, strict=True), start=1):
        write_instance(
            folder / f"IM{number:04d}", film.stored_HW, told, syntax=syntax_of(index, request.syntax)
        )
    knee, hand = facts
    return _label(visit, knee, hand), _label(visit, hand, knee)


def _label(visit: ChildVisit, facts: Facts, other: Facts) -> Label:
    return Label(
        sop_instance_uid=facts.sop_instance_uid,
        bone_age_months=visit.bone_age_months,
        split=split_of(facts.patient_id),
        more={
            "chronological_age_months": str(visit.chronological_age_months),
            "body_part": facts.body_part_examined or "",
            "paired_sop_instance_uid": other.sop_instance_uid,
        },
    )


def _facts(request: _Request, visit: ChildVisit, part: str, film: Film) -> Facts:
    name = ("phantom", "knee-age", str(request.seed), str(visit.index), str(request.size))
    spacing = round(film.spacing_mm, 6)
    return Facts(
        sop_instance_uid=uid_from(*name, part, "instance"),
        study_instance_uid=uid_from(*name, "study"),
        series_instance_uid=uid_from(*name, part, "series"),
        patient_id=f"phantom-knee-{request.seed}-{visit.child:06d}",
        patient_sex=visit.sex,
        patient_age=f"{visit.chronological_age_months:03d}M",
        manufacturer="osteoray phantom",
        body_part_examined=part,
        view_position="AP" if part == "KNEE" else "PA",
        image_laterality=visit.side if part == "KNEE" else "L",
        bits_stored=12,
        imager_pixel_spacing_mm=(spacing, spacing),
    )
