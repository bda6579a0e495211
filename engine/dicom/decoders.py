"""Transfer syntax -> decoder, one line each; of several permissive codecs the one measured fastest is first.

A decoder turns one frame's code stream into stored values; signs and unused bits are the caller's affair.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import imagecodecs
from numpy.typing import NDArray

from engine.dicom import codestream, jpeg_2000, native, reduced
from engine.dicom.frame import FrameFacts
from engine.errors import PixelDecodeError, UnsupportedSyntaxError

Array = NDArray[Any]
Least = tuple[int, int] | None
Stream = codestream.Stream

_CODEC_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, MemoryError, struct.error)
_CONTAINER_BITS = (1, 8, 16, 32)
_MOST_SAMPLES = 4
_COLOUR = 3


@dataclass(frozen=True, slots=True)
class Codec:
    """One library's decoder; ``feature`` is the imagecodecs codec that must be compiled in."""

    package: str
    decode: Callable[[Stream, Any], Array]
    """(code stream, what it says of itself) -> stored values."""
    feature: str | None = None
    takes: Callable[[Any], bool] | None = None
    """Whether the codec is right for a stream that says this of itself; None: for all."""

    def available(self) -> bool:
        """Whether the library is here, with this codec."""
        return self.feature is None or bool(getattr(imagecodecs, self.feature).available)


@dataclass(frozen=True, slots=True)
class Decoder:
    """How one transfer syntax is decoded: ``read`` by the first of ``codecs`` that is available."""

    name: str
    read: Callable[[Decoder, memoryview, FrameFacts, Least], Array]
    codecs: tuple[Codec, ...] = ()
    is_encapsulated: bool = True
    """Whether frames lie in fragments, or bare in the element."""
    converts_colour: bool = False
    """Whether the codec itself hands out RGB where the file says YBR (YBR_ICT and YBR_RCT in JPEG 2000)."""

    def available(self) -> bool:
        """Whether a codec is here."""
        return not self.codecs or any(codec.available() for codec in self.codecs)

    def install(self) -> str:
        """What to install, the best first."""
        packages = dict.fromkeys(codec.package for codec in self.codecs)
        return ", or ".join(f"pip install {package}" for package in packages)

    def full(self, stream: Stream, said: codestream.StreamFacts) -> Array:
        """The whole frame by the first codec that is here and right for the stream.

        Raises:
            UnsupportedSyntaxError: none is.
            PixelDecodeError: the codec refused the stream.
        """
        for codec in self.codecs:
            if codec.available() and (codec.takes is None or codec.takes(said)):
                return codec.decode(stream, said)
        raise UnsupportedSyntaxError(f"{self.name} of this kind needs another codec: {self.install()}")


def _by(function: str) -> Callable[[Stream, Any], Array]:
    """A decoder of imagecodecs, looked up when it is called: not every build has all."""

    def decode(stream: Stream, said: codestream.StreamFacts) -> Array:
        stored: Array = getattr(imagecodecs, function)(stream)
        return stored

    return decode


def _by_pillow(decode: Callable[[Stream, Any], Array]) -> Callable[[Stream, Any], Array]:
    """Pillow's decoder at full resolution."""

    def decode_full(stream: Stream, said: codestream.StreamFacts) -> Array:
        try:
            return decode(stream, said)
        except reduced.PILLOW_ERRORS as error:
            raise PixelDecodeError("the code stream cannot be decoded") from error

    return decode_full


# Order by milliseconds on one core, radiograph of 2044 x 1514: JPEG 2000 220 and 230 (both are OpenJPEG);
# JPEG lossless 19, where liblj92 takes 30 and jpegsof3 56; HTJ2K 30, where OpenJPH takes 12, but imagecodecs
# swallows its errors, and hands out overshoots of lossy streams wrapped around, black for white.
_PILLOW_JPEG = Codec("pillow", _by_pillow(reduced.jpeg), takes=reduced.takes_jpeg)
_PILLOW_2000 = Codec("pillow", _by_pillow(reduced.jpeg_2000), takes=reduced.takes_jpeg_2000)
_OPENJPEG = Codec("imagecodecs", _by("jpeg2k_decode"), "JPEG2K")
_TURBO = Codec("imagecodecs", _by("jpeg8_decode"), "JPEG8")
_DCT_CODECS = (_TURBO, _PILLOW_JPEG)
_LOSSLESS_CODECS = (_TURBO,)
_JPEG_LS_CODECS = (Codec("imagecodecs", _by("jpegls_decode"), "JPEGLS"),)
_JPEG_2000_CODECS = (_OPENJPEG, _PILLOW_2000)
_RLE_CODECS = (Codec("imagecodecs", _by("packbits_decode"), "PACKBITS"),)


def _plain(
    decode: Callable[[memoryview, FrameFacts], Array],
    decoder: Decoder,
    stream: memoryview,
    facts: FrameFacts,
    least_HW: Least,
) -> Array:
    """What has no code stream that speaks of itself, and one resolution only."""
    return decode(stream, facts)


def _jpeg(decoder: Decoder, stream: memoryview, facts: FrameFacts, least_HW: Least) -> Array:
    """Sequential, progressive and lossless: libjpeg-turbo decodes all three, 2 to 16 bits."""
    said = codestream.jpeg_facts(stream)
    _require_same(said, facts)
    codestream.require_sound_jpeg(stream, is_dct=said.is_dct)
    is_silent_rgb = said.is_dct and said.samples == _COLOUR and facts.is_rgb and not said.says_colour
    if is_silent_rgb and _TURBO.available():  # libjpeg would take the components for YBR
        rgb: Array = imagecodecs.jpeg8_decode(bytes(stream), colorspace="RGB", outcolorspace="RGB")
        return rgb
    return decoder.full(stream, said)


def _jpeg_ls(decoder: Decoder, stream: memoryview, facts: FrameFacts, least_HW: Least) -> Array:
    said = codestream.jpeg_facts(stream)
    _require_same(said, facts)
    codestream.require_sound_jpeg(stream, is_dct=False)  # CharLS takes up to minutes to find out by itself
    return decoder.full(stream, said)


def _jpeg_2000(decoder: Decoder, stream: memoryview, facts: FrameFacts, least_HW: Least) -> Array:
    """JPEG 2000 and HTJ2K: the code streams differ only in how a block is coded."""
    bare = jpeg_2000.bare_stream(bytes(stream))
    said = jpeg_2000.jpeg_2000_facts(bare)
    _require_same(said, facts)
    jpeg_2000.require_whole(bare, said)
    halvings = reduced.num_halvings(said, least_HW) if least_HW else 0
    if halvings:
        with suppress(*reduced.PILLOW_ERRORS):
            stored = reduced.jpeg_2000(bare, said, halvings)
            if stored.shape[:2] == reduced.smaller_HW(said.rows, said.columns, halvings):
                return stored
    return decoder.full(bare, said)


def _require_same(said: codestream.StreamFacts, facts: FrameFacts) -> None:
    if (said.rows, said.columns, said.samples) != (facts.rows, facts.columns, facts.samples):
        raise PixelDecodeError(
            f"the code stream is {said.rows} x {said.columns} x {said.samples}, "
            f"Rows x Columns x SamplesPerPixel is {facts.rows} x {facts.columns} x {facts.samples}"
        )


def stream_facts(transfer_syntax_uid: str, stream: memoryview) -> codestream.StreamFacts | None:
    """What a frame's code stream says of itself; None where its syntax has none that speaks.

    Raises:
        PixelDecodeError: it is no such stream.
        TruncatedError: it ends early.
    """
    read = require_decoder(transfer_syntax_uid).read
    try:
        if read is _jpeg_2000:
            return jpeg_2000.jpeg_2000_facts(jpeg_2000.bare_stream(bytes(stream)))
        return codestream.jpeg_facts(stream) if read in {_jpeg, _jpeg_ls} else None
    except _CODEC_ERRORS as error:
        raise PixelDecodeError("the code stream's header cannot be read") from error


_NATIVE = partial(_plain, native.bare)
_ROOT = "1.2.840.10008.1.2"

DECODERS: dict[str, Decoder] = {
    _ROOT: Decoder("implicit little endian", _NATIVE, is_encapsulated=False),
    f"{_ROOT}.1": Decoder("explicit little endian", _NATIVE, is_encapsulated=False),
    f"{_ROOT}.1.98": Decoder("encapsulated uncompressed", _NATIVE),
    f"{_ROOT}.1.99": Decoder("deflated explicit little endian", _NATIVE, is_encapsulated=False),
    f"{_ROOT}.2": Decoder("explicit big endian", _NATIVE, is_encapsulated=False),
    f"{_ROOT}.5": Decoder("RLE", partial(_plain, native.run_length), _RLE_CODECS),
    f"{_ROOT}.8.1": Decoder("deflated frames", partial(_plain, native.deflated)),
    f"{_ROOT}.4.50": Decoder("JPEG baseline", _jpeg, _DCT_CODECS, converts_colour=True),
    f"{_ROOT}.4.51": Decoder("JPEG extended", _jpeg, _DCT_CODECS, converts_colour=True),
    f"{_ROOT}.4.53": Decoder("JPEG spectral selection", _jpeg, _DCT_CODECS, converts_colour=True),
    f"{_ROOT}.4.55": Decoder("JPEG full progression", _jpeg, _DCT_CODECS, converts_colour=True),
    f"{_ROOT}.4.57": Decoder("JPEG lossless", _jpeg, _LOSSLESS_CODECS),
    f"{_ROOT}.4.70": Decoder("JPEG lossless, first-order", _jpeg, _LOSSLESS_CODECS),
    f"{_ROOT}.4.80": Decoder("JPEG-LS lossless", _jpeg_ls, _JPEG_LS_CODECS),
    f"{_ROOT}.4.81": Decoder("JPEG-LS near-lossless", _jpeg_ls, _JPEG_LS_CODECS),
    f"{_ROOT}.4.90": Decoder("JPEG 2000 lossless", _jpeg_2000, _JPEG_2000_CODECS, converts_colour=True),
    f"{_ROOT}.4.91": Decoder("JPEG 2000", _jpeg_2000, _JPEG_2000_CODECS, converts_colour=True),
    f"{_ROOT}.4.201": Decoder("HTJ2K lossless", _jpeg_2000, _JPEG_2000_CODECS, converts_colour=True),
    f"{_ROOT}.4.202": Decoder("HTJ2K lossless, RPCL", _jpeg_2000, _JPEG_2000_CODECS, converts_colour=True),
    f"{_ROOT}.4.203": Decoder("HTJ2K", _jpeg_2000, _JPEG_2000_CODECS, converts_colour=True),
}

_SEND_ANEW = "ask the archive to send it as 1.2.840.10008.1.2.1 or 1.2.840.10008.1.2.4.90"
_UNSUPPORTED: dict[str, str] = {
    **dict.fromkeys((f"{_ROOT}.4.{n}" for n in range(52, 70)), "a retired JPEG process"),
    **dict.fromkeys((f"{_ROOT}.4.{n}" for n in (92, 93)), "multi-component JPEG 2000: no package"),
    **dict.fromkeys((f"{_ROOT}.4.{n}" for n in (94, 95, 204, 205)), "JPIP: the pixels lie on a server"),
    **dict.fromkeys((f"{_ROOT}.4.{n}" for n in range(100, 109)), "a video"),
    **dict.fromkeys((f"{_ROOT}.4.{n}" for n in (110, 111, 112)), "JPEG XL: no package"),
}
"""Known syntaxes without a decoder, and why."""


_UID = re.compile(r"[0-9.]{1,64}", re.ASCII)


def require_decoder(transfer_syntax_uid: str) -> Decoder:
    """The decoder of a syntax.

    Raises:
        UnsupportedSyntaxError: no decoder is known, or no codec for it is installed.
    """
    decoder = DECODERS.get(transfer_syntax_uid)
    if decoder is None:
        why = _UNSUPPORTED.get(transfer_syntax_uid)
        if not _UID.fullmatch(transfer_syntax_uid):
            raise UnsupportedSyntaxError(f"the transfer syntax is no UID: {_SEND_ANEW}")
        about = f" ({why})" if why else ""
        raise UnsupportedSyntaxError(
            f"no decoder for transfer syntax {transfer_syntax_uid}{about}: {_SEND_ANEW}"
        )
    if not decoder.available():
        raise UnsupportedSyntaxError(f"{decoder.name} needs a codec that is not here: {decoder.install()}")
    return decoder


def decode_frame(
    transfer_syntax_uid: str, stream: memoryview, facts: FrameFacts, *, least_HW: Least = None
) -> Array:
    """Stored values of one frame: [rows, columns], or [rows, columns, samples] where samples is above 1.

    With ``least_HW`` a frame may come at (ceil(rows / 2^n), ceil(columns / 2^n)), in both axes far above it,
    where the syntax keeps resolutions apart; else it comes in full.

    Raises:
        UnsupportedSyntaxError: no decoder, or no codec for it is installed.
        PixelDecodeError: the codec refused the stream, or it has another shape than the header says.
        TruncatedError: the stream ends early.
    """
    decoder = require_decoder(transfer_syntax_uid)
    if facts.bits_allocated not in _CONTAINER_BITS:
        raise PixelDecodeError(f"{facts.bits_allocated} bits per stored value are not supported")
    if not 1 <= facts.samples <= _MOST_SAMPLES:
        raise PixelDecodeError(f"{facts.samples} samples per pixel are not supported")
    try:
        stored = decoder.read(decoder, stream, facts, least_HW)
    except _CODEC_ERRORS as error:
        kind = type(error).__name__
        raise PixelDecodeError(f"{decoder.name}: the code stream cannot be decoded ({kind})") from error
    if stored.shape != facts.shape and not _is_reduced(stored.shape, facts, least_HW):
        raise PixelDecodeError(f"{decoder.name}: decoded {stored.shape}, the header says {facts.shape}")
    return stored


def _is_reduced(shape: tuple[int, ...], facts: FrameFacts, least_HW: Least) -> bool:
    if least_HW is None or shape[2:] != facts.shape[2:]:
        return False
    return shape[0] >= min(least_HW[0], facts.rows) and shape[1] >= min(least_HW[1], facts.columns)
