"""Sources that fail: a DICOMweb server or an object store that is busy, slow, forbidding or cut short.

Each costs the rows that it touched, with their reason, and a retry of that reason gets them back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine.errors import StorageError
from engine.ingest.shard import ReadSpec, read_shard
from engine.sources import release, store_s3, web
from engine.store import ledger, verification
from tests.fixtures.night_fixture import night, retry, spec_of
from tests.fixtures.source_fixture import Failure, between, instance, s3_bucket
from tests.sources.test_sources_web import KIND, Reply, found, page, serving

COUNT, SICK = 5, (2, 4)


def busy(status: int, **headers: str) -> Callable[[bytes], Reply]:
    return lambda body: (status, headers, b"")


def cut(body: bytes) -> Reply:
    """It says how long the answer is, and ends in the middle of it."""
    return 200, {"Content-Type": KIND, "Content-Length": str(len(body))}, body[: len(body) // 2]


def slow(body: bytes) -> Reply:
    time.sleep(1.0)
    return 200, {"Content-Type": KIND}, body


SICKNESSES: dict[str, Callable[[bytes], Reply]] = {
    "500": busy(500),
    "503": busy(503),
    "503 for an hour": busy(503, **{"Retry-After": "3600"}),
    "429": busy(429),
    "slow": slow,
    "cut": cut,
}


def require_rows_back(root: Path, source: str, heal: Callable[[], object]) -> None:
    """A night with a sick source, then one with the healed."""
    read = partial(read_from, source)
    counts = night(root, source=source, read=read)
    assert (counts["planned"], counts["quarantined"]) == (COUNT, len(SICK))
    assert set(ledger.quarantined(root / "out")["reason"].to_pylist()) == {"source_read"}
    heal()
    counts = night(root, retry("source_read"), source=source, read=read)
    assert (counts["planned"], counts["samples"]) == (COUNT + len(SICK), COUNT)
    assert not ledger.quarantined(root / "out").num_rows
    assert verification.verify(root / "out") == counts


@pytest.mark.parametrize("sickness", SICKNESSES)
def test_a_server_that_fails_costs_rows_that_a_retry_gets_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sickness: str
) -> None:
    patience = partial(web.Patience, attempts=2, first_wait_s=0.01, all_s=5.0, timeout_s=0.4)
    monkeypatch.setattr(web, "Patience", patience)
    is_sick = {True}

    def answer(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        number = int(path.rpartition(".")[2]) if "/instances/" in path else 0
        if not number:
            return listing(path, query)
        body = b"--b1\r\nContent-Type: application/dicom\r\n\r\n" + instance(number) + b"\r\n--b1--"
        is_failing = bool(is_sick) and number in SICK
        return SICKNESSES[sickness](body) if is_failing else (200, {"Content-Type": KIND}, body)

    with ExitStack() as stack:
        source = stack.enter_context(serving(answer))
        stack.callback(release)
        require_rows_back(tmp_path, source, heal=is_sick.clear)


def refusing(status: int, code: str) -> Failure:
    return lambda *answer: (status, {}, f"<Error><Code>{code}</Code></Error>".encode())


def cut_short(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    return status, headers, body[: len(body) // 2]


def late(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    time.sleep(3.0)
    return status, headers, body


STORE_SICKNESSES: dict[str, Failure] = {
    "500": refusing(500, "InternalError"),
    "503": refusing(503, "SlowDown"),
    "403": refusing(403, "AccessDenied"),
    "slow": late,
    "cut": cut_short,
}


@pytest.mark.parametrize("sickness", STORE_SICKNESSES)
def test_an_object_store_that_fails_costs_rows_that_a_retry_gets_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sickness: str
) -> None:
    monkeypatch.setattr(store_s3, "_TIMEOUT_S", 1)
    monkeypatch.setattr(store_s3, "_ATTEMPTS", 2)
    failing, sick = {}, {f"/bucket/archive/f{number}" for number in SICK}
    failing |= dict.fromkeys(sick, STORE_SICKNESSES[sickness])
    content = {f"f{number}": instance(number) for number in range(1, COUNT + 1)}
    with ExitStack() as stack:
        source = stack.enter_context(s3_bucket(content, monkeypatch))
        ill = stack.enter_context(between(os.environ["AWS_ENDPOINT_URL"], failing.get))
        monkeypatch.setenv("AWS_ENDPOINT_URL", ill)
        stack.callback(release)
        require_rows_back(tmp_path, source, heal=failing.clear)


def test_a_server_that_cannot_be_listed_leaves_nothing_that_is_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = partial(web.Patience, attempts=2, first_wait_s=0.01)
    monkeypatch.setattr(web, "Patience", patience)
    is_sick = [True]

    def answer(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        if is_sick[0] and "/instances" in path:
            return 503, {}, b""
        if "/instances/" not in path:
            return listing(path, query)
        number = int(path.rpartition(".")[2])
        return 200, {"Content-Type": "application/dicom"}, instance(number)

    with ExitStack() as stack:
        source = stack.enter_context(serving(answer))
        stack.callback(release)
        read = partial(read_from, source)
        with pytest.raises(StorageError, match="status 503"):
            night(tmp_path, source=source, read=read)
        assert not (tmp_path / "out" / ledger.PLAN_NAME).exists()
        is_sick[0] = False
        assert night(tmp_path, source=source, read=read)["samples"] == COUNT
    verification.verify(tmp_path / "out")


def listing(path: str, query: dict[str, str]) -> Reply:
    if query["offset"] != "0":
        return 204, {}, b""
    if path.endswith("/studies"):
        return page([found(study="1.2.1")])
    return page([found(series="1.2.1.1", instance=f"1.2.1.1.{number}") for number in range(1, COUNT + 1)])


def read_from(source: str, root: Path, planned: list[dict[str, Any]]) -> dict[str, Any]:
    """Read as a task does, decoding in this process."""
    spec = spec_of(root)
    return read_shard(planned, ReadSpec(
        source=source, folder=spec.folder, rules=spec.rules, salt=spec.salt, isolation=None,
    ))  # fmt: skip
