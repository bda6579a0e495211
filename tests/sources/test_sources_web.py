"""DICOMweb against servers that are busy, capped, rude or lying; multipart; and secret credentials."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

import pytest

from engine.errors import EngineError, OverLimitError, SourceReadError, StorageError, UsageError
from engine.sources.dicomweb import DicomWeb
from engine.sources.multipart import single_part
from engine.sources.web import Patience
from tests.fixtures.source_fixture import listening

Reply = tuple[int, dict[str, str], bytes]
QUICK = Patience(attempts=4, first_wait_s=0.01, timeout_s=5)
PATH = "studies/1.2/series/1.3/instances/1.4"
KIND = 'multipart/related; type="application/dicom"; boundary="b1"'
PART = b"--b1\r\nContent-Type: application/dicom\r\n\r\nDATA\r\n--b1--"


@contextmanager
def serving(answer: Callable[[str, dict[str, str], dict[str, str]], Reply]) -> Iterator[str]:
    """An HTTP server whose replies ``answer(path, query, headers)`` decides."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(address.query).items()}
            status, headers, body = answer(address.path, query, dict(self.headers))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    with listening(Handler) as port:
        yield f"dicomweb+http://127.0.0.1:{port}/web"


@contextmanager
def client(source: str) -> Iterator[DicomWeb]:
    opened = DicomWeb(source, QUICK)
    try:
        yield opened
    finally:
        opened.close()


def found(**uids: str) -> dict[str, object]:
    tags = {"study": "0020000D", "series": "0020000E", "instance": "00080018"}
    return {tags[name]: {"vr": "UI", "Value": [uid]} for name, uid in uids.items()}


def page(items: list[dict[str, object]], **headers: str) -> Reply:
    return 200, {"Content-Type": "application/dicom+json", **headers}, json.dumps(items).encode()


def archive(
    studies: dict[str, str], *, cap: int, heeds_offset: bool, warns: bool = True, instances: int = 1
) -> Callable[..., Reply]:
    """A server that hands out ``cap`` results at most; study UID -> its date and time, if it has any."""

    def is_wanted(at: str, query: dict[str, str]) -> bool:
        for name, own in (("StudyDate", at[:8]), ("StudyTime", at[8:])):
            first, _, last = query.get(name, "").partition("-")
            if first and not (own and first <= own <= (last or first)):
                return False
        return True

    def answer(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        parts = path.split("/")
        if parts[-1] == "studies":
            items = [found(study=uid) for uid, at in studies.items() if is_wanted(at, query)]
        elif parts[-1] == "series":
            items = [found(series=f"{parts[3]}.1")]
        else:
            items = [
                found(study=parts[3], series=f"{parts[3]}.1", instance=f"{parts[3]}.1.{number}")
                for number in range(1, instances + 1)
            ]
        start = int(query["offset"]) if heeds_offset else 0
        shown = items[start : start + min(cap, int(query["limit"]))]
        is_cut = warns and len(items) > start + len(shown)
        return page(shown, **({"Warning": '299 web "there are more"'} if is_cut else {}))

    return answer


def listed(server: Callable[..., Reply], query: str = "") -> tuple[set[str], list[str]]:
    """UIDs of the studies that are planned, and members that stand for what a server may not have listed."""
    with serving(server) as source, client(source + query) as web:
        paths = [entry.path for entry in web.entries() if entry]
        unlisted = [path for path in paths if "instances" not in path]
        for path in unlisted:
            with pytest.raises(SourceReadError, match="may be missing"):
                web.read(path, 100, None)
    assert len(paths) == len(set(paths))
    return {path.split("/")[1] for path in paths if path not in unlisted}, unlisted


SPREAD = {
    f"1.{number}": f"20{number % 20:02d}0{number % 9 + 1}{number % 27 + 1:02d}" for number in range(1, 90)
}


@pytest.mark.parametrize("warns", [True, False])
@pytest.mark.parametrize("heeds_offset", [True, False])
def test_all_studies_of_a_capped_server_are_planned(heeds_offset: bool, warns: bool) -> None:
    """Without an offset the question is split by dates; that a study without one may be missed is said."""
    studies, unlisted = listed(archive(SPREAD, cap=13, heeds_offset=heeds_offset, warns=warns))
    assert studies == set(SPREAD)
    assert unlisted == ([] if heeds_offset else ["studies/without-date"])
    if not heeds_offset:  # who asks for dates leaves the others out knowingly
        server = archive(SPREAD, cap=13, heeds_offset=heeds_offset, warns=warns)
        assert listed(server, "?StudyDate=19000101-20991231") == (set(SPREAD), [])


@pytest.mark.parametrize("heeds_offset", [True, False])
def test_studies_without_a_date_are_planned_or_said_to_be_missing(heeds_offset: bool) -> None:
    undated = {f"2.{number}": "" for number in range(30)}
    server = archive({**SPREAD, **undated}, cap=13, heeds_offset=heeds_offset, warns=False)
    studies, unlisted = listed(server)
    assert studies >= set(SPREAD)
    assert bool(unlisted) == (not undated.keys() <= studies)


@pytest.mark.parametrize("warns", [True, False])
def test_studies_of_one_day_are_told_apart_by_their_time(warns: bool) -> None:
    at = {f"1.{number}": f"20200101{number % 24:02d}{number * 7 % 60:02d}30" for number in range(70)}
    studies, unlisted = listed(archive(at, cap=12, heeds_offset=False, warns=warns))
    assert studies == set(at)
    assert unlisted == ["studies/without-date"]


def test_a_minute_that_is_not_handed_out_whole_is_an_error() -> None:
    studies = {f"1.{number}": "20200101101500" for number in range(30)}
    for warns in (True, False):
        with pytest.raises(StorageError, match="one minute"):
            listed(archive(studies, cap=12, heeds_offset=False, warns=warns))


def test_a_few_results_are_whole_without_an_offset() -> None:
    """A server that knows no offset gives the same answer again; of so few studies it is all of them."""
    studies = {f"1.{number}": "" for number in range(9)}
    assert listed(archive(studies, cap=100, heeds_offset=False)) == (set(studies), [])


@pytest.mark.parametrize("stated", [40, 12, None])
def test_a_series_that_is_cut_is_said_to_be(stated: int | None) -> None:
    """12 of 40 instances are listed; a series that states that it has 12 is whole."""
    whole = archive({"1.1": "20200101"}, cap=12, heeds_offset=False, warns=False, instances=40)

    def answer(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        if not path.endswith("/series"):
            return whole(path, query, headers)
        told = {"00201209": {"vr": "IS", "Value": [stated]}} if stated else {}
        return page([{**found(series="1.1.1"), **told}])

    studies, unlisted = listed(answer)
    assert studies == {"1.1"}
    assert unlisted == ([] if stated == 12 else ["studies/1.1/series/1.1.1/not-all-listed"])


def test_filters_reach_the_server_and_an_instance_without_uid_is_planned() -> None:
    asked: list[dict[str, str]] = []

    def answer(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        asked.append(query)
        if query["offset"] != "0":
            return 204, {}, b""
        items = (
            [found(study="1.2")] if path.endswith("/studies") else [found(instance="../../x", series="1.3")]
        )
        return page(items)

    with serving(answer) as source, client(f"{source}?StudyDate=20200101-&ModalitiesInStudy=DX") as web:
        (entry,) = filter(None, web.entries())
        with pytest.raises(SourceReadError):
            web.read(entry.path, 100, None)
    assert asked[0]["ModalitiesInStudy"] == "DX"
    assert asked[0]["StudyDate"] == "20200101-"
    assert entry.path == "studies/1.2/without-uid-0"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(status: int) -> None:
    replies = iter(
        [(status, {"Retry-After": "0"}, b""), (status, {}, b""), (200, {"Content-Type": KIND}, PART)]
    )
    with serving(lambda *_: next(replies)) as source, client(source) as web:
        assert web.read(PATH, 100, None) == b"DATA"


def test_a_server_that_stays_busy_is_given_up() -> None:
    asked: list[str] = []

    def answer(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        asked.append(path)
        return 503, {}, b""

    with serving(answer) as source, client(source) as web, pytest.raises(SourceReadError, match="status 503"):
        web.read(PATH, 100, None)
    assert len(asked) == QUICK.attempts


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ((404, {}, b""), SourceReadError),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), SourceReadError),
        ((401, {}, b""), SourceReadError),
        ((200, {"Content-Type": "text/html"}, b"<html>"), SourceReadError),
        ((200, {"Content-Type": KIND}, PART[:-8]), SourceReadError),
        ((200, {"Content-Type": KIND}, PART.replace(b"DATA", b"D" * 200_000)), OverLimitError),
        ((200, {"Content-Type": KIND}, PART.replace(b"DATA", b"D" * 101)), OverLimitError),
        ((200, {"Content-Type": KIND, "Content-Encoding": "gzip"}, PART), SourceReadError),
    ],
)
def test_an_instance_that_is_not_handed_over_ends_typed(reply: Reply, error: type[EngineError]) -> None:
    with serving(lambda *_: reply) as source, client(source) as web, pytest.raises(error):
        web.read(PATH, 100, None)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ((401, {}, b""), UsageError),
        ((404, {}, b""), UsageError),
        ((200, {}, b"<html>"), UsageError),
        ((200, {}, b"[1]"), UsageError),
        ((500, {}, b""), StorageError),
    ],
)
def test_a_server_that_cannot_be_searched_is_an_error(reply: Reply, error: type[EngineError]) -> None:
    with serving(lambda *_: reply) as source, client(source) as web, pytest.raises(error):
        list(web.entries())


def test_credentials_go_to_the_server_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OSTEORAY_DICOMWEB_TOKEN", "hush-hush")
    seen: list[str] = []

    def answer(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        seen.append(headers["Authorization"])
        return 403, {}, b"hush-hush"

    caplog.set_level("INFO")
    with serving(answer) as source, client(source) as web:
        with pytest.raises(UsageError) as planning:
            list(web.entries())
        with pytest.raises(SourceReadError) as reading:
            web.read(PATH, 100, None)
    assert set(seen) == {"Bearer hush-hush"}
    assert "hush" not in f"{planning.value}{reading.value}{caplog.text}"
    assert "1.4" not in f"{reading.value}{caplog.text}"


@pytest.mark.parametrize(
    ("kind", "data", "whole"),
    [
        (KIND, PART, True),
        ("multipart/related; boundary=b1", b"preamble\r\n" + PART + b"\r\nepilogue", True),
        ("Multipart/Related; BOUNDARY=b1; type=x", b"--b1\r\n\r\nDATA\r\n--b1--", True),
        ("application/dicom", b"DATA", True),
        (KIND, PART[:-8], False),
    ],
)
def test_the_part_is_found(kind: str, data: bytes, whole: bool) -> None:
    assert single_part(data, kind, is_whole=whole) == b"DATA"


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("multipart/related", PART),
        ("multipart/mixed; boundary=b1", PART),
        (KIND, b""),
        (KIND, b"--b2\r\n\r\nDATA\r\n--b2--"),
        (KIND, PART.removesuffix(b"--") + b"\r\n\r\nMORE\r\n--b1--"),
        (KIND, b"--b1\r\nContent-Type: x"),
        (f'multipart/related; boundary="{"x" * 71}"', PART),
    ],
)
def test_what_is_no_single_part_is_refused(kind: str, data: bytes) -> None:
    with pytest.raises(SourceReadError):
        single_part(data, kind)
