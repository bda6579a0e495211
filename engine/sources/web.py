"""Requests to a DICOMweb server: credentials, caps, and patience with a server that is busy.

No address, header or answer ever gets into a message: they may hold identifiers or secrets.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpx

from engine.errors import OverLimitError, SourceReadError, StorageError, UsageError
from engine.sources.deadline import heed_deadlines, within
from engine.sources.limits import PARSER_ERRORS

TOKEN, USER, PASSWORD = "OSTEORAY_DICOMWEB_TOKEN", "OSTEORAY_DICOMWEB_USER", "OSTEORAY_DICOMWEB_PASSWORD"
CONNECTIONS = 4
_JSON_BYTES = 16 << 20
_JSON_VALUES = 1_000_000
"""Of one answer, counted before it is parsed: an empty object takes 3 bytes there, and 72 in memory."""
_OK, _NO_CONTENT, _PARTIAL, _TOO_LARGE = 200, 204, 206, 413
_NOT_ACCEPTABLE = frozenset({406, 415})
_JSON = ("application/dicom+json", "application/json", "*/*")
_PART_10 = (
    'multipart/related; type="application/dicom"; transfer-syntax=*',
    'multipart/related; type="application/dicom"',
    "*/*",
)
"""What is asked for, and what then, where a server does not accept the question (PS3.18 8.7)."""
_DENIED, _BUSY = frozenset({401, 403}), frozenset({408, 429, 500, 502, 503, 504})

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every address


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a server is asked again: doubling waits, and an end of it."""

    attempts: int = 6
    first_wait_s: float = 0.25
    longest_wait_s: float = 8.0
    all_s: float = 40.0
    """From the first attempt on; below the deadline of one file."""
    timeout_s: float = 15.0
    """Without a byte."""
    answer_s: float = 55.0
    """For one whole answer; below the deadline of one file."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer read to its end, or to as many bytes as were wanted."""

    status: int
    content_type: str
    body: bytearray
    is_cut: bool = False
    """The server says that there is more than it hands out (PS3.18 10.6.3: warning 299; or a range)."""


class TooManyResultsError(Exception):
    """The server wants a narrower question."""


def address_of(given: str) -> SplitResult:
    """The parts of ``dicomweb+https://host/path``.

    Raises:
        UsageError: it cannot be read, names no host, or holds credentials or a fragment.
    """
    try:
        parts = urlsplit(given.removeprefix("dicomweb+"))
        has_host, has_login = bool(parts.hostname), bool(parts.username or parts.password)
        _ = parts.port
    except ValueError as error:
        raise UsageError("the address of the DICOMweb server cannot be read: check it") from error
    if has_login:
        raise UsageError(f"an address holds no credentials: set {TOKEN}, or {USER} and {PASSWORD}")
    if not has_host or parts.fragment:
        raise UsageError("a DICOMweb server is dicomweb+https://host/path or dicomweb+http://host/path")
    return parts


def client_of(address: SplitResult, *, connections: int, timeout_s: float) -> httpx.Client:
    """Connections to a service, none yet open; credentials are read from the environment now."""
    user, password, token = (os.environ.get(name, "") for name in (USER, PASSWORD, TOKEN))
    client = httpx.Client(
        base_url=f"{address.scheme}://{address.netloc}{address.path}".rstrip("/") + "/",
        auth=httpx.BasicAuth(user, password) if user and not token else None,
        headers={"Accept-Encoding": "identity", **({"Authorization": f"Bearer {token}"} if token else {})},
        timeout=timeout_s,
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        follow_redirects=False,
    )
    return heed_deadlines(client)


class Server:
    """One DICOMweb service. Its connections are shared by threads."""

    def __init__(self, address: SplitResult, patience: Patience | None = None) -> None:
        """Connect to nothing yet; credentials are read from the environment now."""
        self._patience = patience or Patience()
        self._client = client_of(address, connections=CONNECTIONS, timeout_s=self._patience.timeout_s)

    def close(self) -> None:
        """End the connections."""
        self._client.close()

    def search(self, path: str, query: Mapping[str, str | int]) -> tuple[list[dict[str, Any]], bool]:
        """The objects of one QIDO answer, empty where they are none; whether the server says there are more.

        Raises:
            TooManyResultsError: the server refuses so broad a question.
            StorageError: it cannot be reached, or fails.
            UsageError: it does not know the address, or refuses the credentials.
        """
        try:
            answer = self._plainer(path, query, _JSON, _JSON_BYTES)
        except OverLimitError as error:
            raise TooManyResultsError from error
        except SourceReadError as error:
            raise StorageError(f"the DICOMweb server cannot be searched: {error}") from error
        if answer.status == _NO_CONTENT:
            return [], False
        if answer.status == _TOO_LARGE:
            raise TooManyResultsError
        if answer.status in _DENIED:
            raise UsageError(
                f"the DICOMweb server refuses the credentials: set {TOKEN}, or {USER} and {PASSWORD}"
            )
        if answer.status not in {_OK, _PARTIAL}:
            raise UsageError(
                f"the DICOMweb server answers a search with status {answer.status}: check the address"
            )
        if sum(answer.body.count(mark) for mark in (b"{", b"[", b",")) > _JSON_VALUES:
            raise TooManyResultsError
        try:
            found = json.loads(answer.body.strip() or b"[]")
        except PARSER_ERRORS as error:
            raise UsageError("the address answers, but not as a DICOMweb server: check it") from error
        if not isinstance(found, list) or (found and not any(isinstance(item, dict) for item in found)):
            raise UsageError("the address answers, but not as a DICOMweb server: check it")
        is_cut = answer.is_cut or answer.status == _PARTIAL
        return [item if isinstance(item, dict) else {} for item in found], is_cut

    def retrieve(self, path: str, max_bytes: int, *, is_prefix: bool) -> Answer:
        """One object; with ``is_prefix`` its first ``max_bytes``, else more than those are refused.

        Raises:
            OverLimitError, SourceReadError.
        """
        answer = self._plainer(path, {}, _PART_10, max_bytes, is_prefix=is_prefix)
        if answer.status in _DENIED:
            raise SourceReadError("the server refuses to hand over the instance to these credentials")
        if answer.status not in {_OK, _PARTIAL}:
            raise SourceReadError(
                f"the server answered with status {answer.status}: plan again, or try later"
            )
        if answer.is_cut and not is_prefix:
            raise SourceReadError("the server handed over a part of the instance alone: try later")
        return answer

    def _plainer(
        self,
        path: str,
        query: Mapping[str, str | int],
        accepts: Sequence[str],
        max_bytes: int,
        *,
        is_prefix: bool = False,
    ) -> Answer:
        """The first answer that the server accepts to give; the last one where it accepts none.

        Raises:
            OverLimitError, SourceReadError.
        """
        for accept in accepts:
            answer = self._ask(path, query, accept, max_bytes, is_prefix=is_prefix)
            if answer.status not in _NOT_ACCEPTABLE:
                break
        return answer

    def _ask(
        self,
        path: str,
        query: Mapping[str, str | int],
        accept: str,
        max_bytes: int,
        *,
        is_prefix: bool = False,
    ) -> Answer:
        """Ask until there is an answer that is none of a busy server.

        Raises:
            OverLimitError, SourceReadError.
        """
        patience, began = self._patience, time.monotonic()
        wait_s, failure = patience.first_wait_s, ""
        for attempt in range(patience.attempts):
            try:
                answer, asked_wait_s = self._once(path, query, accept, max_bytes, is_prefix=is_prefix)
                if answer.status not in _BUSY:
                    return answer
                failure = f"status {answer.status}"
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
                failure, asked_wait_s = type(error).__name__, 0.0
            pause_s = max(min(wait_s, patience.longest_wait_s) * random.uniform(0.5, 1.0), asked_wait_s)
            left_s = began + patience.all_s - time.monotonic()
            if attempt + 1 == patience.attempts or pause_s > left_s:
                break
            time.sleep(pause_s)
            wait_s *= 2
        raise SourceReadError(f"the server did not answer ({failure}) when asked several times: try later")

    def _once(
        self, path: str, query: Mapping[str, str | int], accept: str, max_bytes: int, *, is_prefix: bool
    ) -> tuple[Answer, float]:
        """One answer, and the seconds that the server asks to wait."""
        body, ends_s = bytearray(), time.monotonic() + self._patience.answer_s
        asked = self._client.stream("GET", path, params=dict(query), headers={"Accept": accept})
        with within(self._patience.answer_s + 1), asked as response:  # headers, too
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise SourceReadError("the server packs its answers though it was asked not to")
            for piece in response.iter_raw():
                body += piece
                if len(body) > max_bytes:
                    if not is_prefix:
                        raise OverLimitError(f"the answer has more than the cap of {max_bytes} bytes")
                    break
                if time.monotonic() > ends_s:
                    raise SourceReadError(f"the answer took longer than {self._patience.answer_s:g} s")
            content_type = response.headers.get("content-type", "")
            is_cut = response.headers.get("warning", "").startswith("299") or _is_range(response)
            return Answer(response.status_code, content_type, body, is_cut), _asked_wait_s(response)


def _is_range(response: httpx.Response) -> bool:
    """Whether the answer says that it is a part of something longer (RFC 9110 14.4)."""
    match = _RANGE.fullmatch(response.headers.get("content-range", ""))
    return match is not None and (match[1] != "0" or match[3] != str(int(match[2]) + 1))


def _asked_wait_s(response: httpx.Response) -> float:
    value = response.headers.get("retry-after", "")
    return float(value[:9]) if value.isdecimal() else 0.0
