"""A night's run, at the level of its books: killed at any step, over its budget, told to stop, retried."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from engine.errors import (
    BudgetSpentError,
    LeaseHeldError,
    StoppedError,
    TableError,
    UnknownNameError,
    UsageError,
)
from engine.ingest.throttle import Meter, Pace, Window, ask_to_stop, read_window
from engine.store import audit_log, ledger, verification
from engine.store.lease import hold
from jobs.failure_budget import Budget, read_budget
from jobs.options import RunOptions
from jobs.running import REASONS, RunLimits, read_limits
from tests.fixtures.night_fixture import STEPS, ends, named, night, retry, steps_of, tables_of, write

FILES = [f"f{number}" for number in range(8)]  # three shards


def mixed(root: Path) -> Path:
    write(root, **{**named(FILES), "f1": "pixel_decode", "f5": "source_read"})
    return root


def test_every_durable_step_may_be_the_last(tmp_path: Path) -> None:
    """The crash-point matrix: killed before and after each of them, the next run ends with the same books."""
    whole = mixed(tmp_path / "whole")
    count = steps_of(lambda: night(whole))
    assert count >= 10, f"the steps {STEPS} are not seen any more"
    expected, counts = ends(whole), verification.verify(whole / "out")
    for after in (False, True):
        for step in range(1, count + 1):
            root = mixed(tmp_path / f"{step}-{after}")
            assert steps_of(lambda root=root: night(root), die_at=step, after=after) == -9
            assert night(root) == counts
            assert ends(root) == expected
            assert verification.verify(root / "out") == counts


def test_a_growth_may_be_killed_at_every_step(tmp_path: Path) -> None:
    for step in range(1, 60):
        root = mixed(tmp_path / str(step))
        night(root)
        write(root, f9="good", f1="good")
        status = steps_of(lambda root=root: night(root, incremental=True), die_at=step)
        assert night(root, incremental=True)["planned"] == 10
        assert sorted(ends(root))[1:3] == [("f1", 1, "pixel_decode"), ("f1", 2, "good")]
        verification.verify(root / "out")
        if status == 0:  # it has fewer steps than that
            return
    raise AssertionError("a growth has more steps than expected")


def test_retry_reads_only_what_failed_for_that_reason_and_keeps_the_old_rows(tmp_path: Path) -> None:
    root = mixed(tmp_path)
    night(root)
    before = ends(root)
    write(root, f5="good")
    assert night(root, retry("source_read")) == {"planned": 9, "filtered": 7, "quarantined": 2}
    assert ends(root) == [*before, ("f5", 2, "good")]
    verification.verify(root / "out")
    assert night(root, retry("source_read"))["planned"] == 9, "nothing is left that failed for it"
    assert night(root)["planned"] == 9, "the same command without it is content"
    write(root, f1="good")
    assert night(root)["planned"] == 9, "what changed waits for --incremental"
    assert night(root, incremental=True)["planned"] == 10
    assert ends(root)[-1] == ("f1", 2, "good")
    verification.verify(root / "out")
    assert [line["event"] for line in audit_log.read(root / "out")].count("retried") == 1


def shard_rows(root: Path) -> list[int]:
    return np.bincount(ledger.read_plan(root / "out")["shard"].to_numpy()).tolist()


@pytest.mark.parametrize(("begun", "kept"), [(None, 64), (100, 100), (256, 256)])
def test_a_folder_keeps_the_shard_size_that_it_was_begun_with(
    tmp_path: Path, begun: int | None, kept: int
) -> None:
    write(tmp_path, **named([f"f{number:03d}" for number in range(300)]), f300="source_read")
    night(tmp_path, shard_size=begun)
    whole, rest = divmod(301, kept)
    assert shard_rows(tmp_path) == [kept] * whole + [rest]
    assert night(tmp_path, shard_size=None)["planned"] == 301
    write(tmp_path, **named([f"g{number:03d}" for number in range(300)]))
    assert night(tmp_path, shard_size=None, incremental=True)["planned"] == 601
    assert max(shard_rows(tmp_path)) == kept
    write(tmp_path, f300="good".ljust(len("source_read")))
    assert night(tmp_path, retry("source_read"), shard_size=None, incremental=True)["planned"] == 602
    verification.verify(tmp_path / "out")
    with pytest.raises(TableError, match="another configuration"):
        night(tmp_path, shard_size=kept + 1)


def test_a_retry_of_a_grown_folder_needs_no_other_option(tmp_path: Path) -> None:
    root = mixed(tmp_path)
    night(root)
    write(root, a0="source_read", f9="good")
    night(root, incremental=True)
    before = ends(root)
    write(
        root, a0="good", a1="good", f2="changed"
    )  # mended, new, and another size of one that is not asked for
    (root / "in" / "f3").unlink()
    assert night(root, retry("source_read"))["planned"] == 12
    assert ends(root) == [*before, ("f5", 2, "source_read"), ("a0", 2, "good")]
    verification.verify(root / "out")
    assert night(root, incremental=True)["planned"] == 14
    assert ends(root)[-2:] == [("a1", 1, "good"), ("f2", 2, "changed")]
    verification.verify(root / "out")


def test_a_retry_knows_its_source(tmp_path: Path) -> None:
    root, moved = mixed(tmp_path / "one"), tmp_path / "two"
    night(root)
    shutil.copytree(root / "in", moved / "in")
    write(moved, f5="good")
    there = partial(night, root, source=str(moved / "in"), read=lambda _, planned: tables_of(moved, planned))
    with pytest.raises(TableError, match="begun on the source"):
        there(retry("source_read"))
    assert there(retry("source_read"), is_moved=True)["planned"] == 9
    assert ends(root)[-1] == ("f5", 2, "good")
    write(moved, f9="good")
    assert there(retry("pixel_decode"))["planned"] == 10  # what is new waits


def test_what_fails_again_is_one_more_version(tmp_path: Path) -> None:
    root = mixed(tmp_path)
    night(root)
    for version in (2, 3):
        night(root, retry("pixel_decode", "source_read"))
        assert [row for row in ends(root) if row[0] == "f1"][-1] == ("f1", version, "pixel_decode")
    assert ledger.quarantined(root / "out").num_rows == 2
    verification.verify(root / "out")


def test_a_retry_may_be_killed_at_every_step(tmp_path: Path) -> None:
    for step in range(1, 60):
        root = mixed(tmp_path / str(step))
        night(root)
        write(root, f1="good")
        again = retry("pixel_decode")
        status = steps_of(lambda root=root, again=again: night(root, again), die_at=step)
        assert night(root, again)["planned"] == 9
        assert ends(root)[-1] == ("f1", 2, "good")
        verification.verify(root / "out")
        if status == 0:
            return
    raise AssertionError("a retry has more steps than expected")


def test_over_its_budget_a_run_stops_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    write(tmp_path, **named([f"f{number:02d}" for number in range(30)], "pixel_decode"))
    with pytest.raises(BudgetSpentError, match=r"6 of 30 files are quarantined.*pixel_decode 6") as spent:
        night(tmp_path, RunLimits(budget=read_budget("10%")))
    assert spent.value.exit_code == 4
    assert len(ends(tmp_path)) == 6, "what was finished is kept"
    with pytest.raises(BudgetSpentError):
        night(tmp_path, RunLimits(budget=Budget(count=5)))
    assert len(ends(tmp_path)) == 6, "the same budget is spent before it reads anything"
    assert night(tmp_path, RunLimits(budget=Budget(count=30)))["quarantined"] == 30
    verification.verify(tmp_path / "out")
    told = [line for line in audit_log.read(tmp_path / "out") if line["event"] == "stopped"]
    assert [(line["why"], line["failed"]) for line in told] == [("budget", 6), ("budget", 6)]


def test_after_the_cause_is_mended_a_retry_gets_under_the_budget(tmp_path: Path) -> None:
    names = [f"f{number:02d}" for number in range(30)]
    write(tmp_path, **named(names, "source_read"))
    limits = RunLimits(budget=Budget(count=3))
    with pytest.raises(BudgetSpentError):
        night(tmp_path, limits)
    write(tmp_path, **named(names, "good".ljust(len("source_read"))))
    again = RunLimits(budget=Budget(count=3), retry=("source_read",))
    assert night(tmp_path, again) == {"planned": 36, "filtered": 30, "quarantined": 6}
    assert not ledger.quarantined(tmp_path / "out").num_rows
    verification.verify(tmp_path / "out")


def test_sigterm_ends_a_run_in_order_and_the_same_command_goes_on(tmp_path: Path) -> None:
    root = mixed(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    early, late = datetime.now().hour, (datetime.now().hour + 2) % 24
    closed = Window((late % 24) * 3600, ((late + 1) % 24) * 3600)
    assert not closed.is_open(datetime.now().replace(hour=early))

    def terminate_once_started() -> None:
        while not (root / "out" / audit_log.AUDIT_NAME).exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate_once_started, daemon=True).start()
    with pytest.raises(StoppedError) as stopped:
        night(root, RunLimits(window=closed))  # it waits for its window all the while
    assert stopped.value.exit_code == 143
    assert not ends(root)
    assert night(root)["planned"] == 8
    assert [line["event"] for line in audit_log.read(root / "out")][:2] == ["started", "stopped"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_while_nothing_is_read_ends_it_at_once(tmp_path: Path) -> None:
    from jobs.running import running

    def wait_for_it() -> None:
        with running(tmp_path):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(StoppedError):
        wait_for_it()
    with hold(tmp_path):
        pass


def test_a_second_starter_of_a_run_is_turned_away(tmp_path: Path) -> None:
    root = mixed(tmp_path)
    with hold(root / "out"), pytest.raises(LeaseHeldError):
        night(root)


@pytest.mark.parametrize(
    ("text", "most"), [("0", 0), ("20", 20), ("1%", 10), ("0.5%", 5), ("100%", 1000), ("0%", 0)]
)
def test_budgets(text: str, most: int) -> None:
    budget = read_budget(text)
    assert budget.most(1000) == most
    assert not budget.is_spent(most, 1000)
    assert budget.is_spent(most + 1, 1000)


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "101%", "-1%", "nan%", "%", "1 %%"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(UsageError):
        read_budget(text)


@pytest.mark.parametrize(
    ("text", "open_at", "closed_at"),
    [
        ("22:00-06:00", ["22:00", "23:59", "00:00", "05:59"], ["21:59", "06:00", "12:00"]),
        ("09:30-17:00", ["09:30", "16:59"], ["09:29", "17:00", "00:00"]),
    ],
)
def test_windows(text: str, open_at: list[str], closed_at: list[str]) -> None:
    window = read_window(text)
    for clock in (*open_at, *closed_at):
        at = datetime.fromisoformat(f"2026-03-29T{clock}:00")  # a night that loses an hour
        assert window.is_open(at) == (clock in open_at)


@pytest.mark.parametrize("text", ["", "22-06", "24:00-06:00", "22:00-22:00", "22:60-01:00", "22:00"])
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(UsageError):
        read_window(text)


def test_a_task_waits_for_its_window_or_for_a_stop(tmp_path: Path) -> None:
    slept: list[float] = []
    hours = iter([21, 21, 22])
    pace = Pace(window=read_window("22:00-06:00"), staging=tmp_path)

    def clock() -> datetime:
        return datetime(2026, 1, 1, next(hours))

    assert pace.may_start(clock, slept.append)
    assert len(slept) == 2
    ask_to_stop(tmp_path)
    assert not pace.may_start(clock, slept.append)
    assert not Pace(staging=tmp_path / "gone").may_start(), "the lease is lost"
    assert Pace().may_start()


def test_a_meter_holds_to_its_rate() -> None:
    meter, began = Meter(200), time.monotonic()
    threads = [threading.Thread(target=lambda: [meter.take() for _ in range(20)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began >= 59 / 200


@pytest.mark.parametrize(("rate", "turns"), [(None, [10]), (4.0, [4, 4, 2]), (0.2, [1] * 10), (50.0, [10])])
def test_a_reader_takes_a_seconds_worth_at_once(rate: float | None, turns: list[int]) -> None:
    assert Pace(per_second=rate).turns(10) == turns


def test_readers_share_a_throttle() -> None:
    limits = RunLimits(throttle=1.0)
    assert limits.readers == 1
    assert limits.pace(Path()).per_second == 1.0
    many = RunLimits(throttle=50.0)
    assert many.readers is not None
    assert many.pace(Path()).per_second == 50.0 / many.readers


def test_reasons_are_those_of_the_error_tree() -> None:
    assert {"pixel_decode", "source_read", "decoder_crash"} <= REASONS
    assert read_limits(RunOptions(retry=["decoder_crash"])).retry == ("decoder_crash",)
    with pytest.raises(UnknownNameError, match="did you mean 'pixel_decode'") as unknown:
        read_limits(RunOptions(retry=["pixel_decod"]))
    assert unknown.value.exit_code == 2
