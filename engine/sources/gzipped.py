"""A gzip stream that can be read from any place, under caps: what TAR members and single files lie in.

Copies of the inflater's state are kept along the way, so that going back costs one step between two of them
and not the whole stream again.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from engine.errors import OverLimitError
from engine.sources.limits import ArchiveLimits, DamageError, check_growth

SUFFIX = ".gz"
MAGIC = b"\x1f\x8b"
_GZIP_WBITS = 31
_CHUNK = 64 << 10
_STEP = 4 << 20
_MAX_POINTS = 128


@dataclass(slots=True)
class _Point:
    """The inflater at ``position`` of the inflated stream, when ``packed`` bytes had been fed to it."""

    position: int
    packed: int
    inflater: Any


@dataclass(slots=True)
class Points:
    """What streams over the same bytes share: places to start from, some bytes apart."""

    step: int = _STEP
    kept: list[_Point] = field(default_factory=list)

    def before(self, position: int) -> _Point | None:
        """The last place that is not behind ``position``."""
        return max((p for p in self.kept if p.position <= position), key=lambda p: p.position, default=None)

    def keep(self, position: int, packed: int, inflater: Any) -> None:
        """Keep a place that is a step behind the last one; twice the step when there are too many."""
        last = self.kept[-1].position if self.kept else 0
        if position < last + self.step:
            return
        self.kept.append(_Point(position, packed, inflater.copy()))
        if len(self.kept) > _MAX_POINTS:
            self.step *= 2
            self.kept = self.kept[1::2]


class GzipStream(io.RawIOBase):
    """The inflated bytes of ``packed``, to be read and sought in.

    Reading raises OverLimitError where the stream grows beyond its caps, and OSError where it is damaged.
    """

    def __init__(self, packed: BinaryIO, limits: ArchiveLimits, points: Points | None = None) -> None:
        """Start at the first byte; ``points`` are shared by the streams over one file, one at a time."""
        self._packed = packed
        self._limits = limits
        self._points = points or Points()
        self._restart(None)

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Bytes before the next one."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place counted from the start or from here; behind the end is at the end."""
        target = offset + (self._position if whence == io.SEEK_CUR else 0)
        point = self._points.before(target)
        if target < self._position or (point and point.position > self._position):
            self._restart(point)
        while self._position < target and self._some(min(target - self._position, _CHUNK)):
            pass
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill some of ``buffer``; 0 at the end."""
        data = self._some(min(len(buffer), _CHUNK))
        buffer[: len(data)] = data
        return len(data)

    def _restart(self, point: _Point | None) -> None:
        self._position = point.position if point else 0
        self._fed = point.packed if point else 0
        self._inflater = point.inflater.copy() if point else zlib.decompressobj(_GZIP_WBITS)
        self._packed.seek(self._fed)

    def _some(self, count: int) -> bytes:
        """At least one and at most ``count`` bytes; none at the end."""
        while True:
            if self._inflater.eof and not self._next_member():
                return b""
            pending = self._inflater.unconsumed_tail or self._feed()
            data = self._inflate(pending, count)
            if data:
                return data

    def _feed(self) -> bytes:
        pending = self._packed.read(_CHUNK)
        if not pending:
            raise DamageError("the gzip stream ends early")
        self._fed += len(pending)
        return pending

    def _next_member(self) -> bool:
        """Go on where gzip files were joined; anything else behind the last one is padding."""
        end = self._fed - len(self._inflater.unused_data)
        self._packed.seek(end)
        is_joined = self._packed.read(len(MAGIC)) == MAGIC
        self._packed.seek(end if is_joined else self._fed)
        if is_joined:
            self._fed = end
            self._inflater = zlib.decompressobj(_GZIP_WBITS)
        return is_joined

    def _inflate(self, pending: bytes, count: int) -> bytes:
        try:
            data: bytes = self._inflater.decompress(pending, count)
        except zlib.error as error:
            raise DamageError("the gzip stream is damaged") from error
        self._position += len(data)
        check_growth(self._position, self._fed, self._limits)
        if not self._inflater.unconsumed_tail and not self._inflater.eof:
            self._points.keep(self._position, self._fed, self._inflater)
        return data


def inflated_file(packed: BinaryIO, limits: ArchiveLimits, max_bytes: int) -> bytes:
    """The content of a single gzip file.

    It is counted before it is kept, so that what grows beyond a cap takes no memory.

    Raises:
        OverLimitError: a cap is reached.
        OSError: the stream is damaged.
    """
    stream = GzipStream(packed, limits)
    size = 0
    while count := len(stream.read(_CHUNK) or b""):
        size += count
        if size > max_bytes:
            raise OverLimitError(f"the gzip file grows beyond the cap of {max_bytes} bytes")
    stream.seek(0)
    return b"".join(iter(lambda: stream.read(_CHUNK) or b"", b""))
