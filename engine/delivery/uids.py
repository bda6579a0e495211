"""UIDs of results, derived from what they are results of: sent 15 times, an object is still one.

    UUIDv5(NAMESPACE, source SOP UID 0x1F model digest 0x1F task 0x1F kind) -> 2.25.<decimal>   (PS3.5 B.2)

Nobody can read the source from such a UID; whoever knows the four parts can compute it again. A server that
gets an object a second time sees a UID that it has already and keeps one.
"""

from __future__ import annotations

import uuid

NAMESPACE = uuid.UUID("6e6d1f0a-3c0e-5b7e-9a51-0c9b7a2f4d11")
"""Never change it: another one would double every result in every archive."""

SR, MAP = "sr", "map"
KINDS = (SR, MAP)
"""Structured report; secondary capture with the attention map."""

_SEPARATOR = "\x1f"


def result_uid(source_sop_uid: str, model_sha256: str, task: str, kind: str) -> str:
    """SOP instance UID of the result of ``kind`` for one source instance, one model and one task."""
    return _uid(source_sop_uid, model_sha256, task, kind)


def series_uid(source_sop_uid: str, model_sha256: str, task: str, kind: str) -> str:
    """UID of the series of that result; each result has its own."""
    return _uid(source_sop_uid, model_sha256, task, f"{kind}/series")


def device_uid(model_sha256: str) -> str:
    """UID of the device observer: one for each model."""
    return _uid("device", model_sha256)


def tracking_uid(source_sop_uid: str, model_sha256: str, task: str) -> str:
    """UID of the measurement group inside a report."""
    return _uid(source_sop_uid, model_sha256, task, "tracking")


def _uid(*parts: str) -> str:
    return f"2.25.{uuid.uuid5(NAMESPACE, _SEPARATOR.join(parts)).int}"
