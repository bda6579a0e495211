"""Kinds ``blow-up`` and ``hang``: answers of sinks that have no end. Over STOW-RS and C-STORE.

Each delivery runs in a child of its own with a bound of memory and a deadline.
"""

from __future__ import annotations

import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fixtures.node_fixture import accepted
from tests.fixtures.results_fixture import scored_archive
from tests.fixtures.stow_fixture import answering, listening, stored

MEMORY, DEADLINE_S = 1 << 30, 100.0
CHILD = """
import sys
from pathlib import Path
from engine.delivery import dimse, outbox, send, stow
outbox.FIRST_WAIT_S, outbox.ATTEMPTS = 0.01, 1
stow.EXCHANGE_S = 2.0
send.Dimse.__init__.__defaults__ = (2.0,)
counts = send.deliver(Path(sys.argv[1]), sys.argv[2], send.Options(threads=1))
print(counts["sent"], *counts["failures"])
"""


def delivered(scores: Path, to: str) -> str:
    """What a bounded child says of its delivery: objects sent, then the reasons of the others."""

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))

    words = [sys.executable, "-c", CHILD, str(scores), to]
    ended = subprocess.run(
        words, capture_output=True, text=True, timeout=DEADLINE_S, preexec_fn=bound, check=False
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout.strip()


def chunks(head: str = "200 OK") -> Iterator[bytes]:
    yield f"HTTP/1.1 {head}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    while True:
        yield b"100000\r\n" + b" " * (1 << 20) + b"\r\n"


def dribble(head: bytes) -> Iterator[bytes]:
    yield head
    while True:
        time.sleep(0.2)
        yield b"x"


def informed() -> Iterator[bytes]:
    while True:
        yield b"HTTP/1.1 102 Processing\r\n\r\n" * 1000


STOW: dict[str, Callable[[], Iterator[bytes]]] = {
    "chunks without end": chunks,
    "chunks without end, an error": lambda: chunks("400 Bad Request"),
    "a body a byte at a time": lambda: dribble(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"),
    "headers a byte at a time": lambda: dribble(b"HTTP/1.1 200 OK\r\nX-A: "),
    "interim answers without end": informed,
    "nothing": lambda: dribble(b""),
}


@pytest.mark.parametrize("kind", STOW)
def test_an_answer_without_end_costs_one_try(tmp_path: Path, kind: str) -> None:
    with answering(lambda *_: STOW[kind]()) as (address, _):
        said = delivered(scored_archive(tmp_path, count=1), address)
    assert said.startswith(("0 unreachable:", "0 refused:status_400")), said


def test_a_sound_answer_is_within_the_bounds(tmp_path: Path) -> None:
    with answering(lambda _, uid: stored(uid)) as (address, _):
        assert delivered(scored_archive(tmp_path, count=1), address) == "1"


def in_one_part(connection: socket.socket) -> None:
    accepted(connection)
    connection.sendall(struct.pack(">BBL", 4, 0, 0xFFFFFFF0))
    while True:
        connection.sendall(bytes(1 << 20))


def in_many_parts(connection: socket.socket) -> None:
    accepted(connection)
    part = struct.pack(">LBB", 16002, 1, 1) + bytes(16000)  # a command that never has its last part
    while True:
        connection.sendall(struct.pack(">BBL", 4, 0, len(part)) + part)


def slowly(connection: socket.socket) -> None:
    accepted(connection)
    connection.sendall(struct.pack(">BBL", 4, 0, 10_000))
    while True:
        time.sleep(0.2)
        connection.sendall(b"\0")


def never(connection: socket.socket) -> None:
    accepted(connection)
    time.sleep(DEADLINE_S)


def no_association(connection: socket.socket) -> None:
    connection.sendall(struct.pack(">BBL", 2, 0, 0xFFFFFFF0))
    while True:
        connection.sendall(bytes(1 << 20))


@pytest.mark.parametrize("serve", [in_one_part, in_many_parts, slowly, never, no_association])
def test_a_node_without_end_costs_one_try(tmp_path: Path, serve: Callable[[socket.socket], None]) -> None:
    with listening(serve) as port:
        said = delivered(scored_archive(tmp_path, count=1), f"dimse://127.0.0.1:{port}/PACS")
    assert said.startswith("0 unreachable:"), said
