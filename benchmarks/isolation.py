"""What reading in a child process costs on good files, against reading in this one; last line JSON.

    python -m benchmarks.isolation ARCHIVE [--count 300] [--size 512] [--rounds 4]

Both read the same instances by the same function, in turns; of each the best round counts. Wall time is what
a job waits, CPU time (of both processes) what the machine pays. The child is running before the clock is.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from engine import sources
from engine.imaging.preprocess import View
from engine.ingest.instance import InputRule
from engine.ingest.malloc import FRAMES, keep_freed_memory
from engine.ingest.shard import ReadSpec, read_shard
from engine.tasks.hand_age import PROJECTION_SOP_CLASSES

_USER_TIME, _SYSTEM_TIME = 11, 12  # of /proc/PID/stat, counted behind the name of the program


def cpu_seconds() -> float:
    """CPU time of this process and of its living children."""
    ticks = 0
    for child in _children(os.getpid()):
        facts = Path(f"/proc/{child}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += int(facts[_USER_TIME]) + int(facts[_SYSTEM_TIME])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def _children(parent: int) -> list[int]:
    listed = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii")
    return [int(number) for number in listed.split()]


def timed(read: Callable[[], object]) -> tuple[float, float]:
    """(Wall, CPU) seconds of a call."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    read()
    return time.perf_counter() - wall, cpu_seconds() - cpu


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", type=Path)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    keep_freed_memory(FRAMES)  # as the child does
    rule = InputRule(sop_classes=PROJECTION_SOP_CLASSES, view=View(size_HW=(options.size, options.size)))
    plan = sources.plan(str(options.archive), options.count)
    step = max(plan.num_rows // options.count, 1)
    rows = plan.take(list(range(0, plan.num_rows, step))[: options.count]).to_pylist()
    isolated = ReadSpec(source=str(options.archive), folder=Path(), rules=(rule,), salt=b"benchmark")
    specs = {"inline": replace(isolated, isolation=None), "isolated": isolated}
    best = {name: (float("inf"), float("inf")) for name in specs}
    for spec in specs.values():
        read_shard(rows[:3], spec)
    for _ in range(options.rounds):
        for name, spec in specs.items():
            spent = timed(lambda spec=spec: read_shard(rows, spec))
            best[name] = (min(best[name][0], spent[0]), min(best[name][1], spent[1]))
    costs = {
        kind: round(best["isolated"][place] / best["inline"][place] - 1, 3)
        for place, kind in enumerate(("wall", "cpu"))
    }
    print(json.dumps({"instances": len(rows), "isolation_costs": costs}))


if __name__ == "__main__":
    main()
