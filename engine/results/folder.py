"""A folder as a sink: one file an object, named by its UID, that appears whole or not at all.

The files hold patient identity, so only their owner can read them.
"""

from __future__ import annotations

from pathlib import Path

from engine.manifest import replacing
from engine.results.sending import SENT, Answer


class Folder:
    """``DIR/<SOP instance UID>.dcm``."""

    def __init__(self, place: str) -> None:
        """Make the folder."""
        self._root = Path(place)
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def send(self, uid: str, data: bytes) -> Answer:
        """Write the file; one that is there already stays.

        Raises:
            OSError: the disk refused it: no other object would fare better.
        """
        target = self._root / f"{uid}.dcm"
        if target.exists():
            return Answer(SENT, "already_there")
        with replacing(target) as temporary:
            temporary.write_bytes(data)
        target.chmod(0o600)
        return Answer(SENT)

    def close(self) -> None:
        """Nothing is open."""
