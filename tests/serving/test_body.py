"""A request is one file: several are refused with a plain sentence, and never the first of them answered."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from engine.errors import EngineError, UsageError
from engine.serving.body import upload
from engine.store.files import sha256_of_bytes
from tests.fixtures.dicom_fixture import image, picture

FILM, OTHER = image(picture()), image(picture(), SOPInstanceUID="1.2.3.5")


async def _answer(request: Request) -> JSONResponse:
    try:
        data, given = await upload(request)
    except EngineError as error:
        return JSONResponse({"code": error.code, "message": str(error)}, 400)
    return JSONResponse({"sha256": sha256_of_bytes(data), "given": given})


CLIENT = TestClient(Starlette(routes=[Route("/", _answer, methods=["POST"])]))


def related(*films: bytes, boundary: str = "b1", end: bytes = b"--\r\n") -> dict[str, Any]:
    head = b"\r\n--" + boundary.encode() + b"\r\nContent-Type: application/dicom\r\n\r\n"
    body = b"".join(head + film for film in films) + b"\r\n--" + boundary.encode() + end
    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    return {"content": body, "headers": {"Content-Type": kind}}


def form(*parts: tuple[str, tuple[str | None, bytes]]) -> dict[str, Any]:
    return {"files": list(parts)}


ONE: dict[str, dict[str, Any]] = {
    "raw": {"content": FILM},
    "as_dicom": {"content": FILM, "headers": {"Content-Type": "application/dicom"}},
    "as_curl_says": {"content": FILM, "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
    "form": form(("file", ("a.dcm", FILM))),
    "related": related(FILM),
}
NOT_ONE: dict[str, dict[str, Any]] = {
    "two_files": form(("file", ("a.dcm", FILM)), ("file", ("b.dcm", OTHER))),
    "ten_files": form(*[("file", (f"{n}.dcm", FILM)) for n in range(10)]),
    "a_file_of_another_name": form(("file", ("a.dcm", FILM)), ("image", ("b.dcm", OTHER))),
    "a_field_of_another_name": form(("file", ("a.dcm", FILM)), ("file2", (None, b"x"))),
    "file_as_text": form(("file", (None, b"x"))),
    "file_and_text": form(("file", ("a.dcm", FILM)), ("file", (None, b"x"))),
    "covariates_twice": form(
        ("file", ("a", FILM)), ("covariates", (None, b"{}")), ("covariates", (None, b"{}"))
    ),
    "no_file": form(("covariates", (None, b"{}"))),
    "two_parts": related(FILM, OTHER),
    "three_parts": related(FILM, OTHER, FILM),
    "no_part": related(),
    "cut_parts": related(FILM, end=b""),
    "no_boundary": {"content": FILM, "headers": {"Content-Type": "multipart/related"}},
    "mixed": {"content": FILM, "headers": {"Content-Type": "multipart/mixed; boundary=b1"}},
    "one_behind_the_other": {"content": FILM + OTHER},
    "one_behind_the_other_in_a_form": form(("file", ("a.dcm", FILM + OTHER))),
}


@pytest.mark.parametrize("name", ONE)
def test_one_file_is_taken_whole(name: str) -> None:
    answer = CLIENT.post("/", **ONE[name])
    assert (answer.status_code, answer.json()["sha256"]) == (200, sha256_of_bytes(FILM))


@pytest.mark.parametrize("name", NOT_ONE)
def test_another_number_of_files_is_refused(name: str) -> None:
    answer = CLIENT.post("/", **NOT_ONE[name])
    assert answer.status_code == 400
    assert answer.text.count("file") > 0


def test_the_refusal_says_what_to_do() -> None:
    answer = CLIENT.post("/", **NOT_ONE["two_parts"]).json()
    assert answer["code"] == UsageError.code
    assert "send each file in a request of its own" in answer["message"]


def test_an_empty_file_is_taken_as_it_is() -> None:
    assert CLIENT.post("/", **form(("file", ("a.dcm", b"")))).json()["sha256"] == sha256_of_bytes(b"")


def test_covariates_stand_beside_the_file() -> None:
    given = form(("file", ("a.dcm", FILM)), ("covariates", (None, json.dumps({"calcium": 2.3}).encode())))
    assert CLIENT.post("/", **given).json()["given"] == {"calcium": 2.3}
