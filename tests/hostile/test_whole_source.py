"""All that lies in a source is a row of the plan, or counted: nothing is passed over in silence."""

from __future__ import annotations

import gzip
import json
import os
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import sources
from engine.errors import InstanceError, SourceReadError, UsageError
from engine.sources import tree as trees
from engine.store import ledger, passed_over
from tests.fixtures.source_fixture import s3_bucket, write_tar, write_tree, write_zip
from tests.hostile.archives import CONTENT, END, SOUND, header, padded, tar_of

APART = pytest.mark.parametrize("apart", [False, True], ids=["here", "apart"])


def outcomes(source: Path | str) -> dict[str, bytes | str]:
    found: dict[str, bytes | str] = {}
    for path in sources.plan(str(source), 10)["path"].to_pylist():
        try:
            found[path] = sources.read(str(source), path)
        except InstanceError as error:
            found[path] = error.reason
    return found


@APART
def test_links_pipes_and_sockets_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    tree = write_tree(tmp_path / "tree", {"a": b"1", "sub/b": b"2"})
    (tmp_path / "other").mkdir()
    (tree / "year").symlink_to(tmp_path / "other")
    (tree / "sub" / "file").symlink_to(tree / "a")
    (tree / "nowhere").symlink_to("nowhere")
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as own:
        monkeypatch.chdir(tree)
        own.bind("socket")
        plan = sources.plan(str(tree), 10, apart=apart)
    assert plan["path"].to_pylist() == ["a", "sub/b"]
    counts = {trees.LINKS: 3, trees.SPECIAL: 2}
    assert passed_over.of(plan.schema) == counts
    written = ledger.write_plan(tmp_path, plan)
    assert written.equals(plan)
    assert passed_over.said(tmp_path / ledger.PLAN_NAME) == {"passed_over": counts}
    (tree / "a").unlink()
    (tree / "sub" / "b").unlink()
    with pytest.raises(UsageError, match=f"holds no files.*, 3 {trees.LINKS}"):
        sources.plan(str(tree), 10, apart=apart)


@APART
def test_a_folder_too_deep_is_a_row(tmp_path: Path, apart: bool) -> None:
    tree = write_tree(tmp_path / "tree", {"a": b"1", "z": b"2"})
    here = os.open(tree, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        here = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
    paths = sources.plan(str(tree), 10, apart=apart)["path"].to_pylist()
    assert paths[0] == "a"
    assert paths[-1] == "z"
    assert len(paths) == 3
    with pytest.raises(SourceReadError, match="could not be listed"):
        sources.read(str(tree), paths[1])


@pytest.mark.parametrize(
    ("error", "rows"), [(PermissionError(13, "no rights"), 1), (FileNotFoundError(2, "gone"), 0)]
)
def test_a_folder_that_cannot_be_listed_is_a_row_or_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, rows: int
) -> None:
    tree = write_tree(tmp_path / "tree", {"a": b"1", "m/n/b": b"2", "m/o": b"3", "z": b"4"})
    scan = os.scandir

    def instead(folder: bytes) -> object:
        if folder.endswith(b"m/n"):
            raise error
        return scan(folder)

    monkeypatch.setattr(trees.os, "scandir", instead)
    plan = sources.plan(str(tree), 10)
    assert plan["path"].to_pylist() == ["a", *["m/n"] * rows, "m/o", "z"]
    assert passed_over.of(plan.schema) == ({} if rows else {trees.VANISHED: 1})


def test_members_of_a_zip_that_look_like_folders(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, data, maker in (("x/", b"bytes", 3), ("y/", b"", 3), ("dir\\", b"", 0), ("b\\", b"1", 0)):
            info = zipfile.ZipInfo(name)
            info.create_system = maker
            archive.writestr(info, data)
    data = (tmp_path / "x.zip").read_bytes()
    assert b"dir\\" in data
    assert outcomes(tmp_path / "x.zip") == {"x/": b"bytes", "b\\": b"1"}


JOINED: dict[str, Callable[[bytes, bytes], bytes]] = {
    ".tar": lambda a, b: a + b,
    ".tgz": lambda a, b: gzip.compress(a) + gzip.compress(b),
    ".tar.gz": lambda a, b: gzip.compress(a + bytes(10_240) + b),
}


@pytest.mark.parametrize("suffix", JOINED)
def test_a_second_tar_behind_the_first_is_planned(tmp_path: Path, suffix: str) -> None:
    second = header("b", 3) + padded(b"two") + END
    (tmp_path / f"x{suffix}").write_bytes(JOINED[suffix](tar_of(), second))
    assert outcomes(tmp_path / f"x{suffix}") == {SOUND: CONTENT, "b": b"two"}


def test_zips_that_were_joined_are_all_planned(tmp_path: Path) -> None:
    parts = [
        write_zip(tmp_path / f"{n}.zip", {f"m{n}": bytes([n]), "same": b"s"}).read_bytes() for n in range(3)
    ]
    joined = write_tree(tmp_path / "tree", {"x.zip": b"".join(parts)})
    assert outcomes(joined / "x.zip") == {
        "m0": b"\0", "m1": b"\1", "m2": b"\2", "same": b"s",
        "same!duplicate2": "source_read", "same!duplicate3": "source_read",
    }  # fmt: skip
    (joined / "x.zip").write_bytes(parts[0] + b"picture behind the end")
    assert outcomes(joined) == {"x.zip": "source_read", "x.zip!/m0": b"\0", "x.zip!/same": b"s"}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("part", [0.2, 0.5, 0.95])
def test_a_cut_tar_gives_what_is_before_the_cut_by_one_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, part: float
) -> None:
    content = {f"m{n:03d}": os.urandom(3000) for n in range(100)}
    path = write_tar(tmp_path / f"x{suffix}", content)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    walks = []
    from engine.sources import tarred

    index = tarred.index
    monkeypatch.setattr(tarred, "index", lambda *words: walks.append(1) or index(*words))
    found = outcomes(path)
    assert found.pop("not-all-listed") == "source_read"
    whole = {name: data for name, data in found.items() if data == content[name]}
    assert len(whole) >= len(found) - 1
    assert len(whole) > 100 * part - 8
    assert len(walks) == 1


def test_an_archive_cut_between_two_members_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_of()[: -len(END)])
    assert outcomes(tmp_path / "x.tar") == {SOUND: CONTENT, "not-all-listed": "source_read"}


@APART
def test_keys_with_empty_parts_are_rows(monkeypatch: pytest.MonkeyPatch, apart: bool) -> None:
    keys = {"a": b"1", "x//b": b"2", "x/c": b"3", "y/": b"4"}
    with s3_bucket(keys, monkeypatch) as source:
        paths = sources.plan(source, 10, apart=apart)["path"].to_pylist()
        found = outcomes(source)
        sources.release()
    assert len(paths) == 4
    assert {name: data for name, data in found.items() if data != "source_read"} == {"a": b"1", "x/c": b"3"}
    assert found["x//b"] == "source_read"


def test_the_counts_survive_json(tmp_path: Path) -> None:
    plan = passed_over.noted(
        sources.plan(str(write_tree(tmp_path / "t", {"a": b"1"})), 1), {"links": 2, "none": 0}
    )
    assert json.loads(json.dumps(passed_over.of(plan.schema))) == {"links": 2}
