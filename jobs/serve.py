"""``osteoray serve``: bundles over HTTP."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from engine.deploy.bundle import open_bundle
from engine.deploy.engines import gpus_of
from engine.deploy.signature import require_known
from engine.errors import ClusterError, UsageError
from jobs.cluster_session import is_joining, require_gpus, start_ray
from jobs.options import PinOption, TrustedOption
from jobs.salt import require_private

MIN_KEY_CHARACTERS = 16
_LOOK_S = 5.0
_MENDED_S = 60.0


def serve(
    model: Annotated[
        list[Path], typer.Option(exists=True, help="Bundle folder; may be repeated, one a task.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on. Other than this machine needs --api-key-file.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to listen on.")] = 8000,
    replicas: Annotated[
        int, typer.Option(min=1, max=1024, help="Number of server processes; each loads all models.")
    ] = 1,
    trusted: TrustedOption = None,
    pin: PinOption = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="File with the bearer key that clients must send."),
    ] = None,
) -> None:
    """Serve bundles over HTTP until interrupted: POST a DICOM file to /v1/<task>, get JSON.

    The same file gives the same number as `osteoray score` with the same bundle. /docs shows the API.
    """
    from engine.serving.on_ray import deploy, withdraw
    from engine.serving.port import held

    bundles = [open_bundle(folder) for folder in model]
    require_known(bundles, trusted, pin or ())
    for bundle in bundles:
        if bundle.rule.grain == "series":
            raise UsageError(
                f"{bundle.task} takes whole series, and a request is one file: use `osteoray score`"
            )
    key = _key(api_key_file)
    with held(host, port):
        start_ray()
        if gpus_of(bundle.engine for bundle in bundles):
            require_gpus(replicas)
        deploy(bundles, host=host, port=port, replicas=replicas, api_key=key)
        _serve(host, port, [bundle.task for bundle in bundles])
        if is_joining():
            withdraw()


def _serve(host: str, port: int, tasks: Sequence[str]) -> None:
    """Say what is served, and wait to be interrupted.

    Raises:
        ClusterError: see ``_wait``.
    """
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    print(f"serving http://{host}:{port}  (API: /docs)  research use only", flush=True)
    for task in tasks:
        print(f"  curl --data-binary @FILE.dcm http://{host}:{port}/v1/{task}", flush=True)
    _wait(stopped)


def _wait(stopped: threading.Event) -> None:
    """Until ``stopped``; what Ray Serve mends by itself within ``_MENDED_S`` is no end.

    Raises:
        ClusterError: the models are not served any more, or Ray has ended.
    """
    from engine.serving.on_ray import is_serving

    sound_s = time.monotonic()
    while not stopped.wait(_LOOK_S):
        if is_serving():
            sound_s = time.monotonic()
        elif time.monotonic() - sound_s > _MENDED_S:
            raise ClusterError("the models are not served any more, and Ray does not mend it: start it again")


def _key(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        require_private(path, "key file")
        key = path.read_text().strip()
    except OSError as error:
        raise UsageError(f"the key file {path} cannot be read ({error.strerror})") from error
    if len(key) < MIN_KEY_CHARACTERS:
        raise UsageError(f"the key in {path} is shorter than {MIN_KEY_CHARACTERS} characters")
    return key
