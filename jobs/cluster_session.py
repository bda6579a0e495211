"""The one place that starts Ray, or joins it."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.errors import ClusterError
from jobs import ray_watch

_ANSWERS_WITHIN_S = 10.0
_LOG_LEVEL = "RAY_BACKEND_LOG_LEVEL"
_STANDARD_ERROR = 2
_LOOPBACK = "127.0.0.1"
_LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Set to 0, all services of Ray listen on 127.0.0.1 only; on these two systems it is so from the start."""
_LONGEST_FOLDER = 40
"""Ray puts sockets some 60 characters below its folder, and a socket's path has at most 107."""


def start_ray(*, num_cpus: int | None = None, log_to_driver: bool = False) -> None:
    """Join the cluster that RAY_ADDRESS names, else start a local one; nothing where Ray runs already.

    A local one listens on 127.0.0.1, wants a token, and keeps its files where only this user can read them.
    ``num_cpus`` is for a local cluster (default: all cores). ``log_to_driver`` shows what workers print.

    Raises:
        ClusterError: Ray did not come up in its own time, or the cluster is not there.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray  # after the variable above

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    # Ray's notices at its start are in its own log folder; a verb's stderr has progress and errors only.
    try:
        _require_answer(address or "")
        local = {} if address else {"num_cpus": num_cpus, "include_dashboard": False, **_closed_doors()}
        with _quiet_driver():
            ray.init(
                address=address or "local",
                log_to_driver=log_to_driver,
                logging_level=logging.CRITICAL,
                **local,
            )
        if local:
            _require_closed_doors()
    except Exception as error:  # Ray raises this very class where a node does not start in time
        where = f"joined at RAY_ADDRESS={address}" if address else "started on this machine"
        reason = " ".join(str(error).split()).rstrip(".")
        raise ClusterError(
            f"Ray could not be {where}: {reason}. Is the machine overloaded or short of memory, or the "
            "address wrong? The same command may simply be given again"
        ) from error
    ray_watch.watch()


def _closed_doors() -> dict[str, Any]:
    """What makes a local Ray this user's own: its address, and a folder with mode 0700 that holds its token.

    Ray opens its own folder to everybody, so it lies in one of ours, which goes when this process ends.
    """
    import ray

    short = len(tempfile.gettempdir()) < _LONGEST_FOLDER
    folder = Path(tempfile.mkdtemp(prefix="ory-", dir=None if short else "/tmp"))
    atexit.register(_close, folder)
    ray_watch.leave_behind_nothing(folder)
    token = folder / "token"
    with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(secrets.token_hex(32))
    for name in (
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
    ):  # Ray wants a token of a local cluster unless told otherwise
        os.environ.pop(name, None)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    os.environ[_LOOPBACK_ONLY] = "0"
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = False  # what this process read of it when it imported Ray
    core: Any = ray._raylet
    core.AuthenticationTokenLoader.instance().reset_cache()  # that of an earlier Ray of this process
    return {"_node_ip_address": _LOOPBACK, "_temp_dir": str(folder / "ray")}


def _close(folder: Path) -> None:
    """End the local Ray, then remove its folder: Ray would write into it until it has ended."""
    import ray

    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def _require_closed_doors() -> None:
    """Refuse a Ray that others could reach or use.

    Raises:
        ClusterError: it listens elsewhere than on 127.0.0.1, or takes work without a token.
    """
    import ray

    core: Any = ray._raylet
    wants_token = core.get_authentication_mode() == core.AuthenticationMode.TOKEN
    if wants_token and ray.get_runtime_context().gcs_address.startswith(f"{_LOOPBACK}:"):
        return
    ray.shutdown()
    raise ClusterError(
        "it listens to the network or takes no token: unset the variables RAY_* that change that"
    )


@contextmanager
def _quiet_driver() -> Iterator[None]:
    """A block in which this process alone starts Ray's C++ core, so that it writes no log to our stderr.

    It would write a false alarm for each pool of actors (ray-project/ray#53727: their arguments are objects,
    which Ray Data holds as long as the pool lives). What fails reaches us as an exception all the same. Ray's
    services and workers get ``os.environ``, which ``putenv`` leaves alone, and keep their logs.
    """
    if _LOG_LEVEL in os.environ:
        yield
        return
    os.putenv(_LOG_LEVEL, "fatal")
    ours = os.dup(_STANDARD_ERROR)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _STANDARD_ERROR)  # the core says there that it took the level
    try:
        yield
    finally:
        os.dup2(ours, _STANDARD_ERROR)
        os.close(ours)
        os.close(nowhere)
        os.unsetenv(_LOG_LEVEL)


def _require_answer(address: str) -> None:
    """Knock at ``host:port``: Ray itself would wait there for minutes.

    Raises:
        OSError: nobody answers.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS_WITHIN_S).close()


def cluster_cores() -> int:
    """Cores of all nodes of the cluster that runs or was joined; at least 1."""
    return max(_held("CPU"), 1)


def is_joining() -> bool:
    """Whether RAY_ADDRESS names a cluster to join: what it has is known only then."""
    return bool(os.environ.get("RAY_ADDRESS"))


def require_gpus(least: int = 1) -> int:
    """GPUs of all nodes of the cluster that runs or was joined.

    Raises:
        ClusterError: fewer than ``least``; a worker that needs one would wait for it without end.
    """
    gpus = _held("GPU")
    if gpus < least:
        raise ClusterError(
            f"this needs {least} GPU(s) and the Ray cluster has {gpus}: join one that has them "
            "(RAY_ADDRESS), or run on CPUs (without --gpu, or with --engine openvino)"
        )
    return gpus


def _held(resource: str) -> int:
    import ray

    held: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(held.get(resource, 0))
