"""Kill a verb with SIGKILL at random moments, run it again until it ends, and compare with an unbroken run.

    python -m benchmarks.kills --kills 20 --out FOLDER -- ingest ARCHIVE --task hand-age
    python -m benchmarks.kills --kills 20 --out FOLDER -- score ARCHIVE --model BUNDLE

Each time the verb's whole process group dies, at a moment of its own between its start and the time that an
unbroken run takes; Ray dies with it, or with ``--joined`` stays up, its workers perhaps still at work. When a
run comes to its end, all its rows are compared with those of the unbroken one (nothing lost, double or
unreadable, the same content), and the next kills meet a new folder.
Last line JSON; exit status 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.verb import finish, joined_ray, start
from engine.errors import EngineError
from engine.store import ledger, verification

_TABLES = tuple(ledger.COUNT_NAMES)
WRONG = ("double", "lost", "different", "unreadable")


def kill_once(words: list[str], out: Path, after_s: float) -> bool:
    """Start, wait, kill; False where it had ended before."""
    process = start(words, out)
    with suppress(subprocess.TimeoutExpired):
        process.wait(after_s)
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def rows(folder: Path) -> pl.DataFrame:
    """Every row of every table, images as digests, in the order of the plan."""
    frames = []
    for table in _TABLES:
        for path in ledger.tables_of(folder, table):
            frame = pl.read_parquet(path)
            extensions = [name for name, kind in frame.schema.items() if isinstance(kind, pl.BaseExtension)]
            plain = [pl.col(name).ext.storage().hash(seed=0) for name in extensions]
            frames.append(frame.with_columns(*plain, pl.lit(table).alias("table")))
    return pl.concat(frames, how="diagonal").sort("instance_index")


def main() -> None:
    """Try, count, and say what was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--joined", action="store_true", help="each run joins a Ray that outlives it")
    parser.add_argument("words", nargs=argparse.REMAINDER, help="-- VERB and its arguments, without --out")
    options = parser.parse_args()
    with joined_ray(options.joined):
        result = killed(options)
    print(json.dumps(result))
    sys.exit(1 if any(result[name] for name in WRONG) else 0)


def killed(options: argparse.Namespace) -> dict[str, Any]:
    """Run, kill, run, compare; gives counts of what came of it."""
    words = [word for word in options.words if word != "--"]
    dice = random.Random(options.seed)
    whole, broken = options.out / "unbroken", options.out / "broken"
    unbroken_s = finish(words, whole)
    expected = rows(whole)
    kills, ends = 0, []
    while kills < options.kills:
        if kill_once(words, broken, dice.uniform(0.5, 1.0 + unbroken_s)):
            kills += 1
            done = len(list(broken.glob("shards/*/shard.json")))
            print(f"killed {kills} times, {done} shards stand", file=sys.stderr, flush=True)
        else:
            ends.append(compared(broken, expected))
            print(f"run {len(ends)} came to its end: {ends[-1]}", file=sys.stderr, flush=True)
            shutil.rmtree(broken)
    finish(words, broken)
    ends.append(compared(broken, expected))
    return {
        "verb": words[0],
        "kills": kills,
        "seconds_unbroken": round(unbroken_s, 1),
        "rows": expected.height,
        "ended_runs": len(ends),
        **{name: sum(end[name] for end in ends) for name in WRONG},
    }


def compared(folder: Path, expected: pl.DataFrame) -> dict[str, int]:
    """How many rows are double or lost, whether anything else differs, and whether the books fail."""
    try:
        verification.verify(folder)
        found = rows(folder)
    except (EngineError, OSError, pl.exceptions.PolarsError) as error:
        print(f"{folder}: {error}", file=sys.stderr, flush=True)
        return {"double": 0, "lost": 0, "different": 0, "unreadable": 1}
    known = found["instance_index"].n_unique()
    return {
        "double": found.height - known,
        "lost": expected.height - known,
        "different": int(not expected.equals(found)),
        "unreadable": 0,
    }


if __name__ == "__main__":
    main()
