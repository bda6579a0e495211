"""A folder source: every regular file is planned once, in a stable order; nothing outside it is ever read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine import sources
from engine.errors import SourceReadError, UsageError


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


def test_read_gives_the_bytes(tree: Path) -> None:
    assert sources.read(str(tree), "b/no ending") == b"22"


@pytest.mark.parametrize("path", ["../secret", "/etc/hostname", "b/../../secret", "link", "absent", "b"])
def test_read_refuses_what_is_not_its_own(tree: Path, path: str) -> None:
    with pytest.raises(SourceReadError):
        sources.read(str(tree), path)


def test_senseless_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        sources.plan(str(tmp_path / "absent"), 2)
    with pytest.raises(UsageError, match="holds no files"):
        sources.plan(str(tmp_path), 2)
