"""DICOMweb servers that keep to the standard in their own way, or fail for one study: nothing is missed."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from engine.errors import EngineError, SourceReadError, StorageError, UsageError
from tests.sources.test_sources_web import KIND, PART, PATH, Reply, client, found, page, serving


def lower(item: dict[str, object]) -> dict[str, object]:
    return {tag.lower(): value for tag, value in item.items()}


def plain(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
    """Two studies of one instance each."""
    if query["offset"] != "0":
        return 204, {}, b""
    study = path.split("/")[3] if path.endswith("/instances") else ""
    uids = {"study": study, "series": f"{study}.1", "instance": f"{study}.1.1"}
    return page([found(**uids)] if study else [found(study="1.2"), found(study="1.3")])


def in_lower_case(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
    status, kind, body = plain(path, query, headers)
    return page([lower(item) for item in json.loads(body)]) if body else (status, kind, body)


def without_a_body(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
    return plain(path, query, headers) if query["offset"] == "0" else (200, {}, b"")


def in_parts(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
    status, kind, body = plain(path, query, headers)
    return (206 if body else status), kind, body


def padded(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
    status, kind, body = plain(path, query, headers)
    return status, kind, body.replace(b'"1.2"', b'"1.2\\u0000"').replace(b'"1.3.1"', b'" 1.3.1 "')


def only_plain_json(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
    return plain(path, query, headers) if headers["Accept"] == "application/json" else (406, {}, b"")


def only_anything(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
    return plain(path, query, headers) if headers["Accept"] == "*/*" else (406, {}, b"<html>")


def only_series(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
    """A server that has no list of the instances of a study."""
    parts = path.split("/")
    if "series" not in parts:
        return (404, {}, b"") if path.endswith("/instances") else plain(path, query, headers)
    if query["offset"] != "0":
        return 204, {}, b""
    uids = {"series": f"{parts[3]}.1"}
    return page([found(**(uids if parts[-1] == "series" else {**uids, "instance": f"{parts[3]}.1.1"}))])


ODD = (
    plain, in_lower_case, without_a_body, in_parts, padded, only_plain_json, only_anything, only_series,
)  # fmt: skip


@pytest.mark.parametrize("answer", ODD, ids=lambda answer: answer.__name__)
def test_an_odd_server_is_listed_whole(answer: Callable[..., Reply]) -> None:
    with serving(answer) as source, client(source) as web:
        paths = [entry.path for entry in web.entries() if entry]
    assert paths == [f"studies/{uid}/series/{uid}.1/instances/{uid}.1.1" for uid in ("1.2", "1.3")]


@pytest.mark.parametrize("status", [400, 403, 404, 410, 500])
def test_a_study_that_cannot_be_listed_costs_that_study(status: int) -> None:
    def answer(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        return (status, {}, b"") if "/1.2/" in path else plain(path, query, headers)

    with serving(answer) as source, client(source) as web:
        paths = [entry.path for entry in web.entries() if entry]
        with pytest.raises(SourceReadError, match="did not list the instances of this study.*--incremental"):
            web.read(paths[0], 100, None)
    assert paths == ["studies/1.2/not-listed", "studies/1.3/series/1.3.1/instances/1.3.1.1"]


@pytest.mark.parametrize("reply", [(204, {}, b""), (200, {}, b""), (200, {}, b"[]"), (200, {}, b"<html>")])
def test_a_study_without_a_list_of_its_instances_is_not_passed_over(reply: Reply) -> None:
    def answer(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        return reply if "/1.3/" in path else plain(path, query, headers)

    with serving(answer) as source, client(source) as web:
        assert [entry.path for entry in web.entries() if entry][1:] == ["studies/1.3/not-listed"]


@pytest.mark.parametrize(("status", "error"), [(404, UsageError), (500, StorageError)])
def test_a_server_that_lists_no_study_is_an_error(status: int, error: type[EngineError]) -> None:
    def answer(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        return (status, {}, b"") if path.endswith(("instances", "series")) else plain(path, query, headers)

    with serving(answer) as source, client(source) as web, pytest.raises(error):
        list(web.entries())


def test_a_server_that_went_down_ends_the_listing() -> None:
    asked: set[str] = set()

    def answer(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        if path.endswith("/studies"):
            items = [found(study=f"1.{number}") for number in range(200)]
            return page(items if query["offset"] == "0" else [])
        asked.add(path)
        return plain(path, query, headers) if "/1.0/" in path else (503, {}, b"")

    with serving(answer) as source, client(source) as web, pytest.raises(StorageError):
        list(web.entries())
    assert len(asked) < 50


def test_a_study_or_series_without_a_uid_is_planned() -> None:
    def answer(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        if query["offset"] != "0":
            return 204, {}, b""
        if path.endswith("/studies"):
            return page([found(study="1.2"), found(), found(study="no uid")])
        return page([found()]) if path.endswith("/series") else (404, {}, b"")

    with serving(answer) as source, client(source) as web:
        paths = [entry.path for entry in web.entries() if entry]
        for path in paths:
            with pytest.raises(SourceReadError, match="without a sound UID"):
                web.read(path, 100, None)
    assert paths == ["studies/1.2/series/without-uid-0", "studies/without-uid-0", "studies/without-uid-1"]


@pytest.mark.parametrize(
    ("accepted", "kind", "body"),
    [
        ('multipart/related; type="application/dicom"', KIND, PART),
        ("*/*", KIND, PART),
        ("*/*", "application/dicom", b"DATA"),
    ],
)
def test_an_instance_is_asked_for_again_plainly(accepted: str, kind: str, body: bytes) -> None:
    asked: list[str] = []

    def answer(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        asked.append(headers["Accept"])
        return (200, {"Content-Type": kind}, body) if asked[-1] == accepted else (406, {}, b"")

    with serving(answer) as source, client(source) as web:
        assert web.read(PATH, 100, None) == b"DATA"
    assert asked[0].endswith("transfer-syntax=*")


@pytest.mark.parametrize(
    ("span", "is_whole"),
    [(None, True), ("bytes 0-3/4", True), ("bytes 0-3/9", False), ("bytes 4-7/8", False)],
)
def test_partial_content_counts_where_it_is_whole(span: str | None, is_whole: bool) -> None:
    headers = {"Content-Type": "application/dicom", **({"Content-Range": span} if span else {})}
    with serving(lambda *_: (206, headers, b"DATA")) as source, client(source) as web:
        if is_whole:
            assert web.read(PATH, 100, None) == b"DATA"
        else:
            with pytest.raises(SourceReadError, match="a part of the instance alone"):
                web.read(PATH, 100, None)


@pytest.mark.parametrize("reply", [(200, {}, b""), (200, {"Content-Type": KIND}, b""), (406, {}, b"")])
def test_an_instance_without_a_body_ends_typed(reply: Reply) -> None:
    with serving(lambda *_: reply) as source, client(source) as web, pytest.raises(SourceReadError):
        web.read(PATH, 100, None)
