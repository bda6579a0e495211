"""Archives that lie, by kind: each is made by a function, and has a sound member before the lie.

That one is planned and read, but from those whose ``has_sound`` is false.
"""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

SOUND, CONTENT = "a.dcm", b"sound" * 400
KERNEL = bytes(1 << 20)
BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class Lie:
    """One kind of hostile archive."""

    suffix: str
    make: Callable[[], bytes]
    has_sound: bool = True


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, field: bytes | None = None) -> bytes:
    """A TAR header; ``field`` replaces the 12 bytes of the size."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    if field is not None:
        block[124:136] = field
        block[148:156] = b"        "
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


SOUND_TAR = header(SOUND, len(CONTENT)) + padded(CONTENT)
END = bytes(2 * BLOCK)


def pax(records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return header("pax", len(records), kind) + padded(records)


def record(keyword: str, value: str) -> bytes:
    body = f" {keyword}={value}\n"
    length = len(body) + 1
    while len(f"{length}{body}") != length:
        length = len(f"{length}{body}")
    return f"{length}{body}".encode()


def tar_of(*parts: bytes) -> bytes:
    return SOUND_TAR + b"".join(parts) + END


def sizes(value: int) -> bytes:
    """The size field in base 256 (GNU), which may be below zero."""
    return (
        b"\xff" * 4 + value.to_bytes(8, "big", signed=True)
        if value < 0
        else b"\x80" + value.to_bytes(11, "big")
    )


def sparse() -> bytes:
    """A map of 2,000,000 parts, 4 MB: `GNU.sparse` 1.0 keeps it in front of the data."""
    head = record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") + record("GNU.sparse.size", "9")
    lines = b"2000000\n" + b"0\n" * 4_000_000
    return tar_of(pax(head), header("s", len(lines)), padded(lines))


def zip_of(names: dict[str, bytes]) -> bytearray:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return bytearray(stream.getvalue())


def zip_with(values: dict[str, int], wide: tuple[int, ...] = ()) -> bytes:
    """A ZIP whose second entry states other ``values``; ``wide`` are its 64-bit ones (APPNOTE 4.5.3)."""
    data = zip_of({SOUND: CONTENT, "lie": b"x" * 100})
    at = data.rindex(b"PK\x01\x02")
    places = {"packed": 20, "size": 24, "start": 42}
    for name, value in values.items():
        struct.pack_into("<I", data, at + places[name], value)
    extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    struct.pack_into("<H", data, at + 30, len(extra))
    end = data.rindex(b"PK\x05\x06")
    data[end:end] = extra
    (length,) = struct.unpack_from("<I", data, end + len(extra) + 12)
    struct.pack_into("<I", data, end + len(extra) + 12, length + len(extra))
    return bytes(data)


FULL = 0xFFFFFFFF


def overlapping() -> bytes:
    """2,000 entries over the bytes of one."""
    data = zip_of({SOUND: CONTENT, "kernel": KERNEL})
    at, end = data.rindex(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    entry, tail = bytes(data[at:end]), bytearray(data[end:])
    first = data.index(b"PK\x01\x02")
    entries = bytes(data[first:at]) + entry * 2000
    struct.pack_into("<HHI", tail, 8, 2001, 2001, len(entries))
    return bytes(data[:first]) + entries + bytes(tail)


LIES: dict[str, Lie] = {
    "zip64 size 2^63": Lie(".zip", lambda: zip_with({"size": FULL}, (1 << 63,))),
    "zip64 size 2^64-1": Lie(".zip", lambda: zip_with({"size": FULL}, ((1 << 64) - 1,))),
    "zip64 packed 2^63": Lie(".zip", lambda: zip_with({"packed": FULL}, (1 << 63,))),
    "zip64 start 2^64-1": Lie(".zip", lambda: zip_with({"start": FULL}, ((1 << 64) - 1,))),
    "zip start behind the end": Lie(".zip", lambda: zip_with({"start": FULL - 1})),
    "zip packed beyond the end": Lie(".zip", lambda: zip_with({"packed": FULL - 1})),
    "zip entries that overlap": Lie(".zip", overlapping),
    "zip that holds no directory": Lie(".zip", lambda: b"PK\x05\x06" + b"\xff" * 18, has_sound=False),
    "zip64 end at 2^64-1": Lie(
        ".zip",
        lambda: b"PK\x06\x07" + bytes(4) + b"\xff" * 8 + bytes(4) + b"PK\x05\x06" + b"\xff" * 16 + bytes(2),
        has_sound=False,
    ),
    "tar size below zero": Lie(".tar", lambda: tar_of(header("b", field=sizes(-512)))),
    "tar size far below zero": Lie(".tar", lambda: tar_of(header("b", field=sizes(-(1 << 62))))),
    "tar first size below zero": Lie(".tar", lambda: header("b", field=sizes(-512)) + END, has_sound=False),
    "tar size 2^80": Lie(".tar", lambda: tar_of(header("b", field=sizes(1 << 80)))),
    "tar pax size below zero": Lie(".tar", lambda: tar_of(pax(record("size", "-512")), header("b"))),
    "tar pax size 10^300": Lie(".tar", lambda: tar_of(pax(record("size", "1" + "0" * 300)), header("b"))),
    "tar pax size of 5,000 digits": Lie(".tar", lambda: tar_of(pax(record("size", "9" * 5000)), header("b"))),
    "tar long name below zero": Lie(
        ".tar", lambda: tar_of(header("l", kind=tarfile.GNUTYPE_LONGNAME, field=sizes(-512)), header("b"))
    ),
    "tar chain of long names": Lie(
        ".tar", lambda: tar_of(*[header("l", 512, tarfile.GNUTYPE_LONGNAME) + b"n" * 512] * 5000, header("b"))
    ),
    "tar sparse map": Lie(".tar", sparse),
    "tar pax of digits": Lie(".tar", lambda: tar_of(pax(b"1" * 900_000), header("b"))),
    "tar pax digits in a value": Lie(".tar", lambda: tar_of(pax(record("m", "1" * 900_000)), header("b"))),
    "tar pax records that overlap": Lie(".tar", lambda: tar_of(pax(b"2 " * 400_000 + b"=\n"), header("b"))),
    "tar pax length zero": Lie(".tar", lambda: tar_of(pax(b"0 path=x\n"), header("b"))),
    "tar global header of 1 MB": Lie(
        ".tar", lambda: tar_of(pax(record("k", "v") * 100_000, tarfile.XGLTYPE), header("b"))
    ),
    "tar zeros without end": Lie(".tar", lambda: SOUND_TAR + bytes(80 << 20)),
    "tar junk behind its end": Lie(".tar", lambda: tar_of() + b"junk" * 400),
    "tar.gz bomb": Lie(".tar.gz", lambda: gzip.compress(SOUND_TAR + header("b", 1 << 26) + bytes(1 << 26))),
    "tgz of a tar that lies": Lie(".tgz", lambda: gzip.compress(tar_of(header("b", field=sizes(-512))))),
    "gzip that is none": Lie(".tar.gz", lambda: b"\x1f\x8b" + bytes(40), has_sound=False),
}  # fmt: skip
