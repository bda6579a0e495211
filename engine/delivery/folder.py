"""A folder as a sink: one file an object, named by its UID, written whole or not at all.

The files hold patient identity, so only their owner can read them.
"""

from __future__ import annotations

import time
from pathlib import Path

from engine.delivery.sink import SENT, SendResult
from engine.store.files import PRIVATE, replacing

_LEFT_BEHIND_S = 3600.0
"""A half-written file of this age was left by a killed delivery."""


class Folder:
    """``DIR/<SOP instance UID>.dcm``."""

    def __init__(self, place: str) -> None:
        """Make the folder; remove files that killed deliveries left half written."""
        self._root = Path(place)
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in self._root.glob(".*.dcm.*"):
            if time.time() - path.stat().st_mtime > _LEFT_BEHIND_S:
                path.unlink(missing_ok=True)

    def send(self, uid: str, data: bytes) -> SendResult:
        """Write the file; one that is there already stays.

        Raises:
            OSError: the disk refused it.
        """
        target = self._root / f"{uid}.dcm"
        if target.exists():
            return SendResult(SENT, "already_there")
        with replacing(target, mode=PRIVATE) as temporary:
            temporary.write_bytes(data)
        return SendResult(SENT)

    def close(self) -> None:
        """Nothing is open."""
