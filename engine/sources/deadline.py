"""A deadline for a whole exchange over HTTP, its headers included.

The timeouts of httpx are for one wait: a server that gives a byte every few seconds keeps its client on.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx

_own = threading.local()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Requests of this thread in the block end after ``seconds`` in all, with a timeout of httpx."""
    _own.ends_s = time.monotonic() + seconds
    try:
        yield
    finally:
        del _own.ends_s


def heed_deadlines(client: httpx.Client) -> httpx.Client:
    """Make the connections of ``client``, through proxies too, heed ``within``."""
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.HTTPTransport):  # httpx hands out no other way to its sockets
            pool = transport._pool
            pool._network_backend = _Backend(pool._network_backend)
    return client


def _left_s(timeout_s: float | None, late: type[Exception]) -> float | None:
    ends_s = getattr(_own, "ends_s", None)
    if ends_s is None:
        return timeout_s
    left_s: float = ends_s - time.monotonic()
    if left_s <= 0:
        raise late("the exchange took too long")
    return left_s if timeout_s is None else min(timeout_s, left_s)


class _Stream(httpcore.NetworkStream):
    """A connection whose every wait ends with the exchange."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left_s(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left_s(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left_s = _left_s(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left_s))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    """Opens connections that heed the deadline."""

    def __init__(self, backend: httpcore.NetworkBackend) -> None:
        self._backend = backend

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left_s = _left_s(timeout, httpcore.ConnectTimeout)
        return _Stream(self._backend.connect_tcp(host, port, left_s, local_address, socket_options))

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)
