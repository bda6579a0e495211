"""Writes an archive of phantoms: visits of invented patients, their films, labels.csv, and faults on request.

    out/study-5f0c.../IM0001[.dcm] ... and, last, out/labels.csv

What the visits show is a ``Phantom``. Each visit depends on the seed, its index and the size alone: a larger
archive begins with the smaller one, and the same request gives the same bytes. Train and test never share a
patient.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.datasets.archive import Label, Value, check_syntax, each, prepare_folder, syntax_of, write_labels
from engine.datasets.phantom.faults import plant
from engine.dicom.write import Facts, write_instance
from engine.errors import UsageError

SMALLEST_SIZE, LARGEST_SIZE = 64, 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """One film of a visit: its file name, stored values [H, W], header, and columns of labels.csv."""

    file: str
    stored_HW: NDArray[np.uint16]
    facts: Facts
    values: dict[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """What an archive shows. Plain functions of a module, since other processes call them."""

    plan_visit: Callable[[int, int], Any]
    """Seed and index -> who comes; the visit has a ``patient``, an integer."""
    expose: Callable[[Any, int, int], list[Exposure]]
    """Visit, seed and size -> its films, all of one study."""
    labels: tuple[str, ...]
    """Columns of labels.csv that stand before ``split``; others follow it."""
    split: Callable[[Any], str] | None = None
    """The split of a visit; None: one patient in five is for the test, by a hash of the name."""


def write_archive(  # noqa: PLR0913  these are the options of `osteoray phantom`
    phantom: Phantom,
    out: Path,
    *,
    count: int,
    seed: int = 0,
    size: int = 512,
    syntax: str = "mixed",
    faults: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Write the films of ``count`` visits, ``size`` rows each, and labels.csv; ``faults`` come on top.

    Returns:
        How many ``visits``, ``instances``, ``patients``, ``train``, ``test`` (instances) and ``faults``.

    Raises:
        UsageError: ``out`` is not empty, or a number is out of range.
        UnknownNameError: ``syntax`` is neither "mixed" nor in ENCODERS.
    """
    check_syntax(syntax)
    _check_numbers(count=count, seed=seed, size=size)
    prepare_folder(out)
    write_one = functools.partial(_write, phantom, out, seed, size, syntax)
    labels = [label for films in each(write_one, range(count), on_progress=on_progress) for label in films]
    number_of_faults = len(plant(out, seed)) if faults else 0
    write_labels(out, labels, phantom.labels)
    splits = Counter(label.split for label in labels)
    return {
        "visits": count,
        "instances": len(labels),
        "patients": len({phantom.plan_visit(seed, index).patient for index in range(count)}),
        "train": splits["train"],
        "test": splits["test"],
        "faults": number_of_faults,
    }


def split_of(patient_id: str) -> str:
    """One patient in five, by a hash of the name, is held out."""
    return "test" if hashlib.sha256(patient_id.encode()).digest()[0] % 5 == 0 else "train"


def _check_numbers(*, count: int, seed: int, size: int) -> None:
    if count < 1:
        raise UsageError(f"count is {count}: at least one instance is needed")
    if seed < 0:
        raise UsageError(f"seed is {seed}: it cannot be negative")
    if not SMALLEST_SIZE <= size <= LARGEST_SIZE:
        raise UsageError(f"size is {size}: it goes from {SMALLEST_SIZE} to {LARGEST_SIZE} rows")


def _write(phantom: Phantom, out: Path, seed: int, size: int, syntax: str, index: int) -> list[Label]:
    visit = phantom.plan_visit(seed, index)
    films = phantom.expose(visit, seed, size)
    split = phantom.split(visit) if phantom.split else split_of(films[0].facts.patient_id)
    digest = hashlib.sha256(films[0].facts.study_instance_uid.encode()).hexdigest()
    folder = out / f"study-{digest[:12]}"
    folder.mkdir()
    for film in films:
        write_instance(folder / film.file, film.stored_HW, film.facts, syntax=syntax_of(index, syntax))
    return [Label(film.facts.sop_instance_uid, split, film.values) for film in films]
