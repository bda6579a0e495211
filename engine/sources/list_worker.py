"""The process that lists a source: ``python -m engine.sources.list_worker PARENT_PID MEMORY_BYTES``.

Its standard input is a socket: one order names the source, and what is found goes back in pieces.
"""

from __future__ import annotations

import socket
import sys
import time
from contextlib import suppress

from engine import sources
from engine.errors import EngineError, StorageError
from engine.sources import wire
from engine.sources.confine import bound, confine, depend_on
from engine.sources.listing import Entry

_PIECE = 4096
_INTERVAL_S = 0.5


class _Answers:
    """Members on their way to the parent, some thousands or half a second of them at a time."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._piece: list[Entry] = []
        self._sent_s = time.monotonic()

    def add(self, entry: Entry | None) -> None:
        if entry is not None:
            self._piece.append(entry)
        if len(self._piece) == _PIECE or (
            (entry is None or len(self._piece) % 64 == 0) and time.monotonic() > self._sent_s + _INTERVAL_S
        ):
            self.send({})

    def archive(self, path: str) -> None:
        """The one that is opened next."""
        self.send({"archive": path})

    def send(self, facts: wire.Facts) -> None:
        members = {"members": list(zip(*self._piece, strict=True))} if self._piece else {}
        wire.send(self._channel, {**members, **facts})
        self._piece.clear()
        self._sent_s = time.monotonic()


def main() -> None:
    """Fulfil one order."""
    parent, memory_bytes = (int(word) for word in sys.argv[1:])
    depend_on(parent)
    channel = socket.socket(fileno=sys.stdin.fileno())
    bound(memory_bytes)
    with suppress(EOFError, ConnectionError):
        order, _ = wire.Frames(channel).receive()
        confine(is_local=sources.is_local(order["source"]))
        answers = _Answers(channel)
        try:
            for entry in sources.entries(order["source"], answers.archive, order["broken"]):
                answers.add(entry)
            answers.send({"is_done": True, "passed_over": sources.counted(order["source"])})
        except EngineError as error:
            code = StorageError.code if isinstance(error, StorageError) else "ORY-U01"
            answers.send({"error": code, "message": str(error)})


if __name__ == "__main__":
    main()
