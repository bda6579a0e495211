"""The site's salt: patient keys are HMACs under it. 32 random bytes in a file that only its owner reads."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from engine.errors import UsageError

SALT_BYTES = 32


def default_salt_path() -> Path:
    """``$OSTEORAY_SALT``, else ``osteoray/salt`` in the user's configuration folder."""
    named = os.environ.get("OSTEORAY_SALT")
    base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path(named) if named else base / "osteoray" / "salt"


def read_salt(path: Path | None = None) -> bytes:
    """The salt in ``path`` (default: the user's own, made on first use).

    Raises:
        UsageError: the file is short, or others may read it.
    """
    place = path or default_salt_path()
    if not place.exists():
        _make(place)
    require_private(place, "salt")
    salt = place.read_bytes()
    if len(salt) < SALT_BYTES:
        raise UsageError(f"the salt {place} is shorter than {SALT_BYTES} bytes")
    return salt


def require_private(place: Path, what: str) -> None:
    """Refuse a secret that others may read.

    Raises:
        UsageError: they may.
        OSError: there is no such file.
    """
    if stat.S_IMODE(place.stat().st_mode) & 0o077:
        raise UsageError(f"the {what} {place} can be read by others: chmod 600 it")


def check_of(salt: bytes) -> str:
    """What a manifest keeps to know the salt again: an HMAC of a constant, from which no salt follows."""
    return hmac.new(salt, b"osteoray: is it this salt?", hashlib.sha256).hexdigest()


def _make(place: Path) -> None:
    """Write a new salt aside and link it in place whole; of two verbs that start at once, one wins."""
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, aside = tempfile.mkstemp(dir=place.parent)  # only its owner can read it
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(SALT_BYTES))
        with suppress(FileExistsError):
            os.link(aside, place)
    finally:
        Path(aside).unlink()
