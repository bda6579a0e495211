"""Any history of runs, kills, growths, changes and retries leaves each input in exactly one end state."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.store import ledger, revisions, verification
from tests.fixtures.night_fixture import ends, night, retry, steps_of, write

REASONS = ("pixel_decode", "source_read")
NAMES = st.sampled_from([f"f{number}" for number in range(7)])
CONTENTS = st.sampled_from([word.ljust(12) for word in ("good", *REASONS)])
KILLS = st.integers(1, 40)
HISTORIES = int(os.environ.get("OSTEORAY_HISTORIES", "10"))
"""Each takes seconds; `make test-all` runs a thousand."""


class Nights(RuleBasedStateMachine):
    """The model: what each file says, and what it said when it was last read to the end."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.said: dict[str, str] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @initialize(contents=st.dictionaries(NAMES, CONTENTS, min_size=1))
    def archive(self, contents: dict[str, str]) -> None:
        self.said = contents
        write(self.root, **contents)

    @rule(name=NAMES, content=CONTENTS)
    def write_a_file(self, name: str, content: str) -> None:
        self.said[name] = content
        write(self.root, **{name: content})

    @rule()
    def run(self) -> None:
        night(self.root, incremental=True)
        self.every_file_ended_as_it_says()

    @rule(step=KILLS, after=st.booleans())
    def run_and_be_killed(self, step: int, after: bool) -> None:
        assert steps_of(lambda: night(self.root, incremental=True), die_at=step, after=after) in {0, -9}

    @precondition(lambda self: (self.root / "out" / ledger.PLAN_NAME).exists())
    @rule(reasons=st.sets(st.sampled_from(REASONS), min_size=1), step=KILLS)
    def retry_and_be_killed(self, reasons: set[str], step: int) -> None:
        night(self.root, incremental=True)
        again = retry(*reasons)
        steps_of(lambda: night(self.root, again, incremental=True), die_at=step)
        night(self.root, again, incremental=True)
        self.every_file_ended_as_it_says()

    @precondition(lambda self: (self.root / "out" / ledger.PLAN_NAME).exists())
    @rule(
        changes=st.dictionaries(NAMES, CONTENTS), reasons=st.sets(st.sampled_from(REASONS), min_size=1),
        step=KILLS,
    )  # fmt: skip
    def retry_alone_and_be_killed(self, changes: dict[str, str], reasons: set[str], step: int) -> None:
        night(self.root, incremental=True)
        before = {path: reason for path, _, reason in ends(self.root)}
        changes = dict(list(changes.items())[: len(self.said) // 2])  # of more, it is another archive
        self.said |= changes
        write(self.root, **changes)
        again = retry(*reasons)
        steps_of(lambda: night(self.root, again), die_at=step)
        night(self.root, again)
        verification.verify(self.root / "out")
        assert {path: reason for path, _, reason in ends(self.root)} == {
            path: self.said[path].strip() if reason in reasons else reason for path, reason in before.items()
        }

    def every_file_ended_as_it_says(self) -> None:
        verification.verify(self.root / "out")
        last = {path: reason for path, _, reason in ends(self.root)}
        assert last == {name: content.strip() for name, content in self.said.items()}

    @invariant()
    def no_input_ended_twice(self) -> None:
        path = self.root / "out" / ledger.PLAN_NAME
        if not path.exists():
            return
        plan = ledger.read_plan(self.root / "out")
        planned = set(zip(plan["path"].to_pylist(), plan["version"].to_pylist(), strict=True))
        rows = Counter((name, version) for name, version, _ in ends(self.root))
        assert set(rows) <= planned
        assert not rows or max(rows.values()) == 1
        assert len(revisions.latest(plan)) == len({name for name, _ in planned})


Nights.TestCase.settings = settings(
    max_examples=HISTORIES, stateful_step_count=6, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
TestNights = pytest.mark.timeout(600 + 4 * HISTORIES)(Nights.TestCase)
