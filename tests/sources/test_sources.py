"""A folder source: every regular file is planned once, in a stable order; nothing outside it is ever read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine import sources
from engine.errors import OverLimitError, SourceReadError, UsageError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "archive"
    (root / "b" / "deep").mkdir(parents=True)
    (root / "a").write_bytes(b"1")
    (root / "b" / "no ending").write_bytes(b"22")
    (root / "b" / "deep" / "x.dcm").write_bytes(b"333")
    (root / "labels.csv").write_text("labels")
    (root / "b" / "labels.csv").write_text("an instance as any other")
    (tmp_path / "secret").write_bytes(b"outside")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "folder-link").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    return root


def test_plan_is_sorted_and_holds_regular_files_only(tree: Path) -> None:
    plan = sources.plan(str(tree), 2)
    assert plan["path"].to_pylist() == ["a", "b/deep/x.dcm", "b/labels.csv", "b/no ending"]
    assert plan["instance_index"].to_pylist() == [0, 1, 2, 3]
    assert plan["shard"].to_pylist() == [0, 0, 1, 1]
    assert plan["size_bytes"].to_pylist() == [1, 3, 24, 2]


def test_folders_and_files_mixed_come_in_the_order_of_whole_paths(tmp_path: Path) -> None:
    paths = ["a", "a b/x", "a-b/x", "a.dcm", "a/x/y", "ab", "b/1", "b/10", "b/2", "\u00e9/x", "z\U0001f9b4"]
    for number, path in enumerate(reversed(paths)):
        place = tmp_path / (path if path != "a/x/y" else "a!/x/y")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"1" * number)
    planned = sources.plan(str(tmp_path), 2)["path"].to_pylist()
    assert planned == sorted(planned, key=lambda path: path.encode())
    assert len(planned) == len(paths)


def test_a_flat_folder_of_many_names_is_planned_in_order(tmp_path: Path) -> None:
    for number in range(5000):
        (tmp_path / f"{number * 7919 % 5000}").touch()
    planned = sources.plan(str(tmp_path), 512)["path"].to_pylist()
    assert planned == sorted(str(number) for number in range(5000))


def test_read_gives_the_bytes(tree: Path) -> None:
    assert sources.read(str(tree), "b/no ending") == b"22"


OUTSIDE = [
    "../secret",
    "/etc/hostname",
    "b/../../secret",
    "link",
    "folder-link/secret",
    "absent",
    "b",
    "pipe",
    "",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_read_refuses_what_is_not_its_own(tree: Path, path: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SourceReadError):
        sources.read(str(tree), path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_above_the_cap_is_not_read(tree: Path) -> None:
    assert sources.read(str(tree), "b/deep/x.dcm", max_bytes=3) == b"333"
    with pytest.raises(OverLimitError, match="3 bytes, the cap is 2"):
        sources.read(str(tree), "b/deep/x.dcm", max_bytes=2)


def test_names_that_are_no_utf8_go_through_a_plan(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/M\xfcller"
    os.mkdir(folder)
    with open(folder + b"/a\xff.dcm", "wb") as stream:
        stream.write(b"bytes")
    (path,) = sources.plan(str(tmp_path), 2)["path"].to_pylist()
    assert path.encode("utf-8")
    assert sources.read(str(tmp_path), path) == b"bytes"


def test_senseless_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder or file"):
        sources.plan(str(tmp_path / "absent"), 2)
    with pytest.raises(UsageError, match="holds no files"):
        sources.plan(str(tmp_path), 2)
