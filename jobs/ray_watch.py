"""Whether Ray is still there. A thread looks, and the main thread gets a ClusterError when it is not.

Ray itself would wait a minute for its head, or end this process with its own words. Where the main thread
does not come to its end, since it waits inside Ray, the process ends here, with the same line.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from engine.errors import ClusterError, EngineError

_LOOK_S = 1.0
_KNOCK_S = 5.0
_MOST_SILENT = 3
_GRACE_S = 15.0
_DEEPEST = 12
_HURT = signal.SIGUSR2
LOST = (
    "Ray has ended: {what}. Was it killed, or the machine short of memory? What was finished is kept: give "
    "the same command again"
)

_folders: list[Path] = []
_lost: list[str] = []


def leave_behind_nothing(folder: Path) -> None:
    """Remove this folder also where the process ends at once."""
    _folders.append(folder)


def watch() -> None:
    """Watch the Ray that was started or joined, until it is shut down in order."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(_HURT, _in_main_thread)
        threading.Thread(target=_look, name="ray-watch", daemon=True).start()


def _look() -> None:
    import ray

    address, silent = ray.get_runtime_context().gcs_address, 0
    knocked_s = time.monotonic()
    while ray.is_initialized():
        time.sleep(_LOOK_S)
        what = _dead_service()
        if what is None and time.monotonic() - knocked_s > _KNOCK_S:
            knocked_s = time.monotonic()
            silent = 0 if _answers(address) else silent + 1
            what = "its head does not answer" if silent >= _MOST_SILENT else None
        if what and ray.is_initialized():
            _end(what)


def _dead_service() -> str | None:
    """The name of a service of a local Ray that is gone."""
    import ray

    node: Any = ray._private.worker._global_node  # noqa: SLF001  Ray tells its processes nowhere else
    for name in ("gcs_server", "raylet"):
        for one in node.all_processes.get(name, []) if node else []:
            if one.process.poll() is not None:
                return f"its service {name} is gone"
    return None


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()
    except OSError:
        return False
    return True


def _end(what: str) -> NoReturn:
    """Tell the main thread; end for it where it does not hear."""
    _lost.append(what)
    for name in ("ray", "ray.data", "ray.serve", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    threading.excepthook = lambda _: None  # threads of Ray whose Ray is gone
    signal.pthread_kill(threading.main_thread().ident or 0, _HURT)
    time.sleep(_GRACE_S)
    print(f"error {ClusterError.code}: {LOST.format(what=what)}", file=sys.stderr, flush=True)
    leave_if_lost(ClusterError.exit_code)
    raise AssertionError


def _in_main_thread(number: int, frame: FrameType | None) -> NoReturn:
    raise ClusterError(LOST.format(what=_lost[0] if _lost else "it was asked to"))


def leave_if_lost(code: int) -> None:
    """End the process at once where Ray is gone: its own way out waits for it. Else nothing."""
    if not _lost:
        return
    import ray

    node: Any = ray._private.worker._global_node  # noqa: SLF001
    if node:
        for one in (one for some in node.all_processes.values() for one in some):
            one.process.kill()
    for folder in _folders:
        shutil.rmtree(folder, ignore_errors=True)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def typed(error: BaseException) -> EngineError | None:
    """What Ray raised, as an error of our tree: the one of ours that it wraps, else that Ray failed.

    None for an error that Ray has no part in.
    """
    chain = [error]
    for one in chain:  # grows while it is walked
        inner = (getattr(one, "cause", None), one.__cause__, one.__context__)
        chain += (
            [found for found in inner if isinstance(found, BaseException) and found not in chain]
            if len(chain) < _DEEPEST
            else []
        )
    by_ray = [one for one in chain if type(one).__module__.partition(".")[0] == "ray"]
    if not by_ray or (isinstance(error, EngineError) and error not in by_ray):
        return None
    ours = [one for one in chain if isinstance(one, EngineError) and one not in by_ray]
    if ours:
        return ours[0]
    failed = f"a worker or a service of it failed ({type(by_ray[0]).__name__})"
    return ClusterError(LOST.format(what=_lost[0] if _lost else failed))
