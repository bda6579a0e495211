"""The HTTP application on Ray Serve: replicas, their queue, and the address."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from ray import serve

from engine.deploy.bundle import Bundle
from engine.deploy.engines import gpus_of
from engine.errors import ClusterError, UsageError
from engine.ingest.decode_process import Isolation
from engine.serving.app import build_app

DEPLOYMENT = "osteoray"
_BROKEN = frozenset({"DEPLOY_FAILED", "UNHEALTHY", "DELETING", "NOT_STARTED"})
_ISOLATION = Isolation()


def deploy(
    bundles: Sequence[Bundle],
    *,
    host: str,
    port: int,
    replicas: int = 1,
    api_key: str | None = None,
    isolation: Isolation = _ISOLATION,
) -> None:
    """Start Ray Serve on ``host:port`` and wait until the models are loaded. Ray must be running.

    Raises:
        UsageError: ``host`` is open to the network and there is no API key, or the cluster serves already.
        ClusterError: the models cannot be loaded.
    """
    if api_key is None and not _is_loopback(host):
        raise UsageError(f"{host} is open to the network: give --api-key-file, or serve on 127.0.0.1")
    if serve.status().applications:  # a second one would take the place of the first, or share its port
        raise UsageError(
            "this Ray cluster serves already: end that server, or give `serve shutdown` where it was killed"
        )
    folders = [bundle.folder.resolve() for bundle in bundles]
    gpus = gpus_of(bundle.engine for bundle in bundles)
    expected = [bundle.sha256 for bundle in bundles]

    def app() -> FastAPI:
        return build_app(folders, expected=expected, api_key=api_key, isolation=isolation)

    decorate: Any = serve.deployment(  # its stub misses that it also takes what ingress() gives
        name=DEPLOYMENT,
        num_replicas=replicas,
        max_ongoing_requests=16,
        max_queued_requests=256,
        ray_actor_options={"num_cpus": 0.5, "num_gpus": gpus},
    )
    deployed = decorate(serve.ingress(app)())
    serve.start(http_options={"host": host, "port": port})
    try:
        serve.run(deployed.bind(), name=DEPLOYMENT, route_prefix="/")
    except RuntimeError as error:  # Serve tells a cause of many lines; its first one says what failed
        reason = str(error).strip().partition("\n")[0]
        raise ClusterError(f"the models could not be served: {reason}") from error


def withdraw() -> None:
    """End what ``deploy`` started: a cluster that was joined would serve on."""
    serve.shutdown()  # type: ignore[no-untyped-call]


def is_serving() -> bool:
    """Whether Ray Serve still has the application, and does not call it broken."""
    application = serve.status().applications.get(DEPLOYMENT)
    return application is not None and application.status.name not in _BROKEN


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
