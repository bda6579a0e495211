"""The site's salt is made once, private, and refused where others may read it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from engine.errors import UsageError
from jobs.salt import SALT_BYTES, read_salt


def test_made_on_first_use_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "salt"
    salt = read_salt(path)
    assert len(salt) == SALT_BYTES
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_salt(path) == salt
    assert read_salt(tmp_path / "other") != salt


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
