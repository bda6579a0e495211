"""A run over an archive: it holds its folder, keeps the audit log, and may end early for a stated reason."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import (
    BudgetSpentError,
    EngineError,
    InstanceError,
    LeaseLostError,
    StoppedError,
    UnknownNameError,
)
from engine.ingest.throttle import Pace, Window, ask_to_stop, read_window
from engine.store import audit_log, lease, ledger
from engine.store.files import code_version, sha256_of_file
from jobs.failure_budget import Budget, read_budget
from jobs.options import RunOptions

_SHOWN_REASONS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """What the caller asks of a run beside its inputs; by default nothing."""

    budget: Budget | None = None
    window: Window | None = None
    throttle: float | None = None
    retry: tuple[str, ...] = ()

    @property
    def readers(self) -> int | None:
        """How many tasks may read at once; None is as many as there are cores."""
        return None if self.throttle is None else min(os.cpu_count() or 1, max(int(self.throttle), 1))

    def pace(self, staging: Path) -> Pace:
        """The pace of one reader."""
        per_second = self.throttle / (self.readers or 1) if self.throttle else None
        return Pace(window=self.window, per_second=per_second, staging=staging)


def read_limits(options: RunOptions) -> RunLimits:
    """What the command line asks for.

    Raises:
        UsageError: one of them makes no sense; an unknown reason is answered with the nearest one.
    """
    retry = tuple(options.retry or ())
    for reason in retry:
        if reason not in REASONS:
            raise UnknownNameError("reason", reason, REASONS)
    return RunLimits(
        budget=read_budget(options.max_failures) if options.max_failures else None,
        window=read_window(options.window) if options.window else None,
        throttle=options.throttle,
        retry=retry,
    )


def _reasons(kind: type[InstanceError]) -> Iterator[str]:
    yield kind.reason
    for below in kind.__subclasses__():
        yield from _reasons(below)


REASONS = frozenset(_reasons(InstanceError))
"""All reasons for which an instance can be quarantined."""


@dataclass(slots=True, kw_only=True)
class Run:
    """A folder that is held, its audit log, and why the run should end, if it should."""

    held: lease.Lease
    log: audit_log.Log
    limits: RunLimits = RunLimits()
    why: str = ""
    failed: int = 0
    planned: int = 0
    is_draining: bool = False

    @property
    def staging(self) -> Path:
        """Where everything is written before it takes its place."""
        return self.held.staging

    def begin(self, verb: str, plan: pa.Table, missing: Sequence[int]) -> None:
        """Note a start that has work to do, and the shards that a killed run committed but did not note.

        Raises:
            LedgerError: the audit log was changed.
        """
        folder = self.held.folder
        self.planned = plan.num_rows
        self.failed = ledger.quarantined(folder).num_rows
        facts = {
            "verb": verb,
            "code_version": code_version(),
            "missing_shards": len(missing),
            **audit_log.who(),
        }
        growth = {name: fact for name, fact in ledger.last_growth(folder).items() if name != "planned"}
        if self.held.taken_from is not None:
            facts["taken_from"] = self.held.taken_from
        if growth:
            facts["growth"] = growth
        is_retry, is_taken = "retry" in growth, self.held.taken_from is not None
        event = "taken_over" if is_taken else "retried" if is_retry else "started"
        self.log.note(event, planned=plan.num_rows, **facts)
        for shard in sorted(set(range(plan["shard"][-1].as_py() + 1)) - set(missing)):
            if not self.log.knows(shard):
                self._note_shard("found", shard)
        self.on_failed(0)

    def on_shard(self, shard: int, rows: Mapping[str, int]) -> None:
        """Note a committed shard."""
        if not self.log.knows(shard):
            self._note_shard("shard", shard, rows=dict(rows))

    def on_failed(self, count: int) -> None:
        """Count quarantined instances; one too many ends the run."""
        self.failed += count
        if self.limits.budget and self.limits.budget.is_spent(self.failed, self.planned):
            self.stop("budget")

    def is_stopping(self) -> bool:
        """Whether no further shard should begin."""
        if self.held.lost.is_set():
            self.why = self.why or "lease"
        return bool(self.why)

    def stop(self, why: str) -> None:
        """Let tasks in hand come to their end, and begin no other."""
        self.why = self.why or why
        ask_to_stop(self.staging)

    def listen(self) -> None:
        """Take SIGTERM as a request to stop; only a main thread can."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self.stop("SIGTERM")
        if not self.is_draining:
            raise StoppedError("stopped on request: run the same command again to go on")

    @contextmanager
    def draining(self) -> Iterator[None]:
        """A block that looks at ``is_stopping``: SIGTERM does not break into it.

        Enter it when Ray has started: Ray takes SIGTERM for itself, and would end us in the middle.
        """
        self.is_draining = True
        self.listen()
        try:
            yield
        finally:
            self.is_draining = False

    def require_whole(self, plan: pa.Table) -> None:
        """Return where nothing is missing and no limit was crossed.

        Raises:
            BudgetSpentError, StoppedError, LeaseLostError: why the run ended early.
        """
        if not self.is_stopping():
            return
        missing = len(ledger.missing_shards(self.held.folder, plan))
        if self.why == "lease":
            raise LeaseLostError(f"another run took {self.held.folder} over: this one ends, that one goes on")
        if missing or self.why == "budget":
            self.log.note("stopped", why=self.why, missing_shards=missing, failed=self.failed)
            raise self._ending(missing)

    def _ending(self, missing: int) -> EngineError:
        if self.why == "budget":
            return BudgetSpentError(
                f"{self.failed} of {self.planned} files are quarantined, more than --max-failures allows"
                f"{self._commonest()}: what was finished is kept; look at them, then run the same command "
                "again with a larger --max-failures, or with --retry REASON"
            )
        return StoppedError(
            f"stopped on request with {missing} shard(s) to go: run the same command again to go on"
        )

    def _commonest(self) -> str:
        counts = pc.value_counts(ledger.quarantined(self.held.folder)["reason"]).to_pylist()
        most = sorted(counts, key=lambda one: -one["counts"])[:_SHOWN_REASONS]
        text = ", ".join(f"{one['values']} {one['counts']}" for one in most)
        return f" (by reason: {text})" if text else ""

    def _note_shard(self, event: str, shard: int, **facts: Any) -> None:
        digest = sha256_of_file(ledger.shard_folder(self.held.folder, shard) / "shard.json")
        self.log.note(event, shard=shard, sha256_shard=digest, **facts)


@contextmanager
def running(folder: Path, limits: RunLimits | None = None) -> Iterator[Run]:
    """Hold ``folder`` for a run; SIGTERM ends it in order.

    Raises:
        LeaseHeldError: another run holds it.
    """
    with lease.hold(folder) as held, closing(audit_log.Log(held)) as log:
        run = Run(held=held, log=log, limits=limits or RunLimits())
        with _ended_by_sigterm(run):
            yield run


@contextmanager
def _ended_by_sigterm(run: Run) -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    run.listen()
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
