"""The port of a server: held by one of ours at a time, and by nobody else when it starts."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from errno import EADDRINUSE

from engine.errors import UsageError

_HIGHEST = 65535


@contextmanager
def held(host: str, port: int) -> Iterator[None]:
    """A block in which no other server of ours on this machine takes the port.

    Ray's proxies let others listen beside them (SO_REUSEPORT), and requests would go to one or the other. So
    a name is held in the kernel from before Ray starts until the process ends, however it ends.

    Raises:
        UsageError: the port is taken or not allowed, or the address is none of this machine.
    """
    if not 0 < port <= _HIGHEST:
        raise UsageError(f"--port is 1 to {_HIGHEST}, not {port}")
    with closing(socket.socket(socket.AF_UNIX)) as name:
        try:
            name.bind(f"\0osteoray-serve-{port}")
        except OSError as error:
            raise _taken(port) from error
        _require_free(host, port)
        yield


def _require_free(host: str, port: int) -> None:
    """Whoever listens there, and however, is in the way of a socket that shares with nobody."""
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"--host {host} is no address of this machine") from error
    for family, kind, protocol, _, place in places:
        with closing(socket.socket(family, kind, protocol)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that ended do not count
            try:
                probe.bind(place)
                probe.listen(1)
            except OSError as error:
                if error.errno == EADDRINUSE:
                    raise _taken(port) from error
                raise UsageError(
                    f"{host}:{port} cannot be listened on ({error.strerror}): choose another --host or --port"
                ) from error


def _taken(port: int) -> UsageError:
    return UsageError(f"port {port} is taken by another server: end that one, or choose another --port")
