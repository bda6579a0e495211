"""Run a verb as a user does: a process of its own, its report and its log beside its output folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

GOOD_EXITS = (0, 3)  # 3: some inputs were quarantined


def start(
    words: Sequence[str], out: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """The verb with its ``--out``, leader of a process group of its own.

    What it prints goes to ``OUT.json``, what it says meanwhile to ``OUT.log``.
    """
    command = [sys.executable, "-m", "jobs", *words, "--out", str(out), "--json"]
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_suffix(".json").open("wb") as report, out.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            command, stdout=report, stderr=log, start_new_session=True,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip


def told(out: Path) -> dict[str, Any]:
    """The last line of the verb that wrote ``out``."""
    result: dict[str, Any] = json.loads(out.with_suffix(".json").read_text().splitlines()[-1])
    return result


def finish(words: Sequence[str], out: Path, environment: Mapping[str, str] | None = None) -> float:
    """Run to the end; seconds of the whole process. A verb that fails ends this script."""
    started = time.perf_counter()
    code = start(words, out, environment).wait()
    if code not in GOOD_EXITS:
        sys.exit(f"{' '.join(words)} ended with {code}: see {out.with_suffix('.log')}")
    return time.perf_counter() - started


@contextmanager
def joined_ray(is_wanted: bool) -> Iterator[None]:
    """A Ray that stays up and that every verb joins, as on a hospital's cluster; else each starts its own."""
    if not is_wanted:
        yield
        return
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False})
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        yield
    finally:
        del os.environ["RAY_ADDRESS"]
        cluster.shutdown()  # type: ignore[no-untyped-call]
