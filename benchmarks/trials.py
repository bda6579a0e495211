"""Real faults, many times: two starters at once, workers killed each second, the same job again and again.

    python -m benchmarks.trials two-starters --trials 200 --out FOLDER -- VERB ...
    python -m benchmarks.trials worker-kills --seconds 600 --every 1 --out FOLDER -- VERB ...
    python -m benchmarks.trials same-again --times 15 --to SINK --out FOLDER -- score ARCHIVE --model BUNDLE

*two-starters*: two processes, both ready, are let go within milliseconds on one new folder; in each second
trial a holder died in that folder before. One has to end the work, the other to be turned away (exit 75).
*worker-kills*: each ``--every`` seconds one process of Ray that reads or predicts for the run dies by
SIGKILL, drawn by lot; run after run until the time is over. Each run has to come to its end by itself.
*same-again*: new folders, whose tables have to be the same bytes once sorted, nothing left out. Each is
delivered to every ``--to`` (a folder, or dicomweb+http(s)://...), where only the first may add objects.

All of them compare the rows with those of a run that nothing disturbed, and verify the books of every folder.
Last line JSON; exit status 1 where anything is wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from benchmarks.kills import WRONG, compared, rows
from benchmarks.process_tree import tree_of
from benchmarks.verb import GOOD_EXITS, finish, joined_ray, start
from engine import sources
from engine.store import audit_log, lease, ledger

HELD = 75
NEARLY_S = 0.05
"""In half of the trials the second starter is let go up to so much later."""
_SHARD = 1_000_000
_STARTS = frozenset({"started", "taken_over"})
_WORKS = ("Reader", "Scorer")
"""In the titles of Ray's processes: what the stages of a pipeline are called."""

_STARTER = """
import sys
import jobs.score
from jobs.__main__ import main
print("ready", flush=True)
sys.stdin.readline()
main(sys.argv[1:])
"""


def two_starters(words: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Let two processes go at once, again and again; gives counts of what came of it."""
    dice, ends, expected = random.Random(options.seed), Counter[str](), _unbroken(words, options.out)
    for trial in range(options.trials):
        folder = options.out / "contested"
        if trial % 2:
            _die_holding(folder)
        delay_s = dice.uniform(0, NEARLY_S) if trial % 4 > 1 else 0.0
        codes = _both(words, folder, delay_s)
        turned_away = codes.count(HELD)
        good = sum(code in GOOD_EXITS for code in codes)
        ends["one_commits" if (good, turned_away) == (1, 1) else "other_exits"] += 1
        starts = [line["event"] for line in audit_log.read(folder) if line["event"] in _STARTS]
        ends["other_starts"] += starts != ["taken_over" if trial % 2 else "started"]
        ends["left_behind"] += (folder / lease.STAGING).exists()
        ends.update(compared(folder, expected))
        _say(f"trial {trial + 1}: exits {sorted(codes)}")
        shutil.rmtree(folder)
    return {"trials": options.trials, **ends}


def worker_kills(words: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Kill a worker from time to time, run after run; gives counts of what came of it."""
    dice, ends, expected = random.Random(options.seed), Counter[str](), _unbroken(words, options.out)
    victims: Counter[str] = Counter()
    until_s = time.monotonic() + options.seconds
    while time.monotonic() < until_s:
        folder = options.out / "broken"
        process = start(words, folder)
        while process.poll() is None:
            time.sleep(options.every)
            if time.monotonic() < until_s:
                victims.update(_kill_a_worker(dice))
        ends["ended_runs"] += 1
        if process.returncode in GOOD_EXITS:
            ends.update(compared(folder, expected))
        else:
            ends["failed_runs"] += 1
        _say(f"run {ends['ended_runs']} ended with {process.returncode} after {sum(victims.values())} kills")
        shutil.rmtree(folder)
    return {"seconds": options.seconds, "kills": sum(victims.values()), "victims": dict(victims), **ends}


def same_again(words: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Do the same job into new folders and deliver each; gives counts of what came of it."""
    ends, digests, objects = Counter[str](), set[str](), dict[str, list[int]]()
    expected: pl.DataFrame | None = None
    for turn in range(options.times):
        folder = options.out / f"{turn:03d}"
        finish(words, folder)
        expected = rows(folder) if expected is None else expected
        ends.update(compared(folder, expected))
        digests.add(digest(folder))
        for number, to in enumerate(options.to):
            code = _deliver(folder, to)
            ends["failed_deliveries"] += code != 0
            objects.setdefault(f"sink_{number}", []).append(_objects(to))
        _say(f"turn {turn + 1}: {len(digests)} digest(s) so far, objects {objects}")
    ends["other_tables"] = len(digests) - 1
    ends["new_objects"] = sum(counts[-1] - counts[0] for counts in objects.values())
    return {"times": options.times, "objects": {name: counts[-1] for name, counts in objects.items()}, **ends}


def digest(folder: Path) -> str:
    """Of all columns of all tables, rows sorted by the number of their instance."""
    total = hashlib.sha256()
    for name in ledger.COUNT_NAMES:
        parts = [ledger.read_table(path) for path in ledger.tables_of(folder, name)]
        if parts:
            table = pa.concat_tables(parts).sort_by("instance_index").combine_chunks()
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            total.update(sink.getvalue())
    return total.hexdigest()


def _unbroken(words: list[str], out: Path) -> pl.DataFrame:
    finish(words, out / "unbroken")
    return rows(out / "unbroken")


def _die_holding(folder: Path) -> None:
    """A process that takes the folder and ends without giving it back."""
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            lease.acquire(folder, lease.terms())
        os._exit(0)
    os.waitpid(child, 0)


def _both(words: list[str], out: Path, delay_s: float) -> list[int]:
    """Exit codes of two starters, the second let go ``delay_s`` after the first."""
    command = [sys.executable, "-c", _STARTER, *words, "--out", str(out)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    starters = [subprocess.Popen(command, **pipes, stderr=subprocess.DEVNULL) for _ in range(2)]
    for starter in starters:
        assert starter.stdout is not None
        starter.stdout.readline()
    for starter in starters:
        assert starter.stdin is not None
        starter.stdin.write(b"\n")
        starter.stdin.flush()
        time.sleep(delay_s)
    for starter in starters:
        starter.communicate()
    return [starter.returncode for starter in starters]


def _kill_a_worker(dice: random.Random) -> list[str]:
    """The stage whose process was killed; nothing where none was at work."""
    found = [
        (process, stage) for process in tree_of(os.getpid()) for stage in _WORKS if stage in _title(process)
    ]
    if not found:
        return []
    process, stage = dice.choice(found)
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
        return [stage]
    return []


def _title(process: int) -> str:
    with suppress(OSError):
        text = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
        return text if text.startswith("ray::") else ""
    return ""


def _deliver(scores: Path, to: str) -> int:
    command = [sys.executable, "-m", "jobs", "deliver", str(scores), "--to", to]
    return subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    ).returncode


def _objects(to: str) -> int:
    """How many instances the sink holds by now."""
    return int(sources.plan(to, _SHARD).num_rows)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


_TRIALS: dict[str, Callable[[list[str], argparse.Namespace], dict[str, Any]]] = {
    "two-starters": two_starters,
    "worker-kills": worker_kills,
    "same-again": same_again,
}
_WRONG = (
    "other_exits", "other_starts", "left_behind", "failed_runs", "failed_deliveries", "other_tables",
    "new_objects", *WRONG,
)  # fmt: skip


def main() -> None:
    """Try, count, and say what was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trial", choices=_TRIALS)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--every", type=float, default=1.0)
    parser.add_argument("--times", type=int, default=15)
    parser.add_argument("--to", action="append", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--joined", action="store_true", help="each run joins a Ray that outlives it")
    parser.add_argument("--out", type=Path, required=True)
    given, mark, words = sys.argv[1:], "--", []
    if mark in given:  # behind it stand the verb and its arguments, without --out
        place = given.index(mark)
        given, words = given[:place], given[place + 1 :]
    options = parser.parse_args(given)
    with joined_ray(options.joined):
        found = _TRIALS[options.trial](words, options)
    wrong = sum(found.get(name, 0) for name in _WRONG)
    print(json.dumps({"trial": options.trial, "wrong": wrong, **found}))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
