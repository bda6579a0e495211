"""One holder at a time; a dead one is taken over; one that was taken over writes nothing any more."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import LeaseHeldError, LeaseLostError
from engine.store import audit_log, lease, ledger
from engine.store.lease import Host, acquire, hold, release, this_host
from tests.store.test_ledger import plan, tables

ELSEWHERE = Host(place="another machine", beat_s=0.05, stale_s=0.5)
FACTS = {"kind": "ingest", "config_sha256": "a"}

HOLD = """
import sys
from pathlib import Path
from engine.store.lease import Host, hold, this_host
place, folder = sys.argv[1:]
host = this_host() if place == "here" else Host(place=place, beat_s=0.05, stale_s=0.5)
with hold(Path(folder), host) as held:
    print(held.token, flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path, place: str = "here") -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds ``folder``."""
    command = [sys.executable, "-c", HOLD, place, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_second_starter_is_turned_away(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        with pytest.raises(LeaseHeldError, match=f"process {other.pid}") as refused, hold(tmp_path):
            pass
        assert refused.value.exit_code == 75
        assert other.stdin is not None
        other.stdin.close()
        other.wait()
    with hold(tmp_path) as held:
        assert (held.token, held.taken_from) == (2, None)


def test_a_killed_holder_is_taken_over_at_once(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        os.kill(other.pid, signal.SIGKILL)
        until(lambda: Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
        with hold(tmp_path) as held:  # it is a zombie yet: nobody has waited for it
            assert (held.token, held.taken_from) == (2, 1)


def test_a_process_number_that_was_given_out_again_is_no_holder(tmp_path: Path) -> None:
    dead = acquire(tmp_path, this_host())
    facts = json.loads(dead.claim.read_text())
    dead.claim.write_text(json.dumps({**facts, "started": "1"}))  # another process has its number now
    with hold(tmp_path) as held:
        assert held.taken_from == 1


def test_a_holder_elsewhere_counts_by_its_heartbeat(tmp_path: Path) -> None:
    with holder(tmp_path, "another machine") as other:
        time.sleep(1.0)  # longer than stale_s: it beats
        with pytest.raises(LeaseHeldError, match="heard of"):
            acquire(tmp_path, replace(this_host(), stale_s=0.5))
        os.kill(other.pid, signal.SIGSTOP)
        time.sleep(0.7)
        with hold(tmp_path, replace(this_host(), stale_s=0.5)) as held:
            assert held.taken_from == 1


def test_a_holder_that_wakes_up_after_it_was_taken_over_writes_nothing(tmp_path: Path) -> None:
    stale = acquire(tmp_path, ELSEWHERE)  # beats never
    with closing(audit_log.Log(stale)) as log:
        write_as_taken_over(tmp_path, stale, log)


def write_as_taken_over(tmp_path: Path, stale: lease.Lease, log: audit_log.Log) -> None:
    ledger.begin(tmp_path, FACTS, stale.staging)
    ledger.write_plan(tmp_path, plan(), stale.staging)
    log.note("started")
    time.sleep(0.6)
    with hold(tmp_path, replace(this_host(), stale_s=0.5)) as held, closing(audit_log.Log(held)) as fresh:
        before = {path: path.read_bytes() for path in tmp_path.glob("*.*") if path.is_file()}
        for step in (
            lambda: ledger.commit_shard(tmp_path, 0, tables([0, 1, 2, 3]), stale.staging),
            lambda: ledger.grow_plan(tmp_path, plan(), {}, stale.staging),
        ):
            with pytest.raises(LeaseLostError):
                step()
        log.note("shard", shard=0)  # into a file that has lost its name
        release(stale)
        fresh.note("started")
        log.note("shard", shard=1)
        after = {path: path.read_bytes() for path in before if path.name != audit_log.AUDIT_NAME}
        assert after == {path: data for path, data in before.items() if path.name != audit_log.AUDIT_NAME}
        assert [line["event"] for line in audit_log.read(tmp_path)] == ["started", "shard", "started"]
        assert not list((tmp_path / "shards").iterdir())
        assert held.claim.exists()


def test_a_starter_that_a_quicker_one_fenced_off_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire(tmp_path, ELSEWHERE)  # beats never
    cleared, clock = [], lease._clock

    def fenced_off_once(staging: Path) -> float:
        if not cleared:
            cleared.append(staging)
            shutil.rmtree(staging)
        return clock(staging)

    monkeypatch.setattr(lease, "_clock", fenced_off_once)
    time.sleep(0.6)
    with hold(tmp_path, replace(this_host(), stale_s=0.5)) as held:
        assert (held.token, held.taken_from) == (2, 1)
        assert held.staging not in cleared


def test_what_was_staged_before_the_takeover_cannot_be_renamed_after_it(tmp_path: Path) -> None:
    """The moment between writing a shard and its rename: the fence, not a look at a token, decides."""
    stale = acquire(tmp_path, ELSEWHERE)
    staged = stale.staging / "00000.x"
    staged.mkdir()
    inside = os.open(stale.staging, os.O_RDONLY)  # even by a descriptor that it kept
    time.sleep(0.6)
    with hold(tmp_path, replace(this_host(), stale_s=0.5)):
        for name, folder in ((str(staged), None), ("00000.x", inside)):
            with pytest.raises(FileNotFoundError):
                os.rename(name, tmp_path / "out", src_dir_fd=folder)
    os.close(inside)
    assert not (tmp_path / "out").exists()


def test_a_lost_lease_is_noticed(tmp_path: Path) -> None:
    with hold(tmp_path, ELSEWHERE) as first:
        os.utime(first.claim, (0, 0))
        lease._fenced_off(acquire_over(tmp_path, first))
        assert first.lost.wait(5)


def acquire_over(folder: Path, first: lease.Lease) -> lease.Lease:
    """Take over from a holder that beats, as if its clock had stood still."""
    first.claim.write_text(json.dumps({"token": first.token, "released": "by a wrong clock"}))
    return acquire(folder, this_host())


@pytest.mark.parametrize("starters", [2, 5])
def test_of_starters_at_once_one_gets_it(tmp_path: Path, starters: int) -> None:
    for trial in range(20):
        folder = tmp_path / str(trial)
        if trial % 2:  # one that died before
            dead = acquire(folder, Host(place="gone", stale_s=60))
            os.utime(dead.claim, (0, 0))
        gate, won, refused = threading.Barrier(starters), [], []

        def start(folder: Path = folder, gate=gate, won=won, refused=refused) -> None:
            gate.wait()
            try:
                won.append(acquire(folder, this_host()))
            except LeaseHeldError:
                refused.append(1)

        threads = [threading.Thread(target=start) for _ in range(starters)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(refused)) == (1, starters - 1)
        assert won[0].staging.exists()
        ledger.begin(folder, FACTS, won[0].staging)
        release(won[0])


def test_a_finished_holder_leaves_one_small_file(tmp_path: Path) -> None:
    for _ in range(3):
        with hold(tmp_path) as held:
            (held.staging / "half").write_bytes(b"half")
    assert [path.name for path in (tmp_path / ".leases").iterdir()] == ["0000000003.json"]
    assert not (tmp_path / ".staging").exists()
    assert "host" not in json.loads((tmp_path / ".leases" / "0000000003.json").read_text())
