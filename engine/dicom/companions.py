"""What lies beside images in a folder and is no DICOM: told by its bytes, never by its name.

Only what is surely another kind of file has a name here. Zeros, noise, a fill pattern of a disk, or an
archive that may hold images have none: those may be what is left of a film.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from typing import NamedTuple

_LOOKED_AT = 1 << 20  # bytes
_TEXT_CONTROLS = b"\t\n\v\f\r\x1a\x1b"
"""Controls that stand in texts: breaks, the end mark of DOS, and the shifts of ISO 2022."""
_OTHER_CONTROLS = bytes(code for code in (*range(32), 127) if code not in _TEXT_CONTROLS)
_SURELY_TEXT = 256
"""Bytes without a control: noise has so many in a row once in 10^11 files."""
_FEW_HIGH = 0.3  # share of bytes above 127 in a shorter text of an old code page; half of noise is such
_PATTERN, _PATTERN_VALUES = 64, 4  # so many bytes without a line break have more values than this in any text
_ASCII = bytes(range(128))


class _Mark(NamedTuple):
    kind: str
    at: int
    expected: bytes
    and_then: Callable[[bytes], bool] | None = None
    """Where the mark is short, what else must hold."""


def _little(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _is_office(data: bytes) -> bool:
    """Whether the first member of a ZIP is that of a document or a program; other ZIPs may hold images."""
    name = data[30 : 30 + int.from_bytes(data[26:28], "little")]
    first = (b"[Content_Types].xml", b"mimetype", b"_rels/", b"docProps/", b"word/", b"xl/", b"META-INF/")
    return name.startswith(first) or name.endswith(b".npy")


def _is_compiled(data: bytes) -> bool:
    """Whether the flags of a compiled Python file and the mark of its code stand where they should."""
    return data[4] in range(4) and data[5:8] == bytes(3) and data[16] & 0x7F == ord("c")


_PICTURE, _NIFTI, _PROGRAM, _SYSTEM, _TABLE = (
    "a picture", "a NIfTI volume", "a program", "notes of an operating system", "a table or an array",
)  # fmt: skip
_MARKS: tuple[_Mark, ...] = (
    _Mark("a PDF document", 0, b"%PDF-"),
    _Mark("a PostScript document", 0, b"%!PS"),
    _Mark(_PICTURE, 0, b"\x89PNG\r\n\x1a\n"),
    _Mark(_PICTURE, 0, b"\xff\xd8\xff"),
    _Mark(_PICTURE, 0, b"\0\0\0\x0cjP  \r\n\x87\n"),
    _Mark(_PICTURE, 0, b"GIF8"),
    _Mark(_PICTURE, 0, b"II*\0"),
    _Mark(_PICTURE, 0, b"MM\0*"),
    _Mark(_PICTURE, 8, b"WEBP"),
    _Mark(_PICTURE, 0, b"BM", lambda data: _little(data, 6) == 0 and _little(data, 14) in {12, 40, 108, 124}),
    _Mark(_PICTURE, 0, b"\0\0\1\0", lambda data: data[4] > 0 == data[5] == data[9]),
    _Mark(_PICTURE, 0, b"P", lambda data: re.match(rb"P[1-7]\s+(#|\d|WIDTH)", data) is not None),
    _Mark("a colour profile", 36, b"acsp"),
    _Mark("a sound or video", 4, b"ftyp"),
    _Mark("a sound or video", 0, b"RIFF"),
    _Mark("a sound or video", 0, b"\x1a\x45\xdf\xa3"),
    _Mark(_NIFTI, 344, b"n+1\0"),
    _Mark(_NIFTI, 344, b"ni1\0"),
    _Mark(_NIFTI, 4, b"n+2\0\r\n\x1a\n"),
    _Mark(_NIFTI, 4, b"ni2\0\r\n\x1a\n"),
    _Mark("an Analyze header", 0, b"\x5c\1\0\0", lambda data: data[32:36] == b"\0\x40\0\0"),
    _Mark("an NRRD volume", 0, b"NRRD000"),
    _Mark("a MetaImage volume", 0, b"ObjectType = "),
    _Mark("a VTK volume", 0, b"# vtk DataFile"),
    _Mark(_TABLE, 0, b"\x93NUMPY"),
    _Mark(_TABLE, 0, b"\x89HDF\r\n\x1a\n"),
    _Mark(_TABLE, 0, b"PAR1"),
    _Mark(_TABLE, 0, b"ARROW1"),
    _Mark(_TABLE, 0, b"MATLAB 5.0 MAT-file"),
    _Mark("a database", 0, b"SQLite format 3\0"),
    _Mark("a document or an index of thumbnails", 0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
    _Mark("a document", 0, b"PK\3\4", _is_office),
    _Mark("a document", 0, b"{\\rtf"),
    _Mark(_SYSTEM, 0, b"\0\0\0\1Bud1"),
    _Mark(_SYSTEM, 0, b"\0\5\x16\7\0"),
    _Mark(_SYSTEM, 0, b"L\0\0\0\1\x14\2\0"),
    _Mark(_SYSTEM, 0, b"CMMM"),
    _Mark(_PROGRAM, 0, b"\x7fELF"),
    _Mark(_PROGRAM, 0, b"\xca\xfe\xba\xbe"),
    _Mark(_PROGRAM, 0, b"MZ", lambda data: data[_little(data, 60) :][:2] in {b"PE", b"NE", b"LE", b"LX"}),
    _Mark(_PROGRAM, 2, b"\r\n", _is_compiled),
    _Mark("a help file", 0, b"ITSF"),
)  # fmt: skip
"""First bytes of formats, as their own specifications have them; those that may hold DICOM are left out."""


def is_container(data: bytes) -> bool:
    """Whether these are several files in one, stored as they are: a ZIP, a TAR, or parts between boundaries.

    The first of them would be taken for the whole, where it is uncompressed and near the start.
    """
    return data.startswith((b"PK\3\4", b"--")) or data[257:262] == b"ustar"


def kind_of(data: bytes) -> str:
    """What a file that is no DICOM is, in words; empty where that cannot be told for sure."""
    for mark in _MARKS:
        if data.startswith(mark.expected, mark.at) and (mark.and_then is None or _holds(mark, data)):
            return mark.kind
    return "a text" if _is_text(data[:_LOOKED_AT]) else ""


def _holds(mark: _Mark, data: bytes) -> bool:
    try:
        return mark.and_then is not None and mark.and_then(data)
    except IndexError:  # it ends before what should be there
        return False


def _is_text(head: bytes) -> bool:
    """Whether the bytes are a text of some encoding: no control but breaks, and no pattern over and over."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = _decoded(head, "utf-16")
        return text is not None and not set(text) & set(_OTHER_CONTROLS.decode("ascii"))
    if not head or len(head.translate(None, _OTHER_CONTROLS)) < len(head):
        return False
    if (
        len(head) >= _PATTERN
        and b"\n" not in head
        and b"\r" not in head
        and len(set(head)) <= _PATTERN_VALUES
    ):
        return False
    high = len(head.translate(None, _ASCII)) / len(head)
    return _decoded(head, "utf-8") is not None or len(head) >= _SURELY_TEXT or high <= _FEW_HIGH


def _decoded(head: bytes, encoding: str) -> str | None:
    """The text; the last character may be cut. None where it is not in this encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return None
