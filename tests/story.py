"""One small story told with the real command: archive, samples, teacher, student, bundle, scores."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.phantom.faults import FAULTS as KINDS
from jobs.__main__ import main

COUNT, FAULTS, SHARD_SIZE = 96, len(KINDS), 24
QUICK = ("--set", "epochs=2", "--set", "batch_size=16")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a verb ended: exit code, and the object of its last line."""

    code: int
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Story:
    """The folders, and how each verb ended."""

    root: Path
    ended: dict[str, Ended]

    @property
    def archive(self) -> Path:
        return self.root / "archive"

    @property
    def samples(self) -> Path:
        return self.root / "samples"

    @property
    def teacher(self) -> Path:
        return self.root / "teacher"

    @property
    def student(self) -> Path:
        return self.root / "student"

    @property
    def bundle(self) -> Path:
        return self.root / "bundle"

    @property
    def scores(self) -> Path:
        return self.root / "scores"


def osteoray(*words: object) -> Ended:
    """Run one verb in this process, as the command would."""
    heard = io.StringIO()
    try:
        with redirect_stdout(heard):
            main([*(str(word) for word in words), "--json"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    else:
        code = 0
    return Ended(code, json.loads(heard.getvalue().splitlines()[-1]))


def tell(root: Path) -> Story:
    """The whole path, thin: 96 phantoms of 128 rows with faults, two epochs each."""
    story = Story(root, {})
    labels = story.archive / "labels.csv"

    def step(verb: str, name: str, *words: object) -> None:
        story.ended[name] = osteoray(verb, *words)

    step("phantom", "phantom", "--count", COUNT, "--size", 128, "--out", story.archive, "--faults")
    step("ingest", "ingest", story.archive, "--task", "hand-age", "--labels", labels, "--out", story.samples,
         "--shard-size", SHARD_SIZE, "--size", 64)  # fmt: skip
    step("train", "teacher", "demo-teacher", "--data", story.samples, "--out", story.teacher, *QUICK)
    step("train", "student", "demo-student", "--data", story.samples, "--out", story.student,
         "--teacher", story.teacher, *QUICK)  # fmt: skip
    step("export", "export", story.student, "--out", story.bundle)
    step("score", "score", story.archive, "--model", story.bundle, "--out", story.scores,
         "--shard-size", SHARD_SIZE)  # fmt: skip
    step("report", "report", story.scores, "--labels", labels, "--compare", f"teacher={story.teacher}",
         "--compare", f"student={story.student}")  # fmt: skip
    return story


def column(folder: Path, table: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of one table over all shards."""
    import pyarrow.parquet as pq

    parts = sorted(folder.glob(f"shards/*/{table}.parquet"))
    return [row for part in parts for row in pq.read_table(part, columns=list(names)).to_pylist()]
