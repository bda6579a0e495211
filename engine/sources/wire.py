"""What passes between a reader and its child process: frames of JSON facts and raw bytes over a socket.

A frame is two lengths (unsigned, 32 bits, little endian), the facts and the raw bytes. Nothing is pickled: a
child taken over by a hostile file can lie about the files that it reads. What else it could do is what
``engine.sources.confine`` leaves it.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from socket import socket
from typing import Any

from engine.errors import AlreadyScoredError, EngineError, FilteredError, InstanceError

Facts = dict[str, Any]

_HEAD = struct.Struct("<II")
_PIECE = 1 << 18
_MOST_TEXT = 256 << 20
_encode = json.JSONEncoder(separators=(",", ":")).encode


def send(channel: socket, facts: Facts, raw: bytes | memoryview = b"") -> None:
    """Write one frame.

    Raises:
        OSError: the other end is gone, or took longer than the socket's timeout.
    """
    text = _encode(facts).encode()
    channel.sendall(b"".join((_HEAD.pack(len(text), len(raw)), text, raw)))


class Frames:
    """The frames that come in on a socket."""

    def __init__(self, channel: socket) -> None:
        """Read nothing yet."""
        self._channel = channel
        self._buffer = bytearray()

    def receive(self, *, pause_s: float = 0.0) -> tuple[Facts, bytearray]:
        """The next frame. ``pause_s`` lets several small ones gather: waking up for each costs more than it.

        Raises:
            EOFError: the other end is gone.
            OSError: the same, or the socket's timeout passed.
        """
        while (frame := self._complete()) is None:
            if pause_s:
                time.sleep(pause_s)
            piece = self._channel.recv(_PIECE)
            if not piece:
                raise EOFError("the other end is gone")
            self._buffer += piece
        text, raw = frame
        facts: Facts = json.loads(text)
        return facts, raw

    def _complete(self) -> tuple[bytearray, bytearray] | None:
        if len(self._buffer) < _HEAD.size:
            return None
        text_bytes, raw_bytes = _HEAD.unpack_from(self._buffer)
        if text_bytes > _MOST_TEXT:
            raise EOFError("the other end sends more than any answer has")
        middle = _HEAD.size + text_bytes
        end = middle + raw_bytes
        if len(self._buffer) < end:
            return None
        frame = self._buffer[_HEAD.size : middle], self._buffer[middle:end]
        del self._buffer[:end]
        return frame


def error_facts(error: InstanceError | FilteredError) -> Facts:
    """A typed error as facts."""
    facts = {"code": error.code, "message": str(error), "content_sha256": error.content_sha256}
    return {**facts, "route": error.route} if isinstance(error, AlreadyScoredError) else facts


def error_from_facts(facts: Facts) -> InstanceError | FilteredError:
    """The typed error that ``error_facts`` described."""
    error = _ERRORS[facts["code"]](facts["message"])
    error.content_sha256 = facts["content_sha256"]
    if isinstance(error, AlreadyScoredError):
        error.route = str(facts["route"])
    return error


def _below(root: type[EngineError]) -> Iterator[type[Any]]:
    yield root
    for kind in root.__subclasses__():
        yield from _below(kind)


_ERRORS: dict[str, type[InstanceError | FilteredError]] = {
    kind.code: kind for root in (InstanceError, FilteredError) for kind in _below(root)
}
