"""What a JPEG 2000 or HTJ2K code stream says of itself, read before any codec spends memory on it.

Sections are those of ITU-T T.800: SIZ A.5.1, COD A.6.1, COC A.6.2, SOT A.4.2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from engine.dicom.codestream import ENDS_EARLY, StreamFacts
from engine.errors import PixelDecodeError, TruncatedError

_SOC_SIZ = b"\xff\x4f\xff\x51"
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
_SOT, _EOC, _COD, _COC = b"\xff\x90", b"\xff\xd9", b"\xff\x52", b"\xff\x53"
_SIZ = struct.Struct(">HH8IH")
_SIZ_AT = 4  # of its length field, behind SOC and the marker
_COMPONENT = 3
_LENGTH = 2  # bytes of a length field, counted by itself
_BYTE_INDEX = 256  # most components whose number takes one byte
_TILE_PART = struct.Struct(">2sHHIBB")
_SIGNED = 0x80
_END_WINDOW = 64

_MAX_TILES = 4096  # a codec keeps several kilobytes for each; a radiograph in tiles of 128 has about 500
_MAX_TILE_PARTS = 1 << 16
_MAX_LEVELS = 32


@dataclass(frozen=True, slots=True)
class Jpeg2000Facts(StreamFacts):
    """Main header of a JPEG 2000 code stream."""

    is_signed: bool
    num_levels: int
    """Times that width and height can be halved in every component; 0 where the image has an offset."""
    num_tiles: int
    body_at: int
    """Where the first tile-part starts."""


def bare_stream(frame: bytes) -> bytes:
    """The bare JPEG 2000 code stream, without the JP2 file that some writers put around it.

    Raises:
        PixelDecodeError: there is none.
    """
    start = frame.find(_SOC_SIZ) if frame.startswith((_SOC_SIZ, _JP2_SIGNATURE)) else -1
    if start < 0:
        raise PixelDecodeError("the code stream does not start as JPEG 2000 does")
    return frame[start:] if start else frame


def jpeg_2000_facts(stream: bytes) -> Jpeg2000Facts:
    """The main header of a bare code stream.

    Raises:
        TruncatedError: the stream ends within the header.
        PixelDecodeError: a header without sense, more tiles than a picture has, or components that differ in
            size, precision or sign.
    """
    if len(stream) < _SIZ_AT + _SIZ.size + _COMPONENT:
        raise TruncatedError(ENDS_EARLY)
    length, _, right, bottom, left, top, *tiling, samples = _SIZ.unpack_from(stream, _SIZ_AT)
    components_at = _SIZ_AT + _SIZ.size
    components = stream[components_at : components_at + _COMPONENT * samples]
    if samples < 1 or len(components) < _COMPONENT * samples or right <= left or bottom <= top:
        raise PixelDecodeError("the code stream's size has no sense")
    if components != components[:_COMPONENT] * samples or components[1:_COMPONENT] != b"\1\1":
        raise PixelDecodeError("the components of the code stream differ in size or precision")
    num_tiles = _num_tiles((right, bottom), tiling)
    num_levels, body_at = _coding(stream, _SIZ_AT + length, samples)
    return Jpeg2000Facts(
        rows=bottom - top,
        columns=right - left,
        samples=samples,
        bits=(components[0] & ~_SIGNED) + 1,
        is_signed=bool(components[0] & _SIGNED),
        num_levels=0 if left or top else num_levels,
        num_tiles=num_tiles,
        body_at=body_at,
    )


def _num_tiles(end: tuple[int, int], tiling: list[int]) -> int:
    """Tiles in the grid; ``end`` is (right, bottom), ``tiling`` width, height, left and top of the grid."""
    width, height, left, top = tiling
    if width < 1 or height < 1 or left >= end[0] or top >= end[1]:
        raise PixelDecodeError("the code stream's tiles have no sense")
    num_tiles = -(-(end[0] - left) // width) * -(-(end[1] - top) // height)
    if num_tiles > _MAX_TILES:
        raise PixelDecodeError(f"the code stream has {num_tiles} tiles, above the cap of {_MAX_TILES}")
    return num_tiles


def _coding(stream: bytes, position: int, samples: int) -> tuple[int, int]:
    """(Fewest decomposition levels, where the first tile-part starts)."""
    levels: list[int] = []
    while (marker := stream[position : position + 2]) != _SOT:
        length = int.from_bytes(stream[position + 2 : position + 4], "big")
        if position + 2 + length > len(stream):
            raise TruncatedError(ENDS_EARLY)
        if length < _LENGTH or marker[:1] != b"\xff":
            raise PixelDecodeError("the code stream's header has no sense")
        # The levels follow marker, length, Scod and SGcod; or marker, length, Ccoc and Scoc.
        at = {_COD: 9, _COC: 6 if samples <= _BYTE_INDEX else 7}.get(marker)
        if at is not None:
            levels.append(int.from_bytes(stream[position + at : position + at + 1], "big"))
        position += 2 + length
    if not levels or max(levels) > _MAX_LEVELS:
        raise PixelDecodeError("the code stream's header has no sense")
    return min(levels), position


def require_whole(stream: bytes, facts: Jpeg2000Facts) -> None:
    """Walk the tile-parts: a codec may take missing ones for a blurred or a black region.

    Raises:
        TruncatedError: a tile-part reaches beyond the end, or one is missing.
        PixelDecodeError: the tile-parts have no sense.
    """
    position, promised, seen = facts.body_at, dict.fromkeys(range(facts.num_tiles), 1), 0
    while stream[position : position + 2] == _SOT:
        if position + _TILE_PART.size > len(stream):
            raise TruncatedError(ENDS_EARLY)
        _, _, tile, length, _, num_parts = _TILE_PART.unpack_from(stream, position)
        if tile not in promised or seen >= _MAX_TILE_PARTS or 0 < length < _TILE_PART.size:
            raise PixelDecodeError("the code stream's tiles have no sense")
        promised[tile] = max(promised[tile], num_parts)
        seen += 1
        if length == 0:  # the last tile-part: up to the end marker
            position = stream.rfind(_EOC, max(len(stream) - _END_WINDOW, position))
            break
        position += length
    if not 0 <= position <= len(stream) or seen < sum(promised.values()):
        raise TruncatedError(ENDS_EARLY)
