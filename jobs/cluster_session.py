"""The one place that starts Ray, or joins it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import ClusterError

_ANSWERS_WITHIN_S = 10.0
_LOG_LEVEL = "RAY_BACKEND_LOG_LEVEL"
_STANDARD_ERROR = 2


def start_ray(*, num_cpus: int | None = None, log_to_driver: bool = False) -> None:
    """Join the cluster that RAY_ADDRESS names, else start a local one; nothing where Ray runs already.

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
        with _quiet_driver():
            ray.init(
                address=address or "local",
                num_cpus=None if address else num_cpus,
                include_dashboard=None if address else False,
                log_to_driver=log_to_driver,
                logging_level=logging.ERROR,
            )
    except Exception as error:  # Ray raises this very class where a node does not start in time
        where = f"joined at RAY_ADDRESS={address}" if address else "started on this machine"
        reason = " ".join(str(error).split()).rstrip(".")
        raise ClusterError(
            f"Ray could not be {where}: {reason}. Is the machine overloaded or short of memory, or the "
            "address wrong? The same command may simply be given again"
        ) from error


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
