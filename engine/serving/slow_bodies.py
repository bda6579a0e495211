"""A deadline and a least rate for the body of a request: who sends a byte now and then holds no place."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PROBLEM = {
    "code": "ORY-U01",
    "reason": "slow_body",
    "message": "the body came too slowly and was dropped: send it again",
}


@dataclass(frozen=True, slots=True)
class Haste:
    """How fast a body must come."""

    pause_s: float = 10.0
    """The longest wait for a further piece."""
    grace_s: float = 10.0
    """How long any rate is taken."""
    least_per_s: float = 16 * 1024
    """Bytes a second over all, after that."""


_HASTE = Haste()


def end_slow_bodies(app: FastAPI, haste: Haste = _HASTE) -> None:
    """Answer a request whose body comes slower than ``haste`` with 408."""
    app.add_middleware(_Timed, haste=haste)
    app.add_exception_handler(_SlowBodyError, _refuse)


class _SlowBodyError(Exception):
    """The body has not come in time."""


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse(_PROBLEM, 408, {"Connection": "close"})


class _Timed:
    """ASGI middleware: a clock at each body."""

    def __init__(self, app: ASGIApp, haste: Haste) -> None:
        self._app, self._haste = app, haste

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        timed = _Clock(receive, self._haste).receive if scope["type"] == "http" else receive
        await self._app(scope, timed, send)


class _Clock:
    """The pieces of one body, timed until the last."""

    def __init__(self, receive: Receive, haste: Haste) -> None:
        self._receive, self._haste = receive, haste
        self._began_s, self._bytes, self._is_whole = time.monotonic(), 0, False

    async def receive(self) -> Message:
        if self._is_whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._haste.pause_s)
        except TimeoutError as error:
            raise _SlowBodyError from error
        self._bytes += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        seconds = time.monotonic() - self._began_s - self._haste.grace_s
        if not self._is_whole and seconds > 0 and self._bytes < seconds * self._haste.least_per_s:
            raise _SlowBodyError
        return message
