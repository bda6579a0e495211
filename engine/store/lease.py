"""Who may write to an output folder: one run at a time, and a run that lost the folder can no longer write.

    DIR/.leases/0000000007.json    the claim of token 7: process, start, place; its mtime is the heartbeat
    DIR/.staging/<random name>/    where the holder of one claim prepares everything that it writes

*Claim.* A claim is linked into place whole, under the next token; of two starters ``link`` lets one through.
A claim is free when it was released, when it is empty (a full disk left no room for that word), when its
process is gone (same machine: number and start time of the process), or, where that cannot be seen, after
``STALE_S`` without a heartbeat, by the file system's clock.

*Fence.* Every durable step of a run is one ``rename`` out of its own staging folder. Whoever takes over first
claims, then moves every other staging folder into its own and empties it, and only then reads what is there.
``rename`` looks up its source under the lock of the folder that holds it. So a rename of the former holder
either came before its folder was emptied, and then the new holder sees its result, or it fails.

What this rests on: ``link``, ``mkdir`` and ``rename`` are atomic, as POSIX says of a local file system, and
NFS of its server. It does not hold where a rename is a copy: object stores, and mounts of them. A lock alone
would not do: a holder may be stopped between looking at the lock and writing.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from errno import EEXIST, ENOTEMPTY
from pathlib import Path

from engine.errors import LeaseHeldError, LeaseLostError, TableError
from engine.store.files import now, read_json, sync, write_json

CLAIMS = ".leases"
STAGING = ".staging"
BEAT_S = 5.0
STALE_S = 60.0

_ATTEMPTS = 100
_STATE, _START_TIME = 0, 19  # of /proc/PID/stat, counted behind the name of the program


@dataclass(frozen=True, slots=True)
class Lease:
    """A folder that this process holds.

    ``token`` grows by one with each holder; all that is written goes through ``staging``; ``taken_from`` is
    the token of a holder that ended without releasing. ``lost`` is set once another one has taken over.
    """

    folder: Path
    token: int
    staging: Path
    taken_from: int | None = None
    lost: threading.Event = field(default_factory=threading.Event)

    @property
    def claim(self) -> Path:
        """The file of the claim."""
        return _claim(self.folder, self.token)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where this process runs, and after what silence a holder elsewhere counts as gone."""

    place: str
    beat_s: float = BEAT_S
    stale_s: float = STALE_S


def this_host() -> Host:
    """That of this process: the boot of the machine and the space of process numbers, or the host's name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return Host(place=f"{boot} {os.readlink('/proc/self/ns/pid')}")
    except OSError:
        return Host(place=f"host {socket.gethostname()} process {os.getpid()}")


@contextmanager
def hold(folder: Path, host: Host | None = None) -> Iterator[Lease]:
    """Hold ``folder`` for this process, as long as the block lasts.

    Raises:
        LeaseHeldError: another process holds it.
    """
    chosen = host or this_host()
    lease = acquire(folder, chosen)
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(lease, chosen.beat_s, ended), daemon=True)
    beating.start()
    try:
        yield lease
    finally:
        ended.set()
        beating.join()
        release(lease)


def acquire(folder: Path, host: Host) -> Lease:
    """Claim ``folder`` and shut out every earlier holder; the caller beats and releases.

    Raises:
        LeaseHeldError: another process holds it.
    """
    (folder / CLAIMS).mkdir(parents=True, exist_ok=True)
    for _ in range(_ATTEMPTS):
        (folder / STAGING).mkdir(exist_ok=True)
        try:
            staging = Path(tempfile.mkdtemp(dir=folder / STAGING))
        except FileNotFoundError:  # a holder that ended cleared up in between
            continue
        lease = None
        try:
            lease = _claimed(folder, staging, host)
            if lease and _fenced_off(lease):
                return lease
        except BaseException:
            if lease:
                release(lease)
            shutil.rmtree(staging, ignore_errors=True)
            raise
        shutil.rmtree(staging, ignore_errors=True)
    raise LeaseHeldError(f"many jobs start on {folder} at once: try again")


def release(lease: Lease) -> None:
    """Give the folder back; nothing happens where another one has it by now.

    Never raises for a disk that refuses: why the run ended matters more.
    """
    try:
        for left in lease.staging.iterdir():  # on a full disk, that gives room for the word
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        write_json(lease.claim, {"token": lease.token, "released": now()}, lease.staging)
    except FileNotFoundError:  # it was moved away by the one who has the folder now
        pass
    except OSError:
        with suppress(OSError):  # no room even so: a claim that says nothing is that of nobody
            os.truncate(lease.claim, 0)
    shutil.rmtree(lease.staging, ignore_errors=True)
    with suppress(OSError):  # a starter may be at the door
        lease.staging.parent.rmdir()


@contextmanager
def durable(staging: Path | None) -> Iterator[None]:
    """A block that renames out of ``staging``: where that is gone, so is the lease.

    Raises:
        LeaseLostError: another run took the folder over.
    """
    try:
        yield
    except FileNotFoundError as error:
        if staging is None or staging.exists():
            raise
        raise LeaseLostError(
            f"another run took {staging.parent.parent} over: this one ends, that one goes on"
        ) from error


def _claim(folder: Path, token: int) -> Path:
    return folder / CLAIMS / f"{token:010d}.json"


def _tokens(folder: Path) -> list[int]:
    names = (path.stem for path in (folder / CLAIMS).glob("*.json"))
    return sorted(int(name) for name in names if name.isdecimal())


def _claimed(folder: Path, staging: Path, host: Host) -> Lease | None:
    """A claim under the next token, None where another starter was quicker to make it or to fence us off."""
    tokens = _tokens(folder)
    before = tokens[-1] if tokens else 0
    aside = staging / "claim"
    facts = {
        "token": before + 1, "at": now(), "place": host.place, "host": socket.gethostname(),
        "pid": os.getpid(), "started": _started(os.getpid()), "staging": staging.name,
    }  # fmt: skip
    try:
        taken_from = _free(folder, before, staging, host) if before else None
        lease = Lease(folder, before + 1, staging, taken_from)
        aside.write_text(json.dumps(facts, indent=1) + "\n")
        sync(aside)
        os.link(aside, lease.claim)
    except (FileExistsError, FileNotFoundError):
        return None
    try:
        sync(lease.claim.parent)
        is_last = _tokens(folder)[-1] == lease.token  # else the listing above was old
    except OSError:
        lease.claim.unlink(missing_ok=True)
        raise
    if not is_last:
        lease.claim.unlink(missing_ok=True)
        return None
    return lease


def _free(folder: Path, token: int, staging: Path, host: Host) -> int | None:
    """None where ``token`` was released; the token itself where its holder is gone.

    Raises:
        LeaseHeldError: it is held.
    """
    path = _claim(folder, token)
    try:
        facts = read_json(path)
        beat_s = path.stat().st_mtime
    except (TableError, FileNotFoundError):
        return token  # taken away by a later one; the next step finds out
    if "released" in facts:
        return None
    if facts["place"] == host.place:
        if facts["started"] != _started(facts["pid"]):
            return token
        raise LeaseHeldError(
            f"another job is writing to {folder} (process {facts['pid']}): "
            "wait for it, or choose another --out"
        )
    silence_s = _clock(staging) - beat_s
    if silence_s > host.stale_s:
        return token
    raise LeaseHeldError(
        f"another job is writing to {folder} (process {facts['pid']} on {facts['host']}, heard of "
        f"{max(silence_s, 0):.0f} s ago): wait for it, or choose another --out; "
        f"after {host.stale_s:.0f} s of silence the same command takes over"
    )


def _clock(staging: Path) -> float:
    """The time of the file system that holds the claims: clocks of two machines may differ."""
    probe = staging / "clock"
    probe.touch()
    return probe.stat().st_mtime


def _started(pid: int) -> str | None:
    """When a process of this machine started, in the kernel's ticks; None where it is gone."""
    try:
        words = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return None
    return None if words[_STATE] in "ZX" else words[_START_TIME]


def _fenced_off(lease: Lease) -> bool:
    """Empty the staging folders of all others, then forget their claims; False where we were shut out."""
    for entry in lease.staging.parent.iterdir():
        if entry != lease.staging:
            aside = lease.staging / f"fenced-{entry.name}"
            with suppress(FileNotFoundError):
                entry.rename(aside)
                _empty(aside)
    for token in _tokens(lease.folder):
        if token < lease.token:
            _claim(lease.folder, token).unlink(missing_ok=True)
    return lease.staging.exists()


def _empty(folder: Path) -> None:
    """Remove a folder into which somebody may still be writing, or a file."""
    if folder.is_file():
        folder.unlink()
        return
    for attempt in range(_ATTEMPTS):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            if not folder.exists():
                return
        except OSError as error:
            if error.errno not in {ENOTEMPTY, EEXIST} or attempt == _ATTEMPTS - 1:
                raise
        else:
            return


def _beat(lease: Lease, every_s: float, ended: threading.Event) -> None:
    """Touch the claim from time to time; say so when it is no longer ours."""
    while not ended.wait(every_s):
        try:
            os.utime(lease.claim)
        except FileNotFoundError:
            lease.lost.set()
        except OSError:
            continue  # a disk that is full or away: the run itself will say so
        if lease.lost.is_set() or not lease.staging.exists():
            lease.lost.set()
            return
