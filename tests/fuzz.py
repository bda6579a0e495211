"""Mutated real files through the reader: ``python -m tests.fuzz --count 200000``.

Each execution runs in the isolated child under the bounds of BOUNDS; only a sample or a typed error may come
out. Mutation ``number`` of a seed is always the same bytes, so a finding is made again by its number.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from engine.errors import DecoderTimeoutError, EngineError
from engine.instance import InputRule
from engine.isolation import Isolation, reader
from engine.preprocess import View
from engine.reading import Reading
from tests.sop_classes import IMAGES

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
BOUNDS = Isolation(deadline_s=2.0, memory_bytes=256 << 20)
BROKEN = frozenset({"decoder_crash", "decoder_timeout", "decoder_memory"})
RULE = InputRule(sop_classes=IMAGES, view=View(size_HW=(32, 32)))

_LARGEST_BYTES = 100_000
_HEADER_BYTES = 1500
_LENGTHS = (0, 1, 0x7F, 0xFF, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Finding:
    """One execution that broke the rules: which, and how."""

    number: int
    seed_name: str
    reason: str
    message: str


@cache
def seeds() -> tuple[tuple[str, bytes], ...]:
    """Small real files by name: pydicom's own, and those of shared/data where that is beside the checkout."""
    return tuple(
        (path.name, path.read_bytes())
        for path in sorted(seed_paths(), key=lambda path: (path.name, str(path)))
        if 132 < path.stat().st_size <= _LARGEST_BYTES
    )


def seed_paths() -> list[Path]:
    """Where the seeds lie."""
    import pydicom.data

    own = Path(str(pydicom.data.__file__)).parent / "test_files"
    folders = [own, DATA / "dicom_matrix" / "files", DATA / "dicom_malformed"]
    return [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in {".txt", ".csv", ".json", ".py", ".zip", ".gz", ".md"}
    ]


def mutated(number: int, seed: int = 0) -> tuple[str, bytes]:
    """Mutation ``number``: the name of the file it began with, and its bytes."""
    rng = random.Random(f"{seed}/{number}")
    name, data = rng.choice(seeds())
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if len(changed) > 1:
            rng.choice(MUTATIONS)(changed, rng)
    return name, bytes(changed)


def _place(data: bytearray, rng: random.Random) -> int:
    """Somewhere, as often in the header as in all the rest."""
    return rng.randrange(min(len(data), _HEADER_BYTES) if rng.random() < 0.5 else len(data))


def _bytes(data: bytearray, rng: random.Random) -> None:
    at = _place(data, rng)
    data[at : at + rng.randint(1, 8)] = rng.randbytes(rng.randint(1, 8))


def _bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 16)):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _length(data: bytearray, rng: random.Random) -> None:
    """A length, offset or size field becomes an awkward one, of two or four bytes in either order."""
    at, width = _place(data, rng), rng.choice((2, 4))
    value = rng.choice(_LENGTHS) & ((1 << 8 * width) - 1)
    data[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))


def _element(data: bytearray, rng: random.Random) -> None:
    """Rows, Columns, frames, bits and their like get another value, wherever they stand."""
    tag = rng.choice((0x0002, 0x0006, 0x0008, 0x0010, 0x0011, 0x0100, 0x0101, 0x0102, 0x0103, 0x1050, 0x1052))
    at = data.find(b"\x28\x00" + tag.to_bytes(2, "little"))
    if at >= 0:
        data[at + 8 : at + 10] = rng.choice((*_LENGTHS[:6], 2, 3, 8, 12, 16, 32)).to_bytes(2, "little")


def _fragment(data: bytearray, rng: random.Random) -> None:
    """An item of encapsulated pixels, or of a sequence, gets another length."""
    at = data.rfind(b"\xfe\xff\x00\xe0", 0, _place(data, rng) + 4)
    if at >= 0:
        data[at + 4 : at + 8] = rng.choice(_LENGTHS).to_bytes(4, "little")


def _pixels(data: bytearray, rng: random.Random) -> None:
    """Damage behind the pixel element's tag: code streams and their markers."""
    at = data.rfind(b"\xe0\x7f\x10\x00")
    if 0 <= at < len(data) - 1:
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(at, min(len(data), at + rng.choice((64, 1024, len(data)))))] = rng.randrange(
                256
            )


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[_place(data, rng) :]


def _drop(data: bytearray, rng: random.Random) -> None:
    at = _place(data, rng)
    del data[at : at + rng.choice((1, 2, 8, 100, 1000))]


def _double(data: bytearray, rng: random.Random) -> None:
    at = _place(data, rng)
    data[at:at] = data[at : at + rng.choice((1, 8, 100, 1000))]


def _splice(data: bytearray, rng: random.Random) -> None:
    """The rest of another file behind the start of this one."""
    other = rng.choice(seeds())[1]
    data[_place(data, rng) :] = other[rng.randrange(len(other)) :]


Mutation = Callable[[bytearray, random.Random], None]
MUTATIONS: tuple[Mutation, ...] = (
    _bytes, _bits, _bits, _length, _element, _fragment, _pixels, _pixels, _pixels, _cut, _drop, _double,
    _splice,
)  # fmt: skip


def run(numbers: Sequence[int], seed: int = 0, workers: int = 2) -> tuple[Counter[str], list[Finding]]:
    """How many executions ended in which way, and those that broke the rules."""
    ends: Counter[str] = Counter()
    findings: list[Finding] = []
    with ThreadPoolExecutor(workers) as pool:
        parts = [numbers[start::workers] for start in range(workers)]
        for number, name, reason, message in (
            end for ended in pool.map(lambda part: list(_executions(part, seed)), parts) for end in ended
        ):
            ends[reason] += 1
            if reason in BROKEN or "MemoryError" in message:
                findings.append(Finding(number, name, reason, message))
    return ends, findings


def _executions(numbers: Sequence[int], seed: int) -> Iterator[tuple[int, str, str, str]]:
    reading = Reading(source="", rule=RULE, salt=bytes(32))
    for number in numbers:
        name, data = mutated(number, seed)
        outcome = reader(BOUNDS).read_bytes(reading, data)
        if isinstance(outcome, DecoderTimeoutError):  # a machine that stands still is no finding: once more
            outcome = reader(BOUNDS).read_bytes(reading, data)
        if isinstance(outcome, EngineError):
            yield number, name, outcome.reason, str(outcome)
        else:
            yield number, name, "sample", ""


def main(words: Sequence[str]) -> int:
    """Run, print, and end with 1 where there was a finding."""
    say = sys.stdout.write
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args(words)
    ends, findings = run(range(asked.first, asked.first + asked.count), asked.seed, asked.workers)
    for reason, count in ends.most_common():
        say(f"{count:8d}  {reason}\n")
    for finding in findings:
        say(f"{finding}\n")
    say(f"{asked.count} executions over {len(seeds())} files, {len(findings)} findings\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
