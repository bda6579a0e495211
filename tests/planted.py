"""Bad files of every kind among sound ones, and where all end: ``python -m tests.planted --count 10000``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine import sources
from engine.dicom.write import Facts, uid_from, write_instance
from engine.instance import InputRule
from engine.phantom.faults import plant
from engine.preprocess import View
from engine.shard import ReadSpec, read_shard
from engine.tasks.hand_age import HAND_AGE

RULE = InputRule(sop_classes=HAND_AGE.rule.sop_classes, view=View(size_HW=(32, 32)))
_SYNTAXES = ("explicit", "implicit", "jpeg-lossless", "jpeg-ls", "jpeg-2000")
_SHARD_SIZE = 500


@dataclass(frozen=True, slots=True)
class Books:
    """Where files ended: path -> (table, reason), the reason of a sample being empty."""

    planted: dict[str, tuple[str, str]]
    found: dict[str, tuple[str, str]]


def books(root: Path, count: int, share: float = 0.05) -> Books:
    """Write ``count`` files, ``share`` of them bad, and read them all."""
    num_bad = round(count * share)
    expected = {path: ("samples", "") for path in _write_sound(root, count - num_bad)}
    for bad in plant(root, 0, num_bad):
        expected[str(bad.path.relative_to(root))] = (bad.table, bad.reason)
    return Books(expected, _read(root))


def _write_sound(root: Path, count: int) -> list[str]:
    """Twenty small films in all syntaxes; what goes beyond is a link to the bytes of one of them."""
    rng = np.random.default_rng(0)
    paths: list[Path] = []
    for number in range(count):
        path = root / f"{number % 97:02d}" / f"IM{number:06d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < 4 * len(_SYNTAXES):
            facts = Facts(
                sop_instance_uid=uid_from("planted", str(number)), study_instance_uid="1.2.3",
                series_instance_uid="1.2.3.4", patient_id="p",
            )  # fmt: skip
            stored_HW = rng.integers(0, 4096, (48, 40), dtype=np.uint16)
            write_instance(path, stored_HW, facts, syntax=_SYNTAXES[number % len(_SYNTAXES)])
        else:
            os.link(paths[number % (4 * len(_SYNTAXES))], path)
        paths.append(path)
    return [str(path.relative_to(root)) for path in paths]


def _read(root: Path) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    spec = ReadSpec(source=str(root), folder=root, rule=RULE, salt=b"s" * 32)
    rows = sources.plan(str(root), _SHARD_SIZE).to_pylist()
    for start in range(0, len(rows), _SHARD_SIZE):
        for name, table in read_shard(rows[start : start + _SHARD_SIZE], spec).items():
            reasons = table["reason"].to_pylist() if name != "samples" else [""] * table.num_rows
            found |= {
                path: (name, reason) for path, reason in zip(table["path"].to_pylist(), reasons, strict=True)
            }
    return found


def main(words: Sequence[str]) -> int:
    """Run, print, and end with 1 where a file ended elsewhere than planted."""
    say = sys.stdout.write
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    with tempfile.TemporaryDirectory() as folder:
        ended = books(Path(folder), parser.parse_args(words).count)
    for (table, reason), count in sorted(Counter(ended.found.values()).items()):
        say(f"{count:8d}  {table}  {reason}\n")
    wrong = {path for path, end in ended.planted.items() if ended.found.get(path) != end}
    for path in sorted(wrong):
        say(f"{path}: planted {ended.planted[path]}, found {ended.found.get(path)}\n")
    say(f"{len(ended.planted)} files, {len(ended.found)} rows, {len(wrong)} wrong\n")
    return 1 if wrong or len(ended.found) != len(ended.planted) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
