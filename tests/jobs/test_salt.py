"""The site's salt is made once, private, and refused where others may read it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from engine.errors import UsageError
from jobs.salt import SALT_BYTES, default_salt_path, read_salt


def test_made_on_first_use_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "salt"
    salt = read_salt(path)
    assert len(salt) == SALT_BYTES
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_salt(path) == salt
    assert read_salt(tmp_path / "other") != salt


def test_two_that_start_at_once_take_the_same_salt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one makes its salt while we are about to link ours."""
    path, others = tmp_path / "salt", b"o" * SALT_BYTES

    def link_too_late(aside: str, place: Path) -> None:
        place.write_bytes(others)
        place.chmod(0o600)
        raise FileExistsError

    monkeypatch.setattr(os, "link", link_too_late)
    assert read_salt(path) == others
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o604, 0o660, 0o644, 0o620])
def test_any_right_of_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "salt"
    read_salt(path)
    path.chmod(mode)
    with pytest.raises(UsageError, match="can be read by others"):
        read_salt(path)


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OSTEORAY_SALT", "/somewhere/else")
    assert default_salt_path() == Path("/somewhere/else")
    monkeypatch.delenv("OSTEORAY_SALT")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_salt_path() == tmp_path / "osteoray" / "salt"


def test_readable_by_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "salt"
    read_salt(path)
    path.chmod(0o640)
    with pytest.raises(UsageError, match="chmod 600"):
        read_salt(path)


def test_too_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "salt"
    path.write_bytes(b"short")
    path.chmod(0o600)
    with pytest.raises(UsageError, match="shorter"):
        read_salt(path)
