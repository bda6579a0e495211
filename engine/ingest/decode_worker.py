"""The process that reads and decodes: ``python -m engine.ingest.decode_worker PARENT_PID MEMORY_BYTES``.

Its standard input is a socket; an order names paths, or brings the bytes of one file, and each is answered in
turn. Native decoders run here and nowhere else, so what they break is this process.

It imports what decoding needs and no more: it must start quickly, after each file that ends it.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from engine.errors import FilteredError, InstanceError
from engine.ingest.malloc import FRAMES, keep_freed_memory
from engine.ingest.sample import Head, Outcome, Reading, header, reading_from_facts, samples, samples_of
from engine.sources import is_local, wire
from engine.sources.confine import bound, confine, depend_on

_STANDARD_ERROR = 2


def main() -> None:
    """Answer orders until the other end is gone."""
    parent, memory_bytes = (int(word) for word in sys.argv[1:])
    depend_on(parent)
    channel = socket.socket(fileno=sys.stdin.fileno())
    bound(memory_bytes)
    keep_freed_memory(FRAMES)  # fresh pages cost a third of a plain file's time
    sys.excepthook = _reporting(channel)
    wire.send(channel, {"ready": os.getpid()})
    _silence()
    orders = wire.Frames(channel)
    is_confined = False
    with suppress(EOFError, ConnectionError):
        while True:
            order, data = orders.receive()
            if not is_confined:  # an order that needs other rights goes to another child
                _confine(reading_from_facts(order["reading"]))
                is_confined = True
            _answer(channel, order, data)


def _confine(reading: Reading) -> None:
    confine(
        is_local=is_local(reading.source), writable=[reading.deidentified] if reading.deidentified else []
    )


def _answer(channel: socket.socket, order: wire.Facts, data: bytearray) -> None:
    """Fulfil one order; say that it has begun, since a later end of this process is then a file's doing."""
    reading = reading_from_facts(order["reading"])
    wire.send(channel, {"begun": True})
    if order["paths"] is None:
        _reply(channel, samples_of(bytes(data), reading))
        return
    if order["threads"]:
        with ThreadPoolExecutor(order["threads"]) as pool:
            for head in pool.map(lambda path: header(path, reading.source, reading.limits), order["paths"]):
                _reply_head(channel, head)
        return
    for path in order["paths"]:
        _reply(channel, samples(path, reading))


def _reply_head(channel: socket.socket, head: Head) -> None:
    """One frame: the columns of a header, and its number of frames."""
    found = {"row": head[0], "frames": head[1]} if isinstance(head, tuple) else wire.error_facts(head)
    wire.send(channel, {"outcomes": [found]})


def _reply(channel: socket.socket, outcomes: Sequence[Outcome]) -> None:
    """One frame: the facts of each outcome, and the pixels of all images one after the other."""
    facts: list[wire.Facts] = []
    images: list[bytes] = []
    for outcome in outcomes:
        if isinstance(outcome, InstanceError | FilteredError):
            facts.append(wire.error_facts(outcome))
        else:
            row, image_HW = outcome
            facts.append({"row": row, "shape": image_HW.shape})
            images.append(image_HW.tobytes())
    wire.send(channel, {"outcomes": facts}, b"".join(images))


def _silence() -> None:
    """Codecs and parsers write what they find in a file to standard error; it may be patient data."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _STANDARD_ERROR)
    os.close(nowhere)


def _reporting(
    channel: socket.socket,
) -> Callable[[type[BaseException], BaseException, TracebackType | None], None]:
    """A hook that tells the parent the type and place of an unforeseen error, never its message."""

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        frames = traceback.extract_tb(trace)
        place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
        with suppress(OSError):
            wire.send(channel, {"failed": f"{kind.__name__}{place}"})

    return report


if __name__ == "__main__":
    main()
