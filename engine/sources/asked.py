"""Whether a file is the instance that a server was asked for, told from its first elements."""

from __future__ import annotations

import re
import zlib

from engine.dicom.part10 import DEFLATED, read_meta
from engine.errors import FilteredError, InstanceError

_UID_WITHIN = 64 << 10
# Implicit or explicit VR, in either byte order (PS3.5 7.1).
_OWN_UID = re.compile(
    rb"(?:\x08\x00\x18\x00(?:UI[\x01-\x40]\x00|[\x01-\x40]\x00\x00\x00)"
    rb"|\x00\x08\x00\x18UI\x00[\x01-\x40])([0-9. ]{1,64}\x00?)",
    re.DOTALL,
)


def is_of(data: bytes, uid: str) -> bool:
    """Whether the SOP Instance UID (0008,0018) of a file is this one, or cannot be told."""
    try:
        meta = read_meta(memoryview(data))
        start = data[meta.start : meta.start + _UID_WITHIN]
        if meta.transfer_syntax_uid == DEFLATED:
            start = zlib.decompressobj(-zlib.MAX_WBITS).decompress(start, _UID_WITHIN)
    except (InstanceError, FilteredError, zlib.error):
        return True  # what it is instead is told when it is parsed
    found = _OWN_UID.search(start)
    return not found or found[1].strip(b" \0") == uid.encode()
