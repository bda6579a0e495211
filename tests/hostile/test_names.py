"""Names that are odd, doubled or look like something else: each member is one row, read once."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from engine import sources
from engine.errors import InstanceError
from engine.sources.names import from_plan, to_plan

Members = Sequence[tuple[str, bytes]]
PRIVATE = "\uf780\uf7ff\uf77f\uf77f\uf780x\uf7a0"
MEMBERS: dict[str, Members] = {
    "doubled, and named as a double": [("a", b"1"), ("a", b"2"), ("a!duplicate2", b"3")],
    "doubled doubles": [(name, bytes([n])) for n, name in enumerate(("a!duplicate2",) * 2 + ("a",) * 3)],
    "characters of the private use area": [(PRIVATE, b"1"), (f"b{PRIVATE}/x", b"2"), ("\uf77e", b"3")],
    "ends in a slash, with bytes": [("x/", b"1"), ("y", b"2")],
    "looks like a member": [("x.zip!/a", b"1"), ("y!/z", b"2"), ("!/a", b"3")],
    "the end of a listing": [("not-all-listed", b"1"), ("without-uid-0", b"2")],
    "control characters": [("a\nb\x1b[31m", b"1"), ("\x7f", b"2")],
    "a name of 300 characters": [("n" * 200 + "/" + "m" * 100, b"1")],
}  # fmt: skip


def as_folder(root: Path, members: Members) -> Path:
    for name, data in dict(reversed([(name.rstrip("/"), data) for name, data in members])).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def as_zip(root: Path, members: Members) -> Path:
    with zipfile.ZipFile(root / "o.zip", "w") as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data)
    return root


def as_tar(root: Path, members: Members) -> Path:
    with tarfile.open(root / "o.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return root


def as_tgz(root: Path, members: Members) -> Path:
    with tarfile.open(root / "o.tgz", "w:gz", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return root


def outcome(source: Path, path: str) -> bytes | str:
    try:
        return sources.read(str(source), path)
    except InstanceError as error:
        return error.reason


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("write", [as_folder, as_zip, as_tar, as_tgz])
@pytest.mark.parametrize("kind", MEMBERS)
def test_each_member_is_one_row_and_its_bytes_are_read_once(
    tmp_path: Path, kind: str, write: Callable[[Path, Members], Path]
) -> None:
    members = MEMBERS[kind]
    if write is as_folder:
        members = list({name.rstrip("/"): (name, data) for name, data in reversed(members)}.values())
    source = write(tmp_path, members)
    paths = sources.plan(str(source), 10)["path"].to_pylist()
    assert len(paths) == len(set(paths)) == len(members)
    read = Counter(outcome(source, path) for path in paths)
    firsts = Counter({name: data for name, data in reversed(members)}.values())
    assert read - Counter({"source_read": len(members)}) == firsts


@pytest.mark.parametrize(
    "name", [PRIVATE, "\udc80\udcff\uf780", "\uf77f", "\uf77f\udc80", "plain", "é\uf77f\uf77f"]
)
def test_a_name_comes_back_from_the_plan(name: str) -> None:
    assert from_plan(to_plan(name)) == name
    assert to_plan(name).encode()


def test_names_that_are_no_utf8_are_read(tmp_path: Path) -> None:
    for name in (b"\xff\x80", "\uf7ff\uf780".encode(), "\uf77f".encode() + b"\x80"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as stream:
            stream.write(name)
    plan = sources.plan(str(tmp_path), 10)["path"].to_pylist()
    assert len({sources.read(str(tmp_path), path) for path in plan}) == 3
