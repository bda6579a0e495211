"""Public data sets as DICOM archives: a layout is a function that lists what a folder holds.

    convert(rsna, folder, archive)   ->   archive/<nn>/<id>.dcm ... and, last, archive/labels.csv

A layout (such as ``engine.tasks.ages.layouts``) reads tables only; pixels are read here, in the same way for
every layout. A row that cannot be converted is skipped with its reason and counted: rows = written + skipped.

Which SOP class and modality. The sources are PNG files: the acquisition context that a DX or CR object must
carry is gone, and the pixels were converted on a workstation, so they are Secondary Captures (PS3.3 A.8) with
Conversion Type WSD. Modality then names the *source* equipment and is optional (PS3.3 C.8.6.1, SC Equipment).
It is "CR": "OT" would hide that these are projection radiographs, "DX" would promise a digital detector,
which nobody recorded, and hand films of those years were mostly taken on storage phosphor plates.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.datasets.archive import (
    Label,
    Listing,
    Planned,
    Skipped,
    check_syntax,
    each,
    prepare_folder,
    syntax_of,
    write_labels,
)
from engine.dicom.write import Stored, write_instance
from engine.errors import NotGrayscaleError, PixelDecodeError, SourceReadError, UsageError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Layout:
    """A public data set: what lists a folder of it, and the label columns that stand before ``split``."""

    listing: Callable[[Path], Listing]
    labels: tuple[str, ...]


def convert(
    layout: Layout,
    source: Path,
    out: Path,
    *,
    syntax: str = "explicit",
    limit: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the data set at ``source`` as a DICOM archive, and return its counts.

    ``limit`` takes the first rows only. The counts are ``rows``, ``written``, ``train``, ``test``,
    ``skipped``, and ``skipped_reasons`` (reason -> number).

    Raises:
        UsageError: ``source`` is not of this layout, or ``out`` is not empty.
        UnknownNameError: no such transfer syntax.
        MissingDependencyError: a table is a spreadsheet and openpyxl is absent.
    """
    check_syntax(syntax)
    if not source.is_dir():
        raise UsageError(f"{source} is not a folder")
    listing = layout.listing(source)[:limit]
    prepare_folder(out)
    jobs = [(planned, syntax_of(index, syntax)) for index, planned in enumerate(listing)]
    labels: list[Label] = []
    skipped: Counter[str] = Counter()
    for outcome in each(functools.partial(_write, out), jobs, on_progress=on_progress):
        if isinstance(outcome, Label):
            labels.append(outcome)
        else:
            skipped[outcome.reason] += 1
            log.warning("skipped %s (%s): %s", outcome.name, outcome.reason, outcome.message)
    write_labels(out, labels, layout.labels)
    splits = Counter(label.split for label in labels)
    return {
        "rows": len(listing),
        "written": len(labels),
        "train": splits["train"],
        "test": splits["test"],
        "skipped": skipped.total(),
        "skipped_reasons": dict(sorted(skipped.items())),
    }


def read_grey(path: Path) -> Stored:
    """The stored values of a PNG as [rows, columns], uint8 or uint16, nothing rescaled.

    A colour file whose channels are all equal is grey that was saved as colour: one channel is taken.

    Raises:
        SourceReadError: there is no such file.
        PixelDecodeError: the file is no readable image.
        NotGrayscaleError: the channels differ.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode.startswith("I;16"):
                return np.asarray(image).astype(np.uint16)
            if image.mode in {"L", "1"}:
                return np.asarray(image.convert("L"))
            image_HW3: NDArray[np.uint8] = np.asarray(image.convert("RGB"))
    except FileNotFoundError as error:
        raise SourceReadError(f"{path.name}: no such image") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PixelDecodeError(f"{path.name}: {error}") from error
    if (image_HW3 != image_HW3[..., :1]).any():
        raise NotGrayscaleError(f"{path.name}: colour channels differ")
    return image_HW3[..., 0]


def _write(out: Path, job: tuple[Planned | Skipped, str]) -> Label | Skipped:
    planned, syntax = job
    if isinstance(planned, Skipped):
        return planned
    try:
        stored_HW = read_grey(planned.image)
    except (SourceReadError, PixelDecodeError, NotGrayscaleError) as error:
        return Skipped(planned.name, error.reason, str(error))
    facts = dataclasses.replace(planned.facts, bits_stored=stored_HW.dtype.itemsize * 8)
    # A hundred folders at most: some file systems are slow with ten thousand files in one.
    path = out / planned.name[-2:] / f"{planned.name}.dcm"
    path.parent.mkdir(exist_ok=True)
    write_instance(path, stored_HW, facts, syntax=syntax)
    return Label(facts.sop_instance_uid, planned.split, planned.values)
