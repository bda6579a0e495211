"""Real faults: a disk that is full, read-only or broken, a kill at any step of any sink.

Each time: a clear error, nothing torn under a final name, and the same thing again comes to the same end.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pydicom
import pytest

from engine.delivery import outbox
from engine.delivery.dimse import Dimse
from engine.delivery.folder import Folder
from engine.delivery.outbox import Outbox
from engine.delivery.send import Options, deliver
from engine.delivery.stow import Stow
from engine.delivery.whole_files import writer_for
from engine.errors import StorageError
from engine.store import audit_log, ledger, verification
from engine.store.files import read_json
from tests.fixtures.night_fixture import STEPS, Step, ends, named, night, steps_of, write
from tests.fixtures.outside import require
from tests.fixtures.results_fixture import scored_archive, storescp
from tests.fixtures.source_fixture import orthanc
from tests.fixtures.story import osteoray

FILES = {**named(["f0", "f2", "f3"]), "f1": "pixel_decode"}  # two shards
ONE = Options(threads=1)
STRACE = shutil.which("strace")
FAILING = {"fsync": "fsync", "rename": "/^rename(at2?)?$"}
"""What the system calls it, on every kind of processor."""
Point = tuple[Step, bool]
"""Where to die: at a step, behind it or before."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("OSTEORAY_DICOMWEB_USER", "reader")
    monkeypatch.setenv("OSTEORAY_DICOMWEB_PASSWORD", "secret-word")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of one MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)):
        pytest.skip("no right to mount a disk here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def mount(*words: str) -> bool:
    done = subprocess.run(["mount", *words], capture_output=True, check=False) if os.geteuid() == 0 else None
    return done is not None and done.returncode == 0


def leave(disk: Path, pages: int) -> Path:
    """A file that fills the disk but for so many pages."""
    ballast = disk / "ballast"
    with ballast.open("wb") as stream:
        room = os.statvfs(disk)
        os.posix_fallocate(stream.fileno(), 0, (room.f_bavail - pages) * room.f_bsize)
    return ballast


def require_nothing_torn(out: Path) -> None:
    """What has its final name is whole; what has not is out of the way."""
    assert not list((out / ".staging").glob("*/*"))
    for path in (out / "manifest.json", *out.glob("shards/*/shard.json")):
        assert not path.exists() or read_json(path)
    for path in (out / "plan.parquet", *out.glob("shards/*/*.parquet")):
        assert not path.exists() or ledger.read_table(path).num_rows is not None
    for folder in out.glob("shards/*"):
        assert {entry.name for entry in folder.iterdir()} == {
            "shard.json", *read_json(folder / "shard.json")["sha256"]
        }  # fmt: skip
    assert list(audit_log.read(out, may_be_torn=True)) is not None


def test_a_disk_may_be_full_at_any_moment_of_a_night(disk: Path) -> None:
    for pages in range(200):
        root = disk / str(pages)
        write(root, **FILES)
        ballast = leave(disk, pages)
        try:
            night(root)
        except OSError as error:  # it becomes ORY-S01, see below
            refused = error.errno
        else:
            assert pages >= 5
            return
        assert refused == errno.ENOSPC
        require_nothing_torn(root / "out")
        ballast.unlink()
        assert night(root) == verification.verify(root / "out")
        assert [row[0] for row in ends(root)] == sorted(FILES)
        shutil.rmtree(root)
    raise AssertionError("a night takes more room than expected")


def test_a_disk_may_be_full_at_any_moment_of_a_delivery(disk: Path, tmp_path: Path) -> None:
    whole, sink = scored_archive(tmp_path, count=2), tmp_path / "sink"
    for pages in range(200):
        scores = shutil.copytree(whole, disk / "scores")
        ballast = leave(disk, pages)
        try:
            deliver(scores, str(sink), ONE)
        except StorageError:
            refused = errno.ENOSPC
        except OSError as error:
            refused = error.errno
        else:
            assert pages >= 3
            return
        assert refused == errno.ENOSPC
        ballast.unlink()
        assert deliver(scores, str(sink), ONE)["sent"] == 2
        assert len(whole_objects(sink)) == 2
        shutil.rmtree(scores)
        shutil.rmtree(sink)
    raise AssertionError("a delivery takes more room than expected")


@pytest.mark.parametrize("to", ["sink", "table.csv", "table.xlsx", "fhir:bundles"])
def test_a_full_sink_is_said_to_be_full(disk: Path, tmp_path: Path, to: str) -> None:
    scores, (kind, _, name) = scored_archive(tmp_path, count=3), to.rpartition(":")
    target = f"{kind}:{disk / name}" if kind else str(disk / name)
    ballast = leave(disk, 0)
    ended = osteoray("deliver", scores, "--to", target)
    assert (ended.code, ended.facts["error"]) == (1, "ORY-S01")
    assert "No space left on device" in ended.facts["message"]
    assert [path for path in disk.rglob("*") if path.is_file()] == [ballast]
    ballast.unlink()
    assert osteoray("deliver", scores, "--to", target).code == 0
    assert len([path for path in disk.rglob("*") if path.is_file()]) == (1 if "table" in to else 3)


def test_a_disk_may_become_read_only(disk: Path) -> None:
    root = disk
    write(root, **FILES)
    assert steps_of(lambda: night(root), die_at=8) == -9
    assert mount("-o", "remount,ro", str(disk))
    with pytest.raises(OSError, match="Read-only file system") as refused:
        night(root)
    assert refused.value.errno == errno.EROFS
    assert mount("-o", "remount,rw", str(disk))
    counts = night(root)
    assert mount("-o", "remount,ro", str(disk))
    assert verification.verify(root / "out") == counts
    ended = osteoray("verify", root / "out")
    assert (ended.code, ended.facts["planned"]) == (0, 4)


@pytest.mark.parametrize("call", FAILING)
@pytest.mark.timeout(600)
def test_each_call_of_the_disk_may_fail(tmp_path: Path, call: str) -> None:
    """EIO from the kernel, injected by strace: at each fsync of a night once, and at each rename."""
    require(STRACE is not None, "strace", "strace")
    from tests.fixtures.failing_disk import PERIOD

    inject = f"inject={FAILING[call]}:error=EIO:when={PERIOD}+{PERIOD}"
    command = [STRACE, "-qq", "-o", os.devnull, "-e", f"trace={FAILING[call]}", "-e", inject]
    words = [sys.executable, "-m", "tests.fixtures.failing_disk", call, str(tmp_path)]
    if subprocess.run([STRACE, "-qq", "-o", os.devnull, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no right to trace a process here")
    done = subprocess.run([*command, *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) >= 4


def test_a_night_may_be_killed_before_each_sync(tmp_path: Path) -> None:
    """Beside the matrix of what makes something appear (test_night): when it is written, but not safe."""
    whole, syncs, files = tmp_path / "whole", ((os, "fsync"),), {"f0": "good", "f1": "pixel_decode"}
    write(whole, **files)
    count = steps_of(lambda: night(whole), steps=syncs)
    assert count >= 15
    expected, counts = ends(whole), verification.verify(whole / "out")
    for step in range(1, count + 1):
        root = tmp_path / str(step)
        write(root, **files)
        assert steps_of(lambda root=root: night(root), die_at=step, steps=syncs) == -9
        assert night(root) == counts
        assert ends(root) == expected
        assert verification.verify(root / "out") == counts


def deaths(sink: type[Any]) -> list[Point]:
    """Around the first object: before and behind its sending, before and behind its note."""
    return [(step, after) for step in ((sink, "send"), (Outbox, "settle")) for after in (False, True)]


def die_delivering(root: Path, to: str, point: Point) -> Path:
    step, after = point
    scores = scored_archive(root, count=2)
    assert steps_of(lambda: deliver(scores, to, ONE), die_at=1, after=after, steps=[step]) == -9
    return scores


def whole_objects(folder: Path) -> list[str]:
    """UIDs of the objects in a folder, each read to its end; hidden files are nobody's business."""
    files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    assert all(pydicom.dcmread(path).ContentSequence for path in files)
    return [str(pydicom.dcmread(path).SOPInstanceUID) for path in files]


def test_a_delivery_to_a_folder_may_be_killed_around_each_step(tmp_path: Path) -> None:
    for number, point in enumerate([*deaths(Folder), *((step, False) for step in STEPS[1:2])]):
        root = tmp_path / str(number)
        scores = die_delivering(root, str(root / "sink"), point)
        assert deliver(scores, str(root / "sink"), ONE)["sent"] == 2
        assert len(set(whole_objects(root / "sink"))) == len(whole_objects(root / "sink")) == 2


def test_a_delivery_to_a_real_node_may_be_killed_around_each_step(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with storescp(kept) as port:
        to = f"dimse://127.0.0.1:{port}/PACS"
        for number, point in enumerate(deaths(Dimse)):
            scores = die_delivering(tmp_path / str(number), to, point)
            assert deliver(scores, to, ONE)["sent"] == 2
            assert len(set(whole_objects(kept))) == len(whole_objects(kept)) == 2
            for path in kept.iterdir():
                path.unlink()


def test_a_delivery_to_a_real_pacs_may_be_killed_around_each_step(tmp_path: Path) -> None:
    with orthanc(tmp_path / "orthanc") as port:
        to = f"dicomweb+http://127.0.0.1:{port}/dicom-web"
        for number, point in enumerate(deaths(Stow)):
            scores = die_delivering(tmp_path / str(number), to, point)
            assert deliver(scores, to, ONE)["sent"] == 2
            assert len(ask(port, "/instances")) == 2
            for study in ask(port, "/studies"):
                ask(port, f"/studies/{study}", "DELETE")


def ask(port: int, path: str, method: str = "GET") -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    request.add_header("Authorization", "Basic cmVhZGVyOnNlY3JldC13b3Jk")  # reader:secret-word
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


@pytest.mark.parametrize("to", ["table.csv", "table.xlsx", "fhir:bundles"])
def test_files_may_be_killed_at_each_step_and_are_whole_or_absent(tmp_path: Path, to: str) -> None:
    scores, steps = scored_archive(tmp_path, count=2), ((os, "fsync"), *STEPS)

    def write_to(place: Path) -> None:
        kind, _, name = to.rpartition(":")
        writer = writer_for(f"{kind}:{place / name}" if kind else str(place / name))
        assert writer is not None
        place.mkdir(exist_ok=True)
        writer(scores)

    count = steps_of(partial(write_to, tmp_path / "whole"), steps=steps)
    expected = contents(tmp_path / "whole")
    assert count >= 3 * len(expected) > 0
    for step in range(1, count + 1):
        place = tmp_path / f"{step}"
        assert steps_of(partial(write_to, place), die_at=step, steps=steps) == -9
        assert contents(place).items() <= expected.items()
        write_to(place)
        assert contents(place) == expected


def contents(place: Path) -> dict[str, bytes]:
    """What has a final name."""
    files = [path for path in place.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(place)): path.read_bytes() for path in files}
