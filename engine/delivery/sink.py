"""What a sink is: a place that takes DICOM objects, and what it answers for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

SENT, REFUSED, BUSY, UNREACHABLE = "sent", "refused", "busy", "unreachable"
TRANSIENT = frozenset({BUSY, UNREACHABLE})
"""Verdicts after which the same object is sent again."""


STORED_WITH_WARNING = frozenset({0xB000, 0xB006, 0xB007})
"""Coerced, elements discarded, or not as its SOP class wants: stored all the same (PS3.4 B.2.3)."""


@dataclass(frozen=True, slots=True)
class SendResult:
    """A verdict and, for all but a plain success, a short reason without any text of the other side."""

    verdict: str
    reason: str = ""


class Sink(Protocol):
    """A place that takes DICOM objects. ``send`` is called by several threads, one try a call."""

    def send(self, uid: str, data: bytes) -> SendResult:
        """Hand over the Part 10 file ``data`` whose SOP instance UID is ``uid``; never raises for one object.

        Raises:
            SinkError: no object at all can be sent: refused credentials, or a wrong address.
        """

    def close(self) -> None:
        """End the connections."""
