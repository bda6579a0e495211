"""A DICOMweb server as a sink: STOW-RS (PS3.18 10.5), one object a request, so that each has its own result.

An object counts as sent where the answer names it, not where the status is good: pages for a login, gateways
and proxies answer 200, too. The answer is read up to a size and a time. Credentials come from the environment
only, as for sources. Messages hold neither the server's address nor its answers: they may hold identifiers.
"""

from __future__ import annotations

import httpx

from engine.delivery.sink import BUSY, REFUSED, SENT, STORED_WITH_WARNING, UNREACHABLE, SendResult
from engine.delivery.stow_answer import MAX_BYTES, StowAnswer, read_answer
from engine.errors import SinkError, UsageError
from engine.sources.deadline import within
from engine.sources.web import PASSWORD, TOKEN, USER, address_of, client_of

TIMEOUT_S = 30.0
"""Without a byte."""
EXCHANGE_S = 120.0
"""For one object and its whole answer."""
_OK = {200, 202}
_DENIED, _BUSY, _NO_SERVICE = {401, 403}, {408, 425, 429}, {404, 405, 501}
_ERRORS, _SERVER_ERRORS = range(400, 500), range(500, 600)
_PROXY_LOGIN = 407
_DUPLICATE = {0x0111, 45070}
"""Failure reasons of a server that has the UID already: PS3.7 C.4.2, and that of Azure."""
_BOUNDARY = b"osteoray-result-boundary"
_CONTENT_TYPE = f'multipart/related; type="application/dicom"; boundary={_BOUNDARY.decode()}'


class Stow:
    """The studies resource of one server. Its connections are shared by threads."""

    def __init__(self, address: str, connections: int = 4, timeout_s: float = TIMEOUT_S) -> None:
        """Connect to nothing yet; credentials are read from the environment now.

        Raises:
            UsageError: the address holds credentials or a query, or is none.
        """
        parts = address_of(address)
        if parts.query:
            raise UsageError("a DICOMweb sink is dicomweb+https://host/path, without a query")
        self._client = client_of(parts, connections=connections, timeout_s=timeout_s)

    def send(self, uid: str, data: bytes) -> SendResult:
        """Post one object; a server that has its UID already counts as sent.

        Raises:
            SinkError: credentials are refused, or there is no STOW service at the address.
        """
        body = b"--" + _BOUNDARY + b"\r\nContent-Type: application/dicom\r\n\r\n" + data
        request = self._client.build_request(
            "POST",
            "studies",
            content=body + b"\r\n--" + _BOUNDARY + b"--\r\n",
            headers={"Accept": "application/dicom+json", "Content-Type": _CONTENT_TYPE},
        )
        try:
            with within(EXCHANGE_S):
                response = self._client.send(request, stream=True)
                try:
                    said = _body_of(response)
                finally:
                    response.close()
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            return SendResult(UNREACHABLE, type(error).__name__)
        return _verdict(response.status_code, said, uid)

    def close(self) -> None:
        """End the connections."""
        self._client.close()


def _body_of(response: httpx.Response) -> bytes | None:
    """The answer; None where it is packed though we asked for none of that, or longer than any answer."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        return None
    body = bytearray()
    for piece in response.iter_raw():
        body += piece
        if len(body) > MAX_BYTES:
            return None
    return bytes(body)


def _verdict(status: int, said: bytes | None, uid: str) -> SendResult:
    if status in _DENIED:
        raise SinkError(f"the server refuses the credentials: set {TOKEN}, or {USER} and {PASSWORD}")
    if status in _NO_SERVICE:
        raise SinkError(f"the server takes no objects there (status {status}): check the address of --to")
    if status in _BUSY or status in _SERVER_ERRORS:
        return SendResult(BUSY, f"status_{status}")
    answer = read_answer(said or b"")
    if answer is not None:
        return _verdict_of(answer, status, uid)
    if status in _ERRORS and status != _PROXY_LOGIN:
        return SendResult(REFUSED, f"status_{status}")
    return SendResult(UNREACHABLE, f"no_stow_answer_{status}")


def _verdict_of(answer: StowAnswer, status: int, uid: str) -> SendResult:
    failures, warnings = answer.failures(uid), answer.warnings(uid)
    if failures and failures <= _DUPLICATE:
        return SendResult(SENT, "already_there")
    if failures:
        return SendResult(REFUSED, f"status_{status}_{min(failures):04X}")
    if status in _ERRORS:
        return SendResult(REFUSED, f"status_{status}")
    if status not in _OK or not answer.names(uid) or not answer.is_about(uid):
        return SendResult(UNREACHABLE, f"answer_without_the_object_{status}")
    if warnings:
        verdict = SENT if warnings <= STORED_WITH_WARNING else REFUSED
        return SendResult(verdict, f"warning_{min(warnings):04X}")
    return SendResult(SENT)
