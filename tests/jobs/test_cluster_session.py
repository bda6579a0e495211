"""Joining a cluster that is not there: said at once, in one line, with its code."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import ray

from engine.errors import ClusterError
from jobs.cluster_session import start_ray
from tests.fixtures.outside import free_port


@pytest.fixture(autouse=True)
def not_joined_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_answers_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    address = f"{scheme}127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match=f"RAY_ADDRESS={address}.*refused.*again") as refused:
        start_ray()
    assert (refused.value.code, refused.value.exit_code) == ("ORY-C01", 1)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("address", ["nonsense", "nonsense:port"])
def test_what_is_no_address_is_said_to_be_none(address: str) -> None:
    code = "from jobs.cluster_session import start_ray; start_ray()"
    told = {**os.environ, "RAY_ADDRESS": address}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=told, capture_output=True, text=True, check=False
    )
    said = ended.stderr.splitlines()[-1]
    assert f"ClusterError: Ray could not be joined at RAY_ADDRESS={address}: " in said
    assert said.endswith("The same command may simply be given again")


def test_a_host_that_no_name_server_knows_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*words: object, **more: object) -> socket.socket:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    monkeypatch.setenv("RAY_ADDRESS", "head.invalid:6379")
    with pytest.raises(ClusterError, match="Name or service not known"):
        start_ray()
