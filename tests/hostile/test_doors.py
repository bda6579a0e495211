"""Kind ``door``: who sends slowly, who has no key, who cannot be written to."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from engine.errors import UsageError
from engine.serving import docs
from engine.serving.app import build_app
from engine.serving.slow_bodies import Haste, end_slow_bodies
from jobs import serve
from tests.fixtures.results_fixture import scored_archive

KEY = "0123456789abcdef"


async def _reads(request: Request) -> int:
    return len(await request.body())


def echo() -> FastAPI:
    app = FastAPI()
    app.post("/")(_reads)
    end_slow_bodies(app, Haste(pause_s=0.3, grace_s=0.3, least_per_s=1000.0))
    return app


def asked(pieces: list[bytes], wait_s: float, last: bool = True) -> int | None:
    """The status of an answer to a body whose pieces come ``wait_s`` apart."""
    scope: dict[str, Any] = {
        "type": "http", "method": "POST", "path": "/", "raw_path": b"/", "headers": [], "query_string": b"",
        "http_version": "1.1", "scheme": "http", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip
    left, statuses = [*pieces], []

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.sleep(30.0)
        await asyncio.sleep(wait_s)
        piece = left.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(left) or not last}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    asyncio.run(asyncio.wait_for(echo()(scope, receive, send), 20.0))
    return statuses[0] if statuses else None


@pytest.mark.parametrize(
    ("pieces", "wait_s", "last", "status"),
    [
        ([b"x" * 5000], 0.0, True, 200),
        ([b"x" * 900] * 6, 0.1, True, 200),
        ([b"x"] * 50, 0.1, True, 408),  # a byte now and then
        ([b"x" * 5000], 0.0, False, 408),  # a last piece that never comes
        ([b"x"] * 3, 0.5, True, 408),  # pauses
        ([], 0.0, True, 408),  # nothing at all
    ],
)
def test_a_body_that_comes_too_slowly_is_ended(
    pieces: list[bytes], wait_s: float, last: bool, status: int
) -> None:
    assert asked(pieces, wait_s, last) == status


@pytest.fixture
def guarded() -> TestClient:
    return TestClient(build_app([], api_key=KEY))


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/v1/models"])
def test_all_but_the_health_needs_the_key(guarded: TestClient, path: str) -> None:
    assert guarded.get(path).status_code == 401
    for word in (f"Bearer {KEY}", f"bearer {KEY}", f"BEARER  {KEY} "):
        assert guarded.get(path, headers={"Authorization": word}).status_code == 200
    for word in (
        "",
        KEY,
        f"Basic {KEY}",
        "Bearer",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        "Bearer ä".encode(),
    ):
        assert guarded.get(path, headers={"Authorization": word}).status_code == 401
    assert guarded.get("/redoc").status_code == 404


def test_the_health_needs_none(guarded: TestClient) -> None:
    assert guarded.get("/healthz").json()["status"] == "ok"


def test_the_page_of_the_api_loads_nothing() -> None:
    answer = TestClient(build_app([])).get("/docs")
    assert answer.headers["content-security-policy"] == docs.POLICY
    assert "/v1/models" in answer.text
    assert not re.findall(r"<script|https?://|src=|@import|url\(", answer.text)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o644])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    path.write_text(KEY)
    path.chmod(mode)
    with pytest.raises(UsageError, match="chmod 600"):
        serve._key(path)
    path.chmod(0o600)
    assert serve._key(path) == KEY


@pytest.mark.parametrize("stderr", ["/dev/full", "a pipe that nobody reads", "nothing"])
def test_a_run_that_nobody_hears_goes_on(tmp_path: Path, stderr: str) -> None:
    scores = scored_archive(tmp_path, count=2)
    words = [sys.executable, "-m", "jobs", "deliver", str(scores), "--to", str(tmp_path / "out")]
    code = "import os, sys; os.close(2); os.execv(sys.executable, sys.argv[1:])"
    if stderr == "nothing":
        words = [sys.executable, "-c", code, *words]
    reads, writes = os.pipe()
    os.close(reads)
    with open("/dev/full", "w", encoding="utf-8") as full:
        heard = full.fileno() if stderr == "/dev/full" else writes
        ended = subprocess.run(words, stdout=subprocess.PIPE, stderr=heard, check=False, timeout=120)
    os.close(writes)
    assert (ended.returncode, len(list((tmp_path / "out").iterdir()))) == (0, 2)
    assert b"sent" in ended.stdout
