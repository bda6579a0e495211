"""HTTP: DICOM in, JSON out, on Ray Serve and FastAPI. The only door to both.

A request goes through the same reading and the same Predictor as bulk scoring, so the same file gives the
same number; it is decoded in a child process, so no upload ends the server. Nothing of a request is kept or
logged but its outcome.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from ray import serve
from starlette.datastructures import UploadFile

from engine import __version__
from engine.deploy.abstained import AbstainedError
from engine.deploy.bundle import Bundle, open_bundle
from engine.deploy.engines import Predictor, gpus_of, open_predictor
from engine.deploy.score import verdicts
from engine.errors import (
    EngineError,
    FilteredError,
    InstanceError,
    OverLimitError,
    UnsupportedSyntaxError,
    UsageError,
)
from engine.ingest import covariates
from engine.ingest.decode_process import Isolation, reader
from engine.ingest.sample import Reading
from engine.store.files import code_version
from engine.tasks.ages.calibration import LEVEL

MAX_BODY_BYTES = 128 << 20
NOTICE = "Research use only. Not a medical device."
DEPLOYMENT = "osteoray"
# The key of a patient has no place in a response, so the site's salt is not needed here.
_NO_SALT = bytes(32)
_ISOLATION = Isolation()


class Score(BaseModel):
    """One scored instance."""

    sop_instance_uid: str
    task: str
    predicted_months: float = Field(description="Expected bone age in months")
    sd_months: float = Field(description="Spread of the predicted age distribution in months")
    interval_low_months: float | None = Field(
        description="Lower end of the conformal interval; null where the model has none"
    )
    interval_high_months: float | None = Field(description="Upper end of the same interval")
    interval_level: float = Field(description="Share of new images that the interval is to cover")
    patient_sex: str | None = Field(description="PatientSex, used as covariate; null where it is unknown")
    content_sha256: str
    model_sha256: str
    code_version: str
    notice: str = NOTICE


class Model(BaseModel):
    """One served bundle."""

    task: str
    model_sha256: str
    backbone: str
    engine: str
    parameters: int
    test_mae_months: float
    notice: str = NOTICE


class Problem(BaseModel):
    """Why a request gave no result; ``code`` and ``reason`` are those of the tables that `score` writes."""

    code: str
    reason: str
    message: str


class Health(BaseModel):
    """The server answers and its models are loaded."""

    status: str
    version: str
    tasks: list[str]


@dataclass(frozen=True, slots=True)
class Served:
    """An opened bundle and its predictor; one thread at a time uses the predictor."""

    bundle: Bundle
    predictor: Predictor
    worker: ThreadPoolExecutor
    isolation: Isolation

    def score(self, data: bytes) -> Score:
        """Score the bytes of one DICOM file.

        Raises:
            InstanceError, FilteredError: the file cannot be used, or ended the process that decodes.
            AbstainedError: it was scored, and bulk scoring would withhold the score, too.
            IsolationError: that process cannot be started.
        """
        reading = Reading(source="", rule=self.bundle.rule, salt=_NO_SALT)
        outcome = reader(self.isolation).read_bytes(reading, data)
        if isinstance(outcome, EngineError):
            raise outcome
        columns, image_HW = outcome
        told_BQ = covariates.columns([columns], self.bundle.covariates)
        scores = self.predictor.predict(image_HW[None], told_BQ)
        (verdict,) = verdicts(self.bundle, [columns], image_HW[None], scores)
        if verdict is not None:
            raise verdict
        interval = self.bundle.calibration.interval(scores.months_B, scores.sd_B)
        return Score(
            sop_instance_uid=columns["sop_instance_uid"],
            task=self.bundle.task,
            predicted_months=float(scores.months_B[0]),
            sd_months=float(scores.sd_B[0]),
            interval_low_months=float(interval[0][0]) if interval else None,
            interval_high_months=float(interval[1][0]) if interval else None,
            interval_level=LEVEL,
            patient_sex=columns["patient_sex"],
            content_sha256=columns["content_sha256"],
            model_sha256=self.bundle.sha256,
            code_version=code_version(),
        )


def build_app(
    bundles: Sequence[Path],
    *,
    api_key: str | None = None,
    threads: int = 1,
    isolation: Isolation = _ISOLATION,
) -> FastAPI:
    """The HTTP application over some bundles, one per task. With ``api_key``, /v1 needs it as bearer token.

    Raises:
        UsageError: two bundles are for the same task.
        BundleError: a bundle is incomplete or was changed.
    """
    served: dict[str, Served] = {}
    for folder in bundles:
        bundle = open_bundle(folder)
        if bundle.task in served:
            raise UsageError(f"two bundles are for {bundle.task}: serve one of them")
        predictor = open_predictor(folder, bundle.engine, threads=threads)
        served[bundle.task] = Served(bundle, predictor, ThreadPoolExecutor(1), isolation)
    app = FastAPI(title="osteoray", version=__version__, description=NOTICE)
    app.add_exception_handler(EngineError, _engine_error)
    guard = [Depends(_bearer_check(api_key))] if api_key else []
    _add_facts_routes(app, served, guard)
    for task, model in served.items():
        _add_score_route(app, task, model, guard)
    return app


def deploy(
    bundles: Sequence[Path],
    *,
    host: str,
    port: int,
    replicas: int = 1,
    api_key: str | None = None,
    isolation: Isolation = _ISOLATION,
) -> None:
    """Start Ray Serve on ``host:port`` and wait until the models are loaded. Ray must be running.

    Raises:
        UsageError: ``host`` is open to the network and there is no API key.
    """
    if api_key is None and not _is_loopback(host):
        raise UsageError(f"{host} is open to the network: give --api-key-file, or serve on 127.0.0.1")
    folders = [folder.resolve() for folder in bundles]
    gpus = gpus_of(open_bundle(folder).engine for folder in folders)

    def app() -> FastAPI:
        return build_app(folders, api_key=api_key, isolation=isolation)

    decorate: Any = serve.deployment(  # its stub misses that it also takes what ingress() gives
        name=DEPLOYMENT,
        num_replicas=replicas,
        max_ongoing_requests=16,
        max_queued_requests=256,
        ray_actor_options={"num_cpus": 0.5, "num_gpus": gpus},
    )
    deployed = decorate(serve.ingress(app)())
    serve.start(http_options={"host": host, "port": port})
    serve.run(deployed.bind(), name=DEPLOYMENT, route_prefix="/")


def _add_facts_routes(app: FastAPI, served: dict[str, Served], guard: list[Any]) -> None:
    @app.get("/healthz", response_model=Health)
    def healthz() -> Health:
        """Whether the models are loaded."""
        return Health(status="ok", version=__version__, tasks=sorted(served))

    @app.get("/v1/models", response_model=list[Model], dependencies=guard)
    def models() -> list[Model]:
        """The bundles that are served."""
        return [_model(one.bundle) for one in served.values()]


def _add_score_route(app: FastAPI, task: str, model: Served, guard: list[Any]) -> None:
    body = {
        "requestBody": {
            "required": True,
            "content": {
                "application/dicom": {"schema": {"type": "string", "format": "binary"}},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["file"],
                        "properties": {"file": {"type": "string", "format": "binary"}},
                    }
                },
            },
        }
    }
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem} for status in (400, 411, 413, 415, 422)
    }

    async def score(request: Request) -> Score:
        """Score one DICOM file, sent as the raw body or as the multipart field `file`."""
        data = await _body(request)
        return await asyncio.get_running_loop().run_in_executor(model.worker, model.score, data)

    app.post(
        f"/v1/{task}", response_model=Score, responses=problems, dependencies=guard, openapi_extra=body,
        operation_id=f"score_{task.replace('-', '_')}",
    )(score)  # fmt: skip


async def _body(request: Request) -> bytes:
    """The file's bytes, never more than MAX_BODY_BYTES, whatever the client claims."""
    claimed = request.headers.get("content-length")
    if claimed and claimed.isdigit() and int(claimed) > MAX_BODY_BYTES:
        raise OverLimitError(f"the body is above the cap of {MAX_BODY_BYTES} bytes")
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        if claimed is None:
            raise HTTPException(411, "a multipart body needs a Content-Length")
        async with request.form(max_files=1, max_fields=8) as form:
            part = form.get("file")
            if not isinstance(part, UploadFile):
                raise HTTPException(400, "the multipart field 'file' is missing")
            return await part.read()
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BODY_BYTES:
            raise OverLimitError(f"the body is above the cap of {MAX_BODY_BYTES} bytes")
    return bytes(data)


async def _engine_error(request: Request, error: Exception) -> JSONResponse:
    """The error tree as HTTP: 413 too large, 415 no decoder, 422 unusable, not for this task, or withheld."""
    if not isinstance(error, InstanceError | FilteredError | AbstainedError):
        raise error
    status = (
        413
        if isinstance(error, OverLimitError)
        else 415
        if isinstance(error, UnsupportedSyntaxError)
        else 422
    )
    problem = Problem(code=error.code, reason=error.reason, message=str(error))
    return JSONResponse(problem.model_dump(), status)


def _bearer_check(api_key: str) -> Callable[[Request], Awaitable[None]]:
    expected = f"Bearer {api_key}".encode()

    async def check(request: Request) -> None:
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, expected):
            raise HTTPException(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})

    return check


def _model(bundle: Bundle) -> Model:
    return Model(
        task=bundle.task,
        model_sha256=bundle.sha256,
        backbone=bundle.facts["backbone"],
        engine=bundle.engine,
        parameters=bundle.facts["parameters"],
        test_mae_months=bundle.facts["evaluation"]["mae_months"],
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
