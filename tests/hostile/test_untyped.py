"""Kind `untyped`: Ray, an actor or a child dies, or its bundle goes; the user gets one ORY line."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest

from engine.deploy.on_ray import ScoreSpec, _Scorer
from engine.errors import BundleError
from engine.ingest.on_ray import is_carried, raise_carried
from engine.store import ledger
from tests.fixtures.outside import free_port
from tests.fixtures.story import osteoray
from tests.ingest.test_several_models import Night, tiny_bundle

psutil = pytest.importorskip("psutil")  # Ray brings its own
HURRY_S = 60.0
ROOT = Path(__file__).parents[2]


def once(there: Path, act: object) -> threading.Thread:
    """A thread that acts when a path appears."""

    def wait() -> None:
        ends_s = time.monotonic() + HURRY_S
        while not there.exists() and time.monotonic() < ends_s:
            time.sleep(0.01)
        act()  # type: ignore[operator]

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.ray
def test_a_bundle_that_is_exchanged_under_a_run_ends_it(ray_session: None, tmp_path: Path) -> None:
    night = Night(tmp_path / "one")
    other = Night(tmp_path / "two").knee  # sound, and of another model

    def exchange() -> None:
        night.hand.rename(tmp_path / "gone")
        other.rename(night.hand)

    thread = once(night.out / ledger.PLAN_NAME, exchange)
    ended = night.score("--model", night.hand, "--out", night.out)
    thread.join()
    assert (ended.code, ended.facts["error"]) == (1, "ORY-B01")
    assert "is another bundle now" in ended.facts["message"]
    night.hand.rename(other)
    (tmp_path / "gone").rename(night.hand)
    assert night.score("--model", night.hand, "--out", night.out).code == 3
    assert osteoray("verify", night.out).code == 0


def test_an_actor_refuses_another_bundle_and_its_words_come_through(tmp_path: Path) -> None:
    place = tiny_bundle(tmp_path / "hand", "hand-age", 64, 1)
    actor = _Scorer(ScoreSpec(bundles=(place,), sha256s=("0" * 64,), engines=("torch",)))
    carried = actor(pa.table({"rule": [0]}))
    assert is_carried(carried)
    assert actor(carried) is carried
    beside = pa.concat_tables([pa.table({"rule": [0]}), carried], promote_options="default")
    with pytest.raises(BundleError, match="is another bundle now"):
        raise_carried(beside)
    raise_carried(pa.table({"rule": [0]}))


SERVICES = ("gcs_server", "raylet")


def service_of(parent: int, name: str) -> Any:
    """A process below ``parent`` whose program is called ``name``."""
    try:
        below = psutil.Process(parent).children(recursive=True)
        return next((one for one in below if name in " ".join(one.cmdline()[:1])), None)
    except psutil.Error:
        return None


class Ended(subprocess.Popen):
    """A process that does not outlive its test."""

    def __del__(self) -> None:
        if self.poll() is None:
            self.terminate()
            self.communicate()
        super().__del__()


def started(*words: object) -> Ended:
    """A command in a process of its own, with a Ray of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return Ended(
        [sys.executable, "-m", "jobs", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
    )  # fmt: skip


def until(found: Callable[[], Any]) -> Any:
    """What ``found`` gives, once it gives something."""
    ends_s = time.monotonic() + 2 * HURRY_S
    while time.monotonic() < ends_s:
        if one := found():
            return one
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def require_one_line(err: str, code: str) -> None:
    assert "Traceback" not in err, err
    assert [line[: 7 + len(code)] for line in err.splitlines() if "ORY-" in line] == [f"error {code}:"], err
    progress = ("plan:", "score:", "error", "INFO")  # the last are of Serve's start
    assert all(line.startswith(progress) for line in err.splitlines() if line.strip()), err


@pytest.mark.ray
@pytest.mark.timeout(300)
@pytest.mark.parametrize("service", SERVICES)
def test_a_dead_service_of_ray_is_one_line_and_the_same_command_goes_on(service: str, tmp_path: Path) -> None:
    night = Night(tmp_path)
    words = (
        "score", night.archive, "--model", night.hand, "--out", night.out, "--shard-size", 1, "--throttle", 1,
    )  # fmt: skip
    run = started(*words)
    until(lambda: (night.out / "shards").exists() and list((night.out / "shards").iterdir()))
    until(lambda: service_of(run.pid, service)).kill()
    _, err = run.communicate(timeout=90)
    assert run.returncode == 1, err
    require_one_line(err, "ORY-C01")
    again = started(*words[:-2])
    out, err = again.communicate(timeout=120)
    assert again.returncode == 3, (out, err)
    assert osteoray("verify", night.out).code == 0


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_serve_ends_when_its_ray_ends_and_has_its_doors_closed(tmp_path: Path) -> None:
    night = Night(tmp_path)
    port = free_port()
    server = started("serve", "--model", night.hand, "--port", port)
    assert server.stdout is not None
    said = server.stdout.readline()
    assert f"127.0.0.1:{port}" in said
    everyone = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    elsewhere = [
        socket.laddr.port
        for one in everyone
        for socket in one.net_connections("tcp")
        if socket.status == psutil.CONN_LISTEN and "127.0.0.1" not in socket.laddr.ip
    ]
    # Ray Serve has no option for where a replica listens to other deployments; it asks for the token there.
    assert len(elsewhere) == 1
    with grpc.insecure_channel(f"127.0.0.1:{elsewhere[0]}") as channel:
        for method in ("HandleRequest", "HandleRequestStreaming"):
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary(f"/ray.serve.ASGIService/{method}")(b"", timeout=20)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    environment = everyone[1].environ()
    token = Path(environment["RAY_AUTH_TOKEN_PATH"])
    assert (stat.S_IMODE(token.stat().st_mode), stat.S_IMODE(token.parent.stat().st_mode)) == (0o600, 0o700)
    until(lambda: service_of(server.pid, "raylet")).kill()
    _, err = server.communicate(timeout=60)
    assert server.returncode == 1, err
    require_one_line(err, "ORY-C01")
    assert not token.parent.exists()


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_reading_child_that_is_killed_again_and_again_is_one_line_or_rows(tmp_path: Path) -> None:
    night = Night(tmp_path)
    run = started("score", night.archive, "--model", night.hand, "--out", night.out)

    def kill_readers() -> None:
        while run.poll() is None:
            with contextlib.suppress(psutil.Error):
                for one in psutil.Process(run.pid).children(recursive=True):
                    if "engine.ingest.decode_worker" in one.cmdline():
                        one.kill()
            time.sleep(0.05)

    killer = threading.Thread(target=kill_readers)
    killer.start()
    out, err = run.communicate(timeout=150)
    killer.join()
    assert run.returncode == 1, (out, err)
    require_one_line(err, "ORY-P01")
