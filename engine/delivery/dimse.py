"""A DICOM node as a sink: C-STORE. Each sending thread keeps one association open.

dimse://HOST:PORT/AET[?calling=AET]

An object counts as sent where the node's answer says success (PS3.4 B.2.3) and names no other object. A
warning is a refusal: the node kept something else than what was sent. What a node says is read up to a size
and a time.
"""

from __future__ import annotations

import io
import logging
import re
import socket
import threading
import time
import warnings
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pydicom
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

from engine.delivery.sink import BUSY, REFUSED, SENT, STORED_WITH_WARNING, UNREACHABLE, SendResult
from engine.dicom.write import SECONDARY_CAPTURE
from engine.errors import UsageError

SCHEME = "dimse://"
CALLING = "OSTEORAY"
TIMEOUT_S = 30.0
_COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
_EXPLICIT_LE, _IMPLICIT_LE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
"""That in which objects are made, and the default that every node takes (PS3.5 10.1)."""
_TITLE = re.compile(r"[\x21-\x5b\x5d-\x7e]{1,16}")
_DUPLICATE = 0x0111
_OUT_OF_RESOURCES, _CLASS = 0xA7, 8
_ANSWER_BYTES = 1 << 20

logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # it logs whole identifiers


class _Heard:
    """What a node says on one association: bounded, and the object that its last answer names."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.named: str | None = None
        self._left = _ANSWER_BYTES

    def begin(self) -> None:
        """Listen to a new answer."""
        self.named, self._left = None, _ANSWER_BYTES

    def on_open(self, event: evt.Event) -> None:
        """Read the association's socket ourselves: pynetdicom takes 4 GiB, and as long as they take."""
        end = event.assoc.dul.socket
        if end is not None:
            setattr(end, "recv", partial(self._recv, end))  # noqa: B010  # a method of theirs

    def on_message(self, event: evt.Event) -> None:
        """Note the object that an answer names."""
        self.named = event.message.command_set.get("AffectedSOPInstanceUID")

    def _recv(self, end: AssociationSocket, count: int) -> bytearray:
        """As AssociationSocket.recv: ``count`` bytes, or fewer where the connection has ended.

        Raises:
            OSError: too many or too slow: the association ends.
        """
        self._left -= count
        if self._left < 0 or end.socket is None:
            raise ConnectionError("the node says more than any answer holds")
        data, ends_s = bytearray(), time.monotonic() + self._timeout_s
        while len(data) < count:
            end.socket.settimeout(max(ends_s - time.monotonic(), 0.001))
            piece = end.socket.recv(count - len(data))
            if not piece:
                break
            data += piece
        end.socket.settimeout(self._timeout_s)
        return data


class Dimse:
    """One node. A lost association is opened again."""

    def __init__(self, address: str, timeout_s: float = TIMEOUT_S) -> None:
        """Connect to nothing yet.

        Raises:
            UsageError: the address is not of the form above.
        """
        self._host, self._port, self._called, calling = _parts(address)
        self._entity = ApplicationEntity(ae_title=calling)
        for sop_class in (_COMPREHENSIVE_SR, SECONDARY_CAPTURE):
            for syntax in (_EXPLICIT_LE, _IMPLICIT_LE):  # a context each: who takes both, takes ours as it is
                self._entity.add_requested_context(sop_class, syntax)
        self._entity.acse_timeout = self._entity.dimse_timeout = self._entity.connection_timeout = timeout_s
        self._entity.network_timeout = self._timeout_s = timeout_s
        self._own = threading.local()
        self._open: list[Association] = []
        self._lock = threading.Lock()

    def send(self, uid: str, data: bytes) -> SendResult:
        """Store one object; a node that has its UID already counts as sent."""
        association = self._association()
        if association is None:
            return SendResult(UNREACHABLE, "no_association")
        heard: _Heard = self._own.heard
        heard.begin()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                status = association.send_c_store(pydicom.dcmread(io.BytesIO(data)))
            except ValueError:  # the node agreed to no context for this class and syntax
                return SendResult(REFUSED, "not_accepted")
            except RuntimeError:  # the association was lost
                return SendResult(UNREACHABLE, "association_lost")
        if "Status" not in status:
            return SendResult(UNREACHABLE, "no_answer")
        if heard.named not in {None, "", uid}:
            association.abort()
            return SendResult(UNREACHABLE, "answer_names_another_object")
        return _verdict(int(status.Status))

    def close(self) -> None:
        """Release all associations."""
        with self._lock:
            for association in self._open:
                if association.is_established:
                    association.release()
            self._open.clear()

    def _association(self) -> Association | None:
        association: Association | None = getattr(self._own, "association", None)
        if association is not None and association.is_established:
            return association
        if not self._is_listening():
            return None
        heard = _Heard(self._timeout_s)
        handlers: list[Any] = [(evt.EVT_CONN_OPEN, heard.on_open), (evt.EVT_DIMSE_RECV, heard.on_message)]
        association = self._entity.associate(
            self._host, self._port, ae_title=self._called, evt_handlers=handlers
        )
        if not association.is_established:
            return None
        self._own.association, self._own.heard = association, heard
        with self._lock:
            self._open = [one for one in self._open if one.is_established] + [association]
        return association

    def _is_listening(self) -> bool:
        """Whether the port accepts a connection; pynetdicom leaks a socket where it does not."""
        try:
            socket.create_connection((self._host, self._port), self._timeout_s).close()
        except OSError:
            return False
        return True


def _parts(address: str) -> tuple[str, int, str, str]:
    """Host, port, called and calling title."""
    form = UsageError("a DICOM node is dimse://HOST:PORT/AET, titles of 1 to 16 characters")
    try:
        parts = urlsplit(address)
        host, port, called = parts.hostname, parts.port, parts.path.removeprefix("/")
    except ValueError as error:
        raise form from error
    query = parse_qs(parts.query)
    calling = query.pop("calling", [CALLING])[0]
    if not host or not port or query or parts.username or parts.password:
        raise form
    if not _TITLE.fullmatch(called) or not _TITLE.fullmatch(calling):
        raise form
    return host, port, called, calling


def _verdict(status: int) -> SendResult:
    if status == 0:
        return SendResult(SENT)
    if status == _DUPLICATE:
        return SendResult(SENT, "already_there")
    if status in STORED_WITH_WARNING:
        return SendResult(SENT, f"warning_{status:04X}")
    verdict = BUSY if status >> _CLASS == _OUT_OF_RESOURCES else REFUSED
    return SendResult(verdict, f"status_{status:04X}")
