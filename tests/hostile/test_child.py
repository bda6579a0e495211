"""The processes that read strangers' bytes: what a taken-over one cannot do, and what an ended one costs."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from engine import sources
from engine.errors import IsolationError
from engine.sources import apart, confine
from tests.fixtures.source_fixture import write_tree, write_zip
from tests.hostile.archives import LIES, SOUND

_TRY = """
import os, socket, subprocess, sys
from pathlib import Path
from engine.sources.confine import confine
words = sys.argv
confine(is_local=words[1] == "local", writable=[Path(words[2]) / "open"])
for name, attempt in {
    "write below": lambda: open(os.path.join(words[2], "open", "x"), "w"),
    "write": lambda: open(os.path.join(words[2], "x"), "w"),
    "cut": lambda: os.truncate(os.path.join(words[2], "there"), 0),
    "remove": lambda: os.remove(os.path.join(words[2], "there")),
    "signal": lambda: os.kill(os.getppid(), 0),
    "socket": lambda: socket.socket(),
    "udp": lambda: socket.socket(type=socket.SOCK_DGRAM),
    "program": lambda: subprocess.run(["true"]),
    "read": lambda: open(os.path.join(words[2], "there")),
}.items():
    try:
        attempt()
        print(name)
    except OSError:
        pass
"""


def landlock_version() -> int:
    import ctypes

    return int(ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1))


def allowed(kind: str, folder: Path) -> set[str]:
    (folder / "there").write_text("there")
    done = subprocess.run(
        [sys.executable, "-c", _TRY, kind, str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stdout.split("\n")) - {""}


@pytest.mark.skipif(landlock_version() < 6, reason="this kernel has no Landlock of ABI 6")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="no seccomp table for it")
def test_a_confined_process_reads_and_does_no_more(tmp_path: Path) -> None:
    assert allowed("local", tmp_path) == {"read", "write below"}
    assert allowed("remote", tmp_path) == {"read", "write below", "socket", "udp", "program"}


def test_a_child_gets_no_token_and_no_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = (
        "OSTEORAY_SALT",
        "OSTEORAY_DICOMWEB_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "OSTEORAY_KEY",
        "MY_TOKEN",
    )
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    assert not {*secrets} & confine.environment(is_local=True).keys()
    for_servers = confine.environment(is_local=False)
    assert {*secrets} & for_servers.keys() == {"OSTEORAY_DICOMWEB_TOKEN", "AWS_SECRET_ACCESS_KEY"}


def test_both_children_run_confined(tmp_path: Path) -> None:
    """The rights of the very processes, as the kernel states them."""
    from engine.ingest.decode_process import Isolation, reader
    from engine.ingest.sample import Reading
    from tests.fixtures.fuzz import RULE

    own = reader(Isolation())
    own.read(
        Reading(source=str(write_tree(tmp_path / "a", {"b": b"1"})), rules=(RULE,), salt=bytes(32)), ["b"]
    )
    assert own._child is not None
    pid = own._child._process.pid
    status = dict(
        line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert not [one for one in environment if one.startswith((b"OSTEORAY_", b"AWS_"))]


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_a_listing_apart_is_the_same(tmp_path: Path, kind: str) -> None:
    tree = write_tree(tmp_path / "tree", {f"s{n % 7}/i{n}": bytes([n % 250]) for n in range(300)})
    write_zip(tree / "z.zip", {f"m{n}": b"1" for n in range(5000)})
    (tree / f"x{LIES['tar sparse map'].suffix}").write_bytes(LIES["tar sparse map"].make())
    source = {"folder": tree, "zip": tree / "z.zip", "tar": tree / "x.tar"}[kind]
    assert sources.plan(str(source), 10, apart=True).equals(sources.plan(str(source), 10))


def test_an_archive_that_ends_the_listing_process_is_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended at its opening, or silent there: the rest is listed by a fresh process."""
    broken = tmp_path / "worker.py"
    broken.write_text(
        "import os, time\n"
        "from engine.sources import archives, list_worker\n"
        "members = archives.Archives.members\n"
        "def instead(self, name, opener):\n"
        "    os.abort() if 'abort' in name else time.sleep(60) if 'hang' in name else None\n"
        "    return members(self, name, opener)\n"
        "archives.Archives.members = instead\n"
        "list_worker.main()\n"
    )
    monkeypatch.setattr(apart, "_WORKER", (str(broken),))
    tree = write_tree(tmp_path / "tree", {"first": b"1", "last": b"2"})
    for name in ("abort.zip", "good.zip", "hang.zip"):
        write_zip(tree / name, {SOUND: b"3"})
    table = apart.list_apart(str(tree), bounds=apart.Bounds(silence_s=10))
    assert table["path"].to_pylist() == ["abort.zip", "first", f"good.zip!/{SOUND}", "hang.zip", "last"]


def test_a_listing_process_that_ends_at_nothing_is_one_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "_WORKER", ("-c", "import os; os.abort()"))
    with pytest.raises(IsolationError, match="ended"):
        apart.list_apart(str(write_tree(tmp_path / "tree", {"a": b"1"})))
