"""What real archives also hold: files that are no usable radiograph, each kind with where it has to end.

The files are made from one sound phantom, by changing its elements, its code stream or its length.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.datasets.phantom.hand import draw_hand
from engine.dicom.write import (
    DX_FOR_PRESENTATION,
    SECONDARY_CAPTURE,
    Facts,
    uid_from,
    write_instance,
    write_photo,
)

_DEFLATED, _MPEG2 = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.4.100"
_RLE, _CT, _SR = b"1.2.840.10008.1.2.5", b"1.2.840.10008.5.1.4.1.1.2", b"1.2.840.10008.5.1.4.1.1.88.11"
_DIRECTORY, _EXPLICIT = b"1.2.840.10008.1.3.10", b"1.2.840.10008.1.2.1"
_META_START, _META_LENGTH_AT, _META_GROUP_AT = 132, 140, 144
_LONG_VRS = frozenset({b"OB", b"OW", b"SQ", b"UN", b"UT"})
_UNDEFINED = 0xFFFFFFFF
_TRUNCATED_SHARE = 0.6

_SYNTAX, _META_CLASS = (0x0002, 0x0010), (0x0002, 0x0002)
_SOP_CLASS, _SOP_INSTANCE = (0x0008, 0x0016), (0x0008, 0x0018)
_PHOTOMETRIC, _FRAMES = (0x0028, 0x0004), (0x0028, 0x0008)
_ROWS, _COLUMNS, _BITS_ALLOCATED = (0x0028, 0x0010), (0x0028, 0x0011), (0x0028, 0x0100)
_BITS_STORED, _HIGH_BIT, _SLOPE = (0x0028, 0x0101), (0x0028, 0x0102), (0x0028, 0x1053)
_PIXELS = (0x7FE0, 0x0010)

Tag = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Sound:
    """The files that faults are made from: one phantom plain and compressed, and a photograph."""

    plain: bytes
    jpeg_ls: bytes
    jpeg_2000: bytes
    photo: bytes
    snapshot: bytes
    """The photograph as a JPEG file, no DICOM."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of bad file: the reason in its table ("filtered" or "quarantine"), and its bytes."""

    reason: str
    make: Callable[[Sound], bytes]
    table: str = "quarantine"


def plant(out: Path, seed: int, count: int | None = None) -> list[tuple[Path, Fault]]:
    """Write ``count`` bad files, by default one of each kind, in folders of their own below ``out``.

    The kinds of FAULTS come in turn; the same seed and count give the same bytes. None is in labels.csv.

    Returns:
        The path of each file, and where it has to end.
    """
    rng = np.random.default_rng([seed, 3])
    sound = _sound(seed, rng)
    names = list(FAULTS)
    planted = []
    for number in range(len(names) if count is None else count):
        turn, place = divmod(number, len(names))
        if place == 0:
            folder = out / f"study-{rng.bytes(6).hex()}"
            folder.mkdir(parents=True)
        kind = names[place]
        data = FAULTS[kind].make(sound)
        # Copies of a turn must not be the same instance again.
        data = data.replace(_instance_uid(seed, 0), _instance_uid(seed, turn))
        (folder / kind).write_bytes(data)
        planted.append((folder / kind, FAULTS[kind]))
    return planted


def _sound(seed: int, rng: np.random.Generator) -> Sound:
    facts = _facts(seed, DX_FOR_PRESENTATION, "DX")
    hand_HW, photo_HW3 = draw_hand(100.0, "F", rng, 256), _photo(rng)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "sound"

        def written(syntax: str) -> bytes:
            write_instance(path, hand_HW, facts, syntax=syntax)
            return path.read_bytes()

        plain, jpeg_ls, jpeg_2000 = (written(syntax) for syntax in ("explicit", "jpeg-ls", "jpeg-2000"))
        write_photo(path, photo_HW3, _facts(seed, SECONDARY_CAPTURE, "OT"))
        photo = path.read_bytes()
    snapshot = cv2.imencode(".jpg", photo_HW3[..., ::-1])[1].tobytes()
    return Sound(plain, jpeg_ls, jpeg_2000, photo, snapshot)


def _instance_uid(seed: int, turn: int) -> bytes:
    """Of one length for all turns, so that it can be exchanged in place."""
    return uid_from("phantom", "fault", str(seed), str(turn)).ljust(44, "0")[:44].encode()


def _facts(seed: int, sop_class_uid: str, modality: str) -> Facts:
    return Facts(
        sop_instance_uid=_instance_uid(seed, 0).decode(),
        study_instance_uid=uid_from("phantom", "fault", str(seed), "study"),
        series_instance_uid=uid_from("phantom", "fault", str(seed), "series"),
        patient_id=f"phantom-{seed}-fault",
        sop_class_uid=sop_class_uid,
        modality=modality,
        body_part_examined="HAND",
    )


def _photo(rng: np.random.Generator) -> NDArray[np.uint8]:
    """A snapshot of a hand on a green cloth, [480, 360, 3] red, green, blue."""
    hand_HW = cv2.resize(draw_hand(190.0, "M", rng, 480), (360, 480)).astype(np.float32) / 4095
    skin_HW = np.clip(cv2.GaussianBlur(hand_HW, (0, 0), 6) * 3, 0, 1)[..., None]
    cloth, skin = np.array([40.0, 110.0, 70.0]), np.array([224.0, 172.0, 140.0])
    photo_HW3: NDArray[np.uint8] = (cloth + (skin - cloth) * skin_HW).astype(np.uint8)
    return photo_HW3


def _place(data: bytes, tag: Tag) -> tuple[int, int, int]:
    """(start, start of the value, end) of an element of a file that ``engine.dicom.write`` wrote.

    Raises:
        LookupError: there is none.
    """
    at = _META_START
    while at < len(data):
        group, element = struct.unpack_from("<HH", data, at)
        is_long = data[at + 4 : at + 6] in _LONG_VRS
        value = at + (12 if is_long else 8)
        (length,) = struct.unpack_from("<I" if is_long else "<H", data, value - (4 if is_long else 2))
        end = len(data) if length == _UNDEFINED else value + length
        if (group, element) == tag:
            return at, value, end
        at = end
    raise LookupError(tag)


def _with(data: bytes, tag: Tag, value: bytes | int) -> bytes:
    """The file with another value of an element (an integer is of two bytes), the length field following."""
    raw = struct.pack("<H", value) if isinstance(value, int) else value + b"\0" * (len(value) % 2)
    _, start, end = _place(data, tag)
    is_long = tag == _PIXELS
    length = struct.pack("<I" if is_long else "<H", len(raw))
    changed = data[: start - len(length)] + length + raw + data[end:]
    if tag[0] != _SYNTAX[0]:
        return changed
    (meta,) = struct.unpack_from("<I", data, _META_LENGTH_AT)
    grown = struct.pack("<I", meta + len(raw) - (end - start))
    return changed[:_META_LENGTH_AT] + grown + changed[_META_GROUP_AT:]


def _without(data: bytes, tag: Tag) -> bytes:
    start, _, end = _place(data, tag)
    return data[:start] + data[end:]


def _added(data: bytes, tag: Tag, vr: bytes, value: bytes) -> bytes:
    """The file with one more element of a short VR right before its pixels; readers need no order."""
    start, _, _ = _place(data, _PIXELS)
    raw = value + b" " * (len(value) % 2)
    return data[:start] + struct.pack("<HH", *tag) + vr + struct.pack("<H", len(raw)) + raw + data[start:]


def _deflated(data: bytes) -> bytes:
    """The file as Deflated Explicit VR Little Endian (PS3.5 A.5)."""
    changed = _with(data, _SYNTAX, _DEFLATED)
    start = _data_set_at(changed)
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return changed[:start] + deflater.compress(changed[start:]) + deflater.flush()


def _data_set_at(data: bytes) -> int:
    (meta,) = struct.unpack_from("<I", data, _META_LENGTH_AT)
    return _META_GROUP_AT + int(meta)


def _cut(data: bytes) -> bytes:
    return data[: int(len(data) * _TRUNCATED_SHARE)]


def _encapsulated(data: bytes, syntax: bytes, *frames: bytes) -> bytes:
    """The plain file with ``frames`` (PS3.5 A.4): an empty offset table, the fragments, the delimiter."""
    start, _, _ = _place(data, _PIXELS)
    head = struct.pack("<HH", *_PIXELS) + b"OB\0\0" + struct.pack("<I", _UNDEFINED)
    items = (b"\xfe\xff\x00\xe0" + struct.pack("<I", len(item)) + item for item in (b"", *frames))
    body = b"".join([*items, b"\xfe\xff\xdd\xe0\0\0\0\0"])
    return _with(data[:start] + head + body, _SYNTAX, syntax)


def _damaged(data: bytes, marker: bytes) -> bytes:
    """The file with the marker of its code stream, after the pixel element's start, made another."""
    at = data.index(marker, _place(data, _PIXELS)[1])
    return data[:at] + b"\0" * len(marker) + data[at + len(marker) :]


def _wrong_rle(data: bytes) -> bytes:
    header = struct.pack("<16I", 2, 64, 1 << 30, *[0] * 13)
    return _encapsulated(data, _RLE, header + bytes(64))


_filtered = partial(Fault, table="filtered")

FAULTS: dict[str, Fault] = {
    "README.txt": _filtered("companion", lambda s: b"Films of this study are in the other building.\n"),
    "empty": Fault("empty_file", lambda s: b""),
    "truncated.dcm": Fault("truncated", lambda s: _cut(s.plain)),
    "photo": _filtered("not_grayscale", lambda s: s.photo),
    "hand.jpg": _filtered("companion", lambda s: s.snapshot),
    "report.pdf": _filtered("companion", lambda s: b"%PDF-1.4\n" + bytes(2000)),
    "zeros": Fault("not_dicom", lambda s: bytes(4096)),
    "cut-in-meta": Fault("truncated", lambda s: s.plain[: _META_GROUP_AT + 30]),
    "cut-in-meta-head": Fault("truncated", lambda s: s.plain[: _META_GROUP_AT + 6]),
    "only-meta": Fault("truncated", lambda s: s.plain[: _data_set_at(s.plain)]),
    "cut-in-header": Fault("truncated", lambda s: s.plain[: _place(s.plain, _COLUMNS)[1] + 1]),
    "cut-in-head": Fault("truncated", lambda s: s.plain[: _place(s.plain, _COLUMNS)[0] + 6]),
    "cut-jpeg-ls": Fault("truncated", lambda s: _cut(s.jpeg_ls)),
    "cut-jpeg-2000": Fault("truncated", lambda s: _cut(s.jpeg_2000)),
    "cut-deflated": Fault("truncated", lambda s: _cut(_deflated(s.plain))),
    "few-pixels": Fault("truncated", lambda s: _with(s.plain, _PIXELS, bytes(100))),
    "no-frame": Fault("truncated", lambda s: _encapsulated(s.plain, _RLE)),
    "no-pixels": Fault("no_pixel_data", lambda s: _without(s.plain, _PIXELS)),
    "no-rows": Fault("bad_header", lambda s: _without(s.plain, _ROWS)),
    "zero-columns": Fault("bad_header", lambda s: _with(s.plain, _COLUMNS, 0)),
    "no-photometric": Fault("bad_header", lambda s: _without(s.plain, _PHOTOMETRIC)),
    "wrong-instance-uid": Fault("bad_header", lambda s: _with(s.plain, _SOP_INSTANCE, b"film 12/a")),
    "too-many-bits": Fault("bad_header", lambda s: _with(s.plain, _BITS_STORED, 17)),
    "wrong-high-bit": Fault("bad_header", lambda s: _with(s.plain, _HIGH_BIT, 16)),
    "zero-slope": Fault("bad_header", lambda s: _added(s.plain, _SLOPE, b"DS", b"0")),
    "fragments-unannounced": Fault("bad_header", lambda s: _with(s.jpeg_ls, _SYNTAX, _EXPLICIT)),
    "video": Fault("unsupported_syntax", lambda s: _with(s.jpeg_ls, _SYNTAX, _MPEG2)),
    "private-syntax": Fault("unsupported_syntax", lambda s: _with(s.jpeg_ls, _SYNTAX, b"1.2.3.4.5")),
    "nine-bits": Fault("pixel_decode", lambda s: _with(_with(
        _with(s.plain, _BITS_ALLOCATED, 9), _BITS_STORED, 9), _HIGH_BIT, 8)),
    "other-size": Fault("pixel_decode", lambda s: _with(s.jpeg_ls, _COLUMNS, 100)),
    "no-jpeg-start": Fault("pixel_decode", lambda s: _damaged(s.jpeg_ls, b"\xff\xd8")),
    "no-jpeg-2000-start": Fault("pixel_decode", lambda s: _damaged(s.jpeg_2000, b"\xff\x4f\xff\x51")),
    "wrong-rle": Fault("pixel_decode", lambda s: _wrong_rle(s.plain)),
    "too-large": Fault("over_limit", lambda s: _with(_with(s.plain, _ROWS, 0xFFFF), _COLUMNS, 0xFFFF)),
    "ct": _filtered("sop_class", lambda s: _with(s.plain, _SOP_CLASS, _CT)),
    "report": _filtered("sop_class", lambda s: _without(_with(s.plain, _SOP_CLASS, _SR), _PIXELS)),
    "directory": _filtered("sop_class", lambda s: _with(s.plain, _META_CLASS, _DIRECTORY)),
    "frames": _filtered("multi_frame", lambda s: _added(s.plain, _FRAMES, b"IS", b"2")),
    "hsv-photo": _filtered("not_grayscale", lambda s: _with(s.photo, _PHOTOMETRIC, b"HSV ")),
}  # fmt: skip
"""Kinds of bad files for a task that takes single grey projection radiographs."""
