"""Kind ``false-done``: what a sink says that is no confirmation of our object. Over STOW-RS and C-STORE."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context

from engine.delivery import outbox, uids
from engine.delivery.send import Options, ResultBuilder, deliver
from engine.dicom.write import SECONDARY_CAPTURE
from tests.fixtures.node_fixture import accepted, c_store_answer
from tests.fixtures.results_fixture import scored_archive
from tests.fixtures.story import osteoray
from tests.fixtures.stow_fixture import answer_of, answering, listening, stored

PAGE = b"<!DOCTYPE html><html><body>please log in</body></html>"
OTHER = "1.2.826.0.1.3680043.8.498.1"


def said(*, wrap: Callable[[Any], Any] = list, **sequences: Any) -> bytes:
    return json.dumps(wrap(answer_of(**sequences))).encode()


def native(uid: str, before: str = "", tag: str = "00081199") -> bytes:
    """The Native DICOM Model (PS3.19 A.1) of an answer."""
    item = f'<DicomAttribute tag="00081155" vr="UI"><Value number="1">{uid}</Value></DicomAttribute>'
    sequence = f'<DicomAttribute tag="{tag}" vr="SQ"><Item number="1">{item}</Item></DicomAttribute>'
    space = 'xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM"'
    head = '<?xml version="1.0" encoding="UTF-8"?>'
    return f"{head}{before}<NativeDicomModel {space}>{sequence}</NativeDicomModel>".encode()


def raw(head: str, body: bytes = b"") -> list[bytes]:
    return [f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body]


NOT_STORED: dict[str, Callable[[str], Any]] = {
    "a page": lambda uid: (200, PAGE),
    "a page that names the object": lambda uid: (200, PAGE.replace(b"please", uid.encode())),
    "nothing": lambda uid: (200, b""),
    "no content": lambda uid: (204, b""),
    "accepted, nothing said": lambda uid: (202, b""),
    "a redirect": lambda uid: raw("302 Found\r\nLocation: /login"),
    "a redirect with the right words": lambda uid: raw("307 Moved\r\nLocation: /x", stored(uid)[1]),
    "a proxy's login": lambda uid: (407, PAGE),
    "an empty list": lambda uid: (200, b"[]"),
    "an empty object": lambda uid: (200, b"{}"),
    "a word": lambda uid: (200, b'"ok"'),
    "numbers": lambda uid: (200, b"[1, null, true]"),
    "half of the answer": lambda uid: (200, stored(uid)[1][:-9]),
    "another object": lambda uid: stored(OTHER),
    "an object that begins as ours": lambda uid: stored(uid + "1"),
    "ours, and another that failed": lambda uid: (
        200, said(referenced=[{"00081155": uid}], failed=[{"00081155": OTHER, "00081197": 272}])
    ),
    "ours as stored and as failed": lambda uid: (
        202, said(referenced=[{"00081155": uid}], failed=[{"00081155": uid, "00081197": 272}])
    ),
    "failed without a reason": lambda uid: (200, said(failed=[{"00081155": uid}])),
    "another is there already": lambda uid: (409, said(failed=[{"00081155": OTHER, "00081197": 273}])),
    "stored with a word nobody knows": lambda uid: (
        200, said(referenced=[{"00081155": uid, "00081196": 0xB0FF}])
    ),
    "ours under an error": lambda uid: (400, stored(uid)[1]),
    "ours in another sequence": lambda uid: (200, native(uid, tag="00081115")),
    "XML of another object": lambda uid: (200, native(OTHER)),
    "XML with entities": lambda uid: (200, native("&u;", f'<!DOCTYPE x [<!ENTITY u "{uid}">]>')),
    "packed": lambda uid: raw("200 OK\r\nContent-Encoding: gzip", gzip.compress(stored(uid)[1])),
    "deep": lambda uid: (200, b"[" * 200_000),
    "deep inside": lambda uid: (200, b'[{"00081199":{"Value":' + b"[" * 90_000),
    "deep XML": lambda uid: (200, b"<NativeDicomModel>" + b"<Item>" * 100_000),
}  # fmt: skip

STORED: dict[str, Callable[[str], Any]] = {
    "a list": stored,
    "an object": lambda uid: (200, said(wrap=lambda found: found[0], referenced=[{"00081155": uid}])),
    "padded, behind a mark": lambda uid: (
        200, b"\xef\xbb\xbf" + said(referenced=[{"00081155": uid + "\0"}])
    ),
    "stored, elements coerced": lambda uid: (
        200, said(referenced=[{"00081155": uid, "00081196": 0xB000}])
    ),
    "accepted": lambda uid: (202, stored(uid)[1]),
    "an empty list of failures": lambda uid: (200, said(referenced=[{"00081155": uid}], failed=[])),
    "there already": lambda uid: (409, said(failed=[{"00081155": uid, "00081197": 273}])),
    "XML": lambda uid: (200, native(uid)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_WAIT_S", 0.01)


@pytest.mark.parametrize("kind", NOT_STORED)
def test_an_answer_that_confirms_nothing_leaves_the_object_in_the_outbox(tmp_path: Path, kind: str) -> None:
    scores, is_sound = scored_archive(tmp_path, count=1), [False]
    with answering(lambda _, uid: stored(uid) if is_sound[0] else NOT_STORED[kind](uid)) as (address, _):
        counts = deliver(scores, address, Options(threads=1))
        assert (counts["sent"], counts["failed"]) == (0, 1), counts
        assert set(counts["failures"]) & {"", "sent"} == set()
        is_sound[0] = True
        again = deliver(scores, address, Options(retry=tuple(counts["failures"])))
        assert (again["sent"], again["failed"]) == (1, 0), again


@pytest.mark.parametrize("kind", STORED)
def test_an_answer_that_names_the_object_is_one(tmp_path: Path, kind: str) -> None:
    with answering(lambda _, uid: STORED[kind](uid)) as (address, bodies):
        assert deliver(scored_archive(tmp_path, count=1), address, Options())["sent"] == 1
        assert len(bodies) == 1


def test_the_verb_says_so(tmp_path: Path) -> None:
    scores = scored_archive(tmp_path, count=2)
    with answering(lambda *_: (200, PAGE)) as (address, _):
        ended = osteoray("deliver", scores, "--to", address)
    assert (ended.code, ended.facts["sent"], ended.facts["failed"]) == (3, 0, 2)


@contextmanager
def node(answer: Callable[[evt.Event], Any]) -> Iterator[str]:
    """A DICOM node that answers C-STORE as ``answer`` says; gives its address."""
    entity = AE("PACS")
    entity.supported_contexts = [
        build_context("1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.1.2.1"),
        build_context(SECONDARY_CAPTURE, "1.2.840.10008.1.2.1"),
    ]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, answer)])
    assert server is not None
    try:
        yield f"dimse://127.0.0.1:{server.socket.getsockname()[1]}/PACS"
    finally:
        server.shutdown()


@pytest.mark.parametrize("status", [0xB001, 0xB0FF, 0x0001, 0x0107, 0x0116, 0xA900, 0xC000, 0xFE00, 0xFF00])
def test_a_node_that_does_not_say_success_has_not_stored(tmp_path: Path, status: int) -> None:
    with node(lambda _: status) as address:
        counts = deliver(scored_archive(tmp_path, count=1), address, Options())
    assert (counts["sent"], counts["failures"]) == (0, {f"refused:status_{status:04X}": 1})


@pytest.mark.parametrize(
    ("status", "reason"), [(0, ""), (0x0111, "already_there"), (0xB000, ""), (0xB006, ""), (0xB007, "")]
)
def test_a_node_that_has_the_object_has_it(tmp_path: Path, status: int, reason: str) -> None:
    with node(lambda _: status) as address:
        assert deliver(scored_archive(tmp_path, count=1), address, Options())["sent"] == 1


@pytest.mark.parametrize(("uid", "sent"), [(OTHER, 0), ("", 1), (None, 1)])
def test_success_for_another_object_is_none_for_ours(tmp_path: Path, uid: str | None, sent: int) -> None:
    scores = scored_archive(tmp_path, count=1)
    (item,) = ResultBuilder(scores).items((uids.SR,))

    def serve(connection: socket.socket) -> None:
        accepted(connection)
        connection.recv(1)
        time.sleep(0.3)  # all of a small object is there
        connection.recv(1 << 20)
        connection.sendall(c_store_answer(item.uid if uid is None else uid))
        connection.recv(1 << 20)

    with listening(serve) as port:
        counts = deliver(scores, f"dimse://127.0.0.1:{port}/PACS", Options())
    assert counts["sent"] == sent
    assert counts["failures"] == ({} if sent else {"unreachable:answer_names_another_object": 1})
