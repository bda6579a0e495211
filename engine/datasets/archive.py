"""What every archive osteoray makes has in common: an empty folder, labels.csv, and one writer loop.

An archive is a folder of DICOM files with ``labels.csv`` in it, which joins truth to the files by SOP
instance UID. ``labels.csv`` is written last and at once: an archive without it was not finished.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from engine.dicom.write import ENCODERS, Facts
from engine.errors import UnknownNameError, UsageError

LABELS_FILE = "labels.csv"
MIXED = "mixed"
MIXED_SYNTAXES = ("explicit", "jpeg-ls", "jpeg-lossless", "jpeg-2000")
_SMALL = 64  # a process pool takes about a second to start: below this many items it never pays

Item = TypeVar("Item")
Result = TypeVar("Result")


Value = float | str | None
"""A cell of labels.csv; None is empty."""


@dataclass(frozen=True, slots=True)
class Label:
    """One row of labels.csv; ``split`` is "train", "test" (held out) or empty, ``values`` are by column."""

    sop_instance_uid: str
    split: str
    values: Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One instance to write: where its pixels are, what its header says, its split and truth by column."""

    name: str
    image: Path
    facts: Facts
    split: str
    values: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Skipped:
    """One row or image of the source that is not written, and why."""

    name: str
    reason: str
    message: str


Listing = list[Planned | Skipped]


def prepare_folder(out: Path) -> None:
    """Make ``out``, and refuse one that holds anything, so that two archives never mix.

    Raises:
        UsageError: ``out`` is a file or a folder with something in it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not empty: name another folder, or remove it first")
    out.mkdir(parents=True, exist_ok=True)


def check_syntax(syntax: str) -> None:
    """Raise UnknownNameError unless ``syntax`` is "mixed" or named in ENCODERS."""
    if syntax != MIXED and syntax not in ENCODERS:
        raise UnknownNameError("transfer syntax", syntax, [*ENCODERS, MIXED])


def syntax_of(index: int, syntax: str) -> str:
    """The transfer syntax of instance ``index``: "mixed" cycles over MIXED_SYNTAXES."""
    return MIXED_SYNTAXES[index % len(MIXED_SYNTAXES)] if syntax == MIXED else syntax


def write_labels(out: Path, labels: Iterable[Label], first: tuple[str, ...]) -> None:
    """Write ``out``/labels.csv in one step: either the whole table is there or none.

    The columns ``first`` stand before ``split``, all others after it.
    """
    rows = list(labels)
    more = [name for name in dict.fromkeys(name for row in rows for name in row.values) if name not in first]
    partial = out / f".{LABELS_FILE}.partial"
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("sop_instance_uid", *first, "split", *more))
        for row in rows:
            before, after = ([_cell(row.values.get(name)) for name in names] for names in (first, more))
            writer.writerow((row.sop_instance_uid, *before, row.split, *after))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(out / LABELS_FILE)


def _cell(value: Value) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:g}"


def each(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[Result]:
    """Yield ``work(item)`` in order, computed on all cores this process may use.

    ``work`` can be pickled and depends on its item alone, so the number of processes changes nothing but the
    time taken. ``on_progress`` is called with (done, total) after each item.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, max(1, len(items) // _SMALL))
    for done, result in enumerate(_results(work, items, workers), start=1):
        if on_progress:
            on_progress(done, len(items))
        yield result


def _results(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    if workers == 1:
        yield from map(work, items)
        return
    # Fresh interpreters: a fork of a process that runs threads (Ray, a progress line) may lock up.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(work, items, chunksize=16)
