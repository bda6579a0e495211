"""The one DICOM file in an answer of ``multipart/related`` (RFC 2387, RFC 2046 5.1; PS3.18 8.6)."""

from __future__ import annotations

import re

from engine.errors import SourceReadError

OVERHEAD_BYTES = 64 << 10
"""What boundary lines and part headers may add to the file."""

_BOUNDARY = re.compile(r""";\s*boundary\s*=\s*(?:"([^"]{1,70})"|([^\s;"]{1,70}))""", re.IGNORECASE)
_HEADERS_END = b"\r\n\r\n"


def single_part(data: bytes | bytearray, content_type: str, *, is_whole: bool = True) -> bytes:
    """The body of the only part; of an answer that is not whole, as much of it as there is.

    Raises:
        SourceReadError: not one DICOM part, or the answer is cut.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/dicom":
        return bytes(data)
    if kind != "multipart/related":
        raise SourceReadError("the server answered with something else than DICOM")
    match = _BOUNDARY.search(content_type)
    if not match:
        raise SourceReadError("the server's answer has no boundary between its parts")
    boundary = b"--" + (match[1] or match[2]).encode("latin-1", "replace")
    start = _body_start(data, boundary)
    end = data.find(b"\r\n" + boundary, start)
    if end < 0 and is_whole:
        raise SourceReadError("the server's answer ends early: try again")
    if end < 0:
        return bytes(data[start:])
    after = end + 2 + len(boundary)
    if is_whole and data[after : after + 2] != b"--":
        raise SourceReadError("the server sent several files for one instance")
    return bytes(data[start:end])


def _body_start(data: bytes | bytearray, boundary: bytes) -> int:
    """Behind the headers of the first part; a preamble before it may be there, and is skipped."""
    if data[: len(boundary)] == boundary:
        line = 0
    else:
        line = data.find(b"\r\n" + boundary)
        line = line + 2 if line >= 0 else -1
    if line < 0:
        raise SourceReadError("the server's answer has no part in it")
    headers_at = line + len(boundary)
    if data[headers_at : headers_at + len(_HEADERS_END)] == _HEADERS_END:
        return headers_at + len(_HEADERS_END)
    end = data.find(_HEADERS_END, headers_at, headers_at + OVERHEAD_BYTES)
    if end < 0:
        raise SourceReadError("the headers of the server's part do not end")
    return end + len(_HEADERS_END)
