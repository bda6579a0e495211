"""Images per second per core, file to 512 x 512: ours against what people use, on the same files in one run.

    python -m benchmarks.ingest make ARCHIVE [--count 2000] [--distinct 200]
    python -m benchmarks.ingest measure ARCHIVE --plain-python PATH [--rounds 10] [--size 512]

``make`` writes phantom radiographs of three sizes (12 bits, 1500 to 2500 rows), uncompressed, JPEG-LS, JPEG
lossless and JPEG 2000 in equal parts; beyond ``--distinct`` files the rest are hard links to them.

``measure`` gives each reader one process with one thread and lets them take turns over the same slices of
files, so that a drift of the machine's speed meets all. Ours is there twice: ``ours`` is all that ``ingest``
does with a file (checks, SHA-256, header columns, percentiles as well), ``image`` what the others do, too:
read, decode and resize, with the window. Last line JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from engine.datasets.phantom.hand import expose
from engine.dicom.header import TAGS
from engine.dicom.parse import Limits, parse
from engine.dicom.pixels import read_frame
from engine.dicom.write import ENCODERS, Facts, uid_from, write_instance
from engine.imaging.preprocess import View, apply_to_frame, fitted_HW
from engine.ingest.instance import InputRule
from engine.ingest.malloc import FRAMES, keep_freed_memory
from engine.ingest.sample import Reading, samples_of
from engine.tasks.hand_age import PROJECTION_SOP_CLASSES

SYNTAXES = ("explicit", "jpeg-ls", "jpeg-lossless", "jpeg-2000")
ROWS = (1500, 2010, 2500)
GRAIN = 12.0
"""sd of the detector noise, in stored values of 12 bits."""

Reader = Callable[[list[Path]], list[float]]


def make(archive: Path, *, count: int, distinct: int) -> None:
    """Write ``distinct`` files and link them until there are ``count``, by syntax in equal parts."""
    per_syntax, kinds = count // len(SYNTAXES), distinct // len(SYNTAXES)
    for place in range(kinds):
        rng = np.random.default_rng(place)
        film = expose(24.0 + 180.0 * place / kinds, "MF"[place % 2], rng, ROWS[place % len(ROWS)] // 2)
        rows, columns = (2 * side for side in film.stored_HW.shape)
        large = cv2.resize(film.stored_HW, (columns, rows), interpolation=cv2.INTER_CUBIC)
        noisy = np.clip(large + rng.normal(0.0, GRAIN, large.shape), 0, 4095).astype(np.uint16)
        for syntax in SYNTAXES:
            folder = archive / syntax
            folder.mkdir(parents=True, exist_ok=True)
            first = folder / f"{place:05d}.dcm"
            write_instance(first, noisy, _facts(syntax, place), syntax=syntax)
            for copy in range(place + kinds, per_syntax, kinds):
                os.link(first, folder / f"{copy:05d}.dcm")


def _facts(syntax: str, place: int) -> Facts:
    name = ("benchmark", syntax, str(place))
    return Facts(
        sop_instance_uid=uid_from(*name, "instance"),
        study_instance_uid=uid_from(*name, "study"),
        series_instance_uid=uid_from(*name, "series"),
        patient_id=f"benchmark-{place}",
    )


def _all_of_ingest(data: bytes, view: View) -> None:
    rule = InputRule(sop_classes=PROJECTION_SOP_CLASSES, view=view)
    samples_of(data, Reading(source="", rules=(rule,), salt=b"benchmark"))


def _image_alone(data: bytes, view: View) -> None:
    limits = Limits()
    data_set = parse(data, TAGS, limits)
    size_HW = (int(data_set.header.Rows), int(data_set.header.Columns))
    frame = read_frame(data_set, limits, least_HW=fitted_HW(view, size_HW))
    apply_to_frame(frame, replace(view, steps=()))


OURS: dict[str, Callable[[bytes, View], None]] = {"ours": _all_of_ingest, "image": _image_alone}


def read_ours(name: str, size: int) -> None:
    """The child process of a reader of ours: paths in, seconds out; memory is kept as ``ingest`` keeps it."""
    keep_freed_memory(FRAMES)
    view = View(size_HW=(size, size))
    for line in sys.stdin:
        started = time.perf_counter()
        OURS[name](Path(line.rstrip("\n")).read_bytes(), view)
        print(f"{time.perf_counter() - started:.6f}", flush=True)


def reader(name: str, command: list[str | Path]) -> Reader:
    """A reader in a child process; a file that it cannot read stops us."""
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    requests, answers = child.stdin, child.stdout
    assert requests is not None
    assert answers is not None

    def read(paths: list[Path]) -> list[float]:
        seconds = []
        for path in paths:
            requests.write(f"{path}\n")
            requests.flush()
            answer = answers.readline()
            if not answer or answer.startswith("failed"):
                sys.exit(f"{name} could not read {path}: {answer}")
            seconds.append(float(answer))
        return seconds

    return read


def measure(archive: Path, python: Path, *, rounds: int, size: int) -> dict[str, object]:
    """Seconds by reader and syntax, as images per second and as ratios to the plain readers."""
    plain, here = Path(__file__).with_name("plain_readers.py"), [sys.executable, "-m", "benchmarks.ingest"]
    readers = {
        **{name: reader(name, [*here, "read", name, str(size)]) for name in OURS},
        "pydicom": reader("pydicom", [python, plain, "pydicom", str(size)]),
        "monai": reader("monai", [python, plain, "monai", str(size)]),
    }
    files = {syntax: sorted((archive / syntax).iterdir()) for syntax in SYNTAXES}
    for read in readers.values():  # imports and first calls
        read([paths[0] for paths in files.values()])
    spent: dict[str, dict[str, float]] = {name: defaultdict(float) for name in readers}
    for turn in range(rounds):
        for syntax, paths in files.items():
            for name, read in readers.items():
                spent[name][syntax] += sum(read(paths[turn::rounds]))
        print(f"round {turn + 1}/{rounds}", file=sys.stderr, flush=True)
    return _result({syntax: len(paths) for syntax, paths in files.items()}, spent, size)


def _result(counts: dict[str, int], spent: dict[str, dict[str, float]], size: int) -> dict[str, object]:
    total = sum(counts.values())
    speeds = {
        name: {
            "mixed": round(total / sum(seconds.values()), 1),
            **{syntax: round(counts[syntax] / seconds[syntax], 1) for syntax in counts},
        }
        for name, seconds in spent.items()
    }
    ratios = {
        f"{own}_over_{name}": {
            "mixed": round(sum(seconds.values()) / sum(spent[own].values()), 2),
            **{syntax: round(seconds[syntax] / spent[own][syntax], 2) for syntax in counts},
        }
        for own in OURS
        for name, seconds in spent.items()
        if name not in OURS
    }
    return {"files": total, "size": size, "images_per_second_per_core": speeds, **ratios}


def main() -> None:
    """Make or measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("make")
    making.add_argument("archive", type=Path)
    making.add_argument("--count", type=int, default=2000)
    making.add_argument("--distinct", type=int, default=200)
    measuring = verbs.add_parser("measure")
    measuring.add_argument("archive", type=Path)
    measuring.add_argument("--plain-python", type=Path, required=True)
    measuring.add_argument("--rounds", type=int, default=10)
    measuring.add_argument("--size", type=int, default=512)
    reading = verbs.add_parser("read", help="one of our readers, as `measure` starts it")
    reading.add_argument("name", choices=list(OURS))
    reading.add_argument("size", type=int)
    options = parser.parse_args()
    assert set(SYNTAXES) <= set(ENCODERS)
    if options.verb == "make":
        make(options.archive, count=options.count, distinct=options.distinct)
    elif options.verb == "read":
        read_ours(options.name, options.size)
    else:
        result = measure(options.archive, options.plain_python, rounds=options.rounds, size=options.size)
        print(json.dumps(result))


if __name__ == "__main__":
    main()
