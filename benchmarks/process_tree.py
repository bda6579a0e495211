"""Memory of a process and all that it started, as Linux tells it."""

from __future__ import annotations

import os
import subprocess
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

_KIB_PER_MIB = 1024


def peak_mib(process: subprocess.Popen[bytes], *, every_s: float = 0.5) -> tuple[float, float]:
    """Largest MiB seen of ``process`` with all that it started, and of it alone, until it ends.

    Proportional set size: memory that processes share, Ray's object store above all, counts once.
    """
    tree, alone = 0.0, 0.0
    while process.poll() is None:
        sizes = {number: _pss_mib(number) for number in tree_of(process.pid)}
        tree, alone = max(tree, sum(sizes.values())), max(alone, sizes[process.pid])
        time.sleep(every_s)
    return round(tree, 1), round(alone, 1)


def tree_of(root: int) -> list[int]:
    """``root`` and every process that descends from it, by number."""
    children: dict[int, list[int]] = defaultdict(list)
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                children[int(fields[1])].append(int(name))
    found, ahead = [], [root]
    while ahead:
        found.append(ahead.pop())
        ahead += children[found[-1]]
    return found


def _pss_mib(process: int) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / _KIB_PER_MIB
    return 0.0
