"""A DICOMweb server as a sink: STOW-RS (PS3.18 10.5), one object a request, so that each has its own result.

Credentials come from the environment only, as for sources. Messages hold neither the server's address nor its
answers: they may contain identifiers.
"""

from __future__ import annotations

from typing import Any

import httpx

from engine.delivery.sink import BUSY, REFUSED, SENT, UNREACHABLE, SendResult
from engine.errors import SinkError, UsageError
from engine.sources.web import PASSWORD, TOKEN, USER, address_of, client_of

TIMEOUT_S = 30.0
_OK, _ACCEPTED, _CONFLICT = 200, 202, 409
_DENIED, _BUSY, _NO_SERVICE = {401, 403}, {408, 425, 429, 500, 502, 503, 504}, {404, 405, 501}
_DUPLICATE = {0x0111, 45070}
"""Failure reasons of a server that has the UID already: PS3.7 C.4.2, and that of Azure."""
_BOUNDARY = b"osteoray-result-boundary"
_CONTENT_TYPE = f'multipart/related; type="application/dicom"; boundary={_BOUNDARY.decode()}'
_FAILED, _FAILURE_REASON = "00081198", "00081197"


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
        try:
            response = self._client.post(
                "studies",
                content=body + b"\r\n--" + _BOUNDARY + b"--\r\n",
                headers={"Accept": "application/dicom+json", "Content-Type": _CONTENT_TYPE},
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return SendResult(UNREACHABLE, type(error).__name__)
        return _result_of(response)

    def close(self) -> None:
        """End the connections."""
        self._client.close()


def _result_of(response: httpx.Response) -> SendResult:
    status = response.status_code
    if status in _DENIED:
        raise SinkError(f"the server refuses the credentials: set {TOKEN}, or {USER} and {PASSWORD}")
    if status in _NO_SERVICE:
        raise SinkError(f"the server takes no objects there (status {status}): check the address of --to")
    if status in _BUSY:
        return SendResult(BUSY, f"status_{status}")
    reasons = _failure_reasons(response)
    if reasons and reasons <= _DUPLICATE:
        return SendResult(SENT, "already_there")
    if status in {_OK, _ACCEPTED} and not reasons:
        return SendResult(SENT)
    code = f"_{min(reasons):04X}" if reasons else ""
    return SendResult(REFUSED, f"status_{status}{code}")


def _failure_reasons(response: httpx.Response) -> set[int]:
    """Codes in the answer's Failed SOP Sequence; empty where it has none, or cannot be read."""
    try:
        found: Any = response.json()
        items = (found[0] if isinstance(found, list) else found).get(_FAILED, {}).get("Value", [])
        return {int(item[_FAILURE_REASON]["Value"][0]) for item in items}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return set()
