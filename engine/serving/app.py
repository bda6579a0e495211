"""HTTP: DICOM in, JSON out, on FastAPI. Without Ray.

A request goes through the same reading and the same ``score_rows`` as bulk scoring, so the same file gives
the same row; it is decoded in a child process, so no upload ends the server. Nothing of a request is kept or
logged but its outcome.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field, create_model

from engine import __version__, errors
from engine.deploy.abstained import AbstainedError
from engine.deploy.bundle import Bundle
from engine.deploy.score import PROVENANCE, Model, open_model, score_rows
from engine.evaluation import caveats
from engine.ingest.covariates import Covariate, table_values
from engine.ingest.decode_process import Isolation, reader
from engine.ingest.sample import Reading
from engine.serving import docs
from engine.serving.body import upload
from engine.serving.slow_bodies import end_slow_bodies
from engine.store import schema
from engine.tasks.task import Task

NOTICE = "Research use only. Not a medical device."
# The key of a patient has no place in a response, so the site's salt is not needed here.
_NO_SALT = bytes(32)
_ISOLATION = Isolation()


class Headline(BaseModel):
    """The first figure of a model's own held-out evaluation; lower is better."""

    words: str
    value: float | None
    unit: str


class ServedModel(BaseModel):
    """One served bundle."""

    task: str
    model_sha256: str
    backbone: str
    engine: str
    parameters: int
    headline: Headline | None
    notice: str
    """What to know first: missing or widened checks, and what it is for."""


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
    """An opened bundle; one thread at a time uses its predictor."""

    model: Model
    worker: ThreadPoolExecutor
    isolation: Isolation

    def score(self, data: bytes, given: Mapping[str, Any]) -> dict[str, Any]:
        """Score the bytes of one DICOM file: the values of ``columns``, as bulk scoring writes them.

        ``given`` are its table covariates by column.

        Raises:
            InstanceError, FilteredError: file or covariates cannot be used, or the file ended the process
                that decodes.
            AbstainedError: it was scored, and bulk scoring would withhold the score, too.
            IsolationError: that process cannot be started.
        """
        values = table_values(given, self.model.bundle.covariates)
        reading = Reading(source="", rules=(self.model.bundle.rule,), salt=_NO_SALT)
        (outcome,) = reader(self.isolation).read_bytes(reading, data)
        if isinstance(outcome, errors.EngineError):
            raise outcome
        sample, image_HW = outcome
        (result,) = score_rows(self.model, [{**sample, **values}], image_HW[None, None])
        if isinstance(result, AbstainedError):
            raise result
        names = columns(self.model.task)
        return {name: pa.array([result[name]], names[name].type)[0].as_py() for name in names}


def columns(task: Task) -> dict[str, pa.Field]:
    """The columns of a response: header, what made the row, and the answer's own.

    The patient's key is left out: it is made with the site's salt, which no server needs.
    """
    kept = [field for field in schema.HEADER_FIELDS if field.name != "patient_key"]
    made = [pa.field(name, pa.string(), nullable=False) for name in ("content_sha256", *PROVENANCE)]
    own = [column.field() for column in task.answer.columns]
    return {field.name: field for field in (*kept, *made, *own)}


def notice(facts: Mapping[str, Any]) -> str:
    """What to know of a bundle with these facts before its answers are read."""
    return " ".join([*caveats.of_bundle(facts), NOTICE])


def response_model(task: Task, words: str = NOTICE) -> type[BaseModel]:
    """The JSON of one scored instance of a task: ``columns``, and the notice, in ``words``."""
    meanings = {
        column.name: f"{column.meaning} ({column.unit})" if column.unit else column.meaning
        for column in task.answer.columns
    }
    fields: dict[str, Any] = {}
    for name, field in columns(task).items():
        kind = _kind(field.type)
        fields[name] = (kind | None if field.nullable else kind, Field(description=meanings.get(name)))
    title = "".join(word.capitalize() for word in task.name.split("-"))
    return create_model(f"{title}Score", **fields, notice=(str, words))


def _kind(arrow: pa.DataType) -> Any:
    """What a value of a column is in Python."""
    if pa.types.is_list(arrow) or pa.types.is_fixed_size_list(arrow):
        return list[_kind(arrow.value_type)]  # type: ignore[misc]
    if pa.types.is_floating(arrow):
        return float
    if pa.types.is_boolean(arrow):
        return bool
    return int if pa.types.is_integer(arrow) else str


def build_app(
    bundles: Sequence[Path],
    *,
    expected: Sequence[str | None] = (),
    api_key: str | None = None,
    threads: int = 1,
    isolation: Isolation = _ISOLATION,
) -> FastAPI:
    """The HTTP application over some bundles, one per task.

    With ``api_key``, all but /healthz needs it as bearer token.

    ``expected`` are the identities that the bundles must have, where the caller opened them before.

    Raises:
        UsageError: two bundles are for the same task.
        BundleError: a bundle is incomplete or was changed.
    """
    served: dict[str, Served] = {}
    for folder, sha256 in zip(bundles, expected or [None] * len(bundles), strict=True):
        model = open_model(folder, threads=threads, expected=sha256)
        if model.task.name in served:
            raise errors.UsageError(f"two bundles are for {model.task.name}: serve one of them")
        served[model.task.name] = Served(model, ThreadPoolExecutor(1), isolation)
    app = FastAPI(
        title="osteoray", version=__version__, description=NOTICE,
        docs_url=None, redoc_url=None, openapi_url=None,  # their pages load scripts from the internet
    )  # fmt: skip
    end_slow_bodies(app)
    app.add_exception_handler(errors.EngineError, _engine_error)
    guard = [Depends(_bearer_check(api_key))] if api_key else []

    @app.get("/healthz", response_model=Health)
    def healthz() -> Health:
        """Whether the models are loaded."""
        return Health(status="ok", version=__version__, tasks=sorted(served))

    @app.get("/openapi.json", include_in_schema=False, dependencies=guard)
    def openapi() -> JSONResponse:
        return JSONResponse(app.openapi())

    @app.get("/docs", include_in_schema=False, dependencies=guard)
    def documents() -> HTMLResponse:
        return HTMLResponse(docs.page(app.openapi()), headers={"Content-Security-Policy": docs.POLICY})

    @app.get("/v1/models", response_model=list[ServedModel], dependencies=guard)
    def models() -> list[ServedModel]:
        """The bundles that are served."""
        return [_described(one.model.bundle) for one in served.values()]

    for one in served.values():
        _add_score_route(app, one, guard)
    return app


def _add_score_route(app: FastAPI, served: Served, guard: list[Any]) -> None:
    task = served.model.task
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem} for status in (400, 408, 411, 413, 415, 422)
    }

    async def score(request: Request) -> dict[str, Any]:
        """Score one DICOM file, sent as the raw body or as the multipart field `file`.

        Beside `file`, the field `covariates` may be a JSON object with values that no DICOM header holds.
        """
        data, given = await upload(request)
        return await asyncio.get_running_loop().run_in_executor(served.worker, served.score, data, given)

    app.post(
        f"/v1/{task.name}", response_model=response_model(task, notice(served.model.bundle.facts)),
        responses=problems, dependencies=guard,
        openapi_extra={"requestBody": request_body(served.model.bundle.covariates)},
        operation_id=f"score_{task.name.replace('-', '_')}",
    )(score)  # fmt: skip


def request_body(covariates: Sequence[Covariate]) -> dict[str, Any]:
    """The body of a request in OpenAPI's words, with the table covariates that a model takes."""
    file = {"type": "string", "format": "binary"}
    numbers = {}
    for one in covariates:
        if one.is_of_table:
            bounds = {"minimum": one.low, "maximum": one.high}
            numbers[one.column] = {"type": ["number", "null"], "description": one.unit} | {
                name: bound for name, bound in bounds.items() if bound is not None
            }
    fields: dict[str, Any] = {"file": file}
    if numbers:
        fields["covariates"] = {"type": "object", "properties": numbers, "additionalProperties": False}
    form = {"type": "object", "required": ["file"], "properties": fields}
    content = {"application/dicom": {"schema": file}, "multipart/form-data": {"schema": form}}
    return {"required": True, "content": content}


async def _engine_error(request: Request, error: Exception) -> JSONResponse:
    """The error tree as HTTP: 413 too large, 415 no decoder, 422 unusable, not for this task, or withheld.

    A body that is not one file is 400.
    """
    if isinstance(error, errors.InstanceError | errors.FilteredError | AbstainedError):
        statuses = {errors.OverLimitError: 413, errors.UnsupportedSyntaxError: 415}
        status = next((number for kind, number in statuses.items() if isinstance(error, kind)), 422)
        reason = error.reason
    elif isinstance(error, errors.UsageError):
        status, reason = 400, "request"
    else:
        raise error
    problem = Problem(code=error.code, reason=reason, message=str(error))
    return JSONResponse(problem.model_dump(), status)


def _bearer_check(api_key: str) -> Callable[[Request], Awaitable[None]]:
    expected = api_key.encode()

    async def check(request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode(), expected)
        if not is_right or scheme.lower() != "bearer":  # its case is free: RFC 9110 11.1
            raise HTTPException(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})

    return check


def _described(bundle: Bundle) -> ServedModel:
    return ServedModel(
        task=bundle.task,
        model_sha256=bundle.sha256,
        backbone=bundle.facts["model"]["backbone"],
        engine=bundle.engine,
        parameters=bundle.facts["parameters"],
        headline=bundle.facts["evaluation"].get("figures", {}).get("headline"),
        notice=notice(bundle.facts),
    )
