"""The body of a request: one DICOM file, and maybe covariates. A body of several files is refused, never cut.

Raw, as the field ``file`` of ``multipart/form-data``, or as the one part of ``multipart/related`` (RFC 2387).
"""

from __future__ import annotations

import json
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from engine.errors import CovariateError, OverLimitError, SourceReadError, UsageError
from engine.sources.multipart import single_part

MAX_BODY_BYTES = 128 << 20
FILE, COVARIATES = "file", "covariates"
ONE_FILE = "a request is one DICOM file: send each file in a request of its own"

_MOST_PARTS = 8
_SECOND = b"DICM\x02\x00\x00\x00UL\x04\x00"  # prefix and first element of another Part 10 file (PS3.10 7.1)
_BEHIND_THE_FIRST = 132


async def upload(request: Request) -> tuple[bytes, dict[str, Any]]:
    """The file's bytes, never more than MAX_BODY_BYTES, whatever the client claims; and the covariates.

    Raises:
        UsageError: the body is not one file.
        OverLimitError, CovariateError.
    """
    claimed = request.headers.get("content-length")
    if claimed and claimed.isdigit() and int(claimed) > MAX_BODY_BYTES:
        raise OverLimitError(f"the body is above the cap of {MAX_BODY_BYTES} bytes")
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        if claimed is None:
            raise HTTPException(411, "a multipart body needs a Content-Length")
        async with request.form(max_files=_MOST_PARTS, max_fields=_MOST_PARTS) as form:
            data, given = await _of_form(form)
    else:
        data, given = await _streamed(request), {}
    if kind.startswith("multipart/") and kind != "multipart/form-data":
        data = _of_parts(data, content_type)
    if data.find(_SECOND, _BEHIND_THE_FIRST) >= 0:
        raise UsageError(ONE_FILE)
    return data, given


async def _of_form(form: FormData) -> tuple[bytes, dict[str, Any]]:
    parts = form.multi_items()
    files = [part for name, part in parts if name == FILE and isinstance(part, UploadFile)]
    texts = [part for name, part in parts if name == COVARIATES]
    if not files:
        raise UsageError(f"the multipart field '{FILE}' is missing, or is no file")
    if len(files) + len(texts) < len(parts) or len(files) > 1 or len(texts) > 1:
        raise UsageError(f"{ONE_FILE}, as the field '{FILE}', with no other field than '{COVARIATES}'")
    return await files[0].read(), _json_object(texts[0] if texts else "{}")


def _of_parts(data: bytes, content_type: str) -> bytes:
    try:
        return single_part(data, content_type)
    except SourceReadError as error:
        raise UsageError(f"{ONE_FILE}; this body has another number of parts, or ends early") from error


async def _streamed(request: Request) -> bytes:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BODY_BYTES:
            raise OverLimitError(f"the body is above the cap of {MAX_BODY_BYTES} bytes")
    return bytes(data)


def _json_object(text: Any) -> dict[str, Any]:
    try:
        given = json.loads(text)
    except (RecursionError, TypeError, ValueError):
        given = None
    if not isinstance(given, dict):
        raise CovariateError(f"the multipart field '{COVARIATES}' is no JSON object")
    return given
