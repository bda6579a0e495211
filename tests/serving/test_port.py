"""One port, one server: whoever listens there already, and however, is in the way."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from engine.errors import UsageError
from engine.serving.port import held
from tests.fixtures.outside import free_port

HOLDS = """
import sys, time
from engine.serving.port import held
with held("127.0.0.1", int(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def listening(host: str, *, shared: bool) -> Iterator[int]:
    with socket.socket() as other:
        if shared:  # as Ray's proxies do
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((host, 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("where", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_port_of_another_program_is_taken(host: str, where: str, shared: bool) -> None:
    with (
        listening(where, shared=shared) as port,
        pytest.raises(UsageError, match=f"port {port} is taken"),
        held(host, port),
    ):
        pytest.fail("the port is not ours")


def test_a_server_that_starts_at_the_same_time_is_refused() -> None:
    """Neither of the two listens yet."""
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(port)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match="is taken"), held("127.0.0.1", port):
            pytest.fail("the other process holds it")
        other.kill()
    with held("127.0.0.1", port), socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize(
    ("host", "port", "says"),
    [("127.0.0.1", 0, "--port is"), ("127.0.0.1", 70000, "--port is"), ("192.0.2.1", 8000, "192.0.2.1")],
)
def test_an_address_that_cannot_be_is_named(host: str, port: int, says: str) -> None:
    with pytest.raises(UsageError, match=says), held(host, port):
        pytest.fail("nobody can listen there")
