"""The reading child with native code that breaks: what happens is written into a file's preamble."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs

import engine.reading
from engine import reader_child
from engine.isolation import Isolation

PREAMBLE_BYTES = 128


def broken(part_10: bytes, way: str, argument: str = "") -> bytes:
    """The file, breaking the child that reads it in a ``way`` of WAYS."""
    note = f"{way}|{argument}|".encode()
    assert way in WAYS
    assert len(note) <= PREAMBLE_BYTES
    return note.ljust(PREAMBLE_BYTES, b"\0") + part_10[PREAMBLE_BYTES:]


def isolation(**bounds: Any) -> Isolation:
    """Bounds for a child that can be broken so."""
    return Isolation(command=(sys.executable, "-P", "-m", "tests.breaking_child"), **bounds)


def _segfault(argument: str) -> None:
    ctypes.string_at(0)


def _abort(argument: str) -> None:
    os.abort()


def _codec(argument: str) -> None:
    """A real one: this codec trusts the offsets of segments, here four gigabytes behind the end."""
    frame = (2).to_bytes(4, "little") + b"\xff" * 60 + bytes(64)
    imagecodecs.dicomrle_decode(frame, "<u2", out=bytearray(512))


def _hang(argument: str) -> None:
    """Native code that keeps the interpreter locked."""
    ctypes.PyDLL(None).sleep(100_000)


def _balloon(argument: str) -> None:
    bytearray(64 << 30)


def _bug(argument: str) -> None:
    raise KeyError(argument)


def _lie(argument: str) -> None:
    socket.socket(fileno=os.dup(sys.stdin.fileno())).sendall(b"\2\0\0\0\0\0\0\0{}")


def _killed(argument: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _killed_once(mark: str) -> None:
    if not Path(mark).exists():
        Path(mark).touch()
        _killed("")


def _slow(seconds: str) -> None:
    time.sleep(float(seconds))


WAYS: dict[str, Callable[[str], None]] = {
    "segfault": _segfault,
    "abort": _abort,
    "codec": _codec,
    "hang": _hang,
    "balloon": _balloon,
    "bug": _bug,
    "lie": _lie,
    "killed": _killed,
    "killed-once": _killed_once,
    "slow": _slow,
}


def _breakable(open_instance: Callable[..., Any]) -> Callable[..., Any]:
    def instead(data: bytes, *rest: Any) -> Any:
        way, _, argument = data[:PREAMBLE_BYTES].decode("latin-1").rstrip("\0").partition("|")
        if way in WAYS:
            WAYS[way](argument.rstrip("|"))
        return open_instance(data, *rest)

    return instead


if __name__ == "__main__":
    engine.reading.open_instance = _breakable(engine.reading.open_instance)  # type: ignore[attr-defined]
    reader_child.main()
