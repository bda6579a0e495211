"""A DICOM node as a sink: C-STORE. Each sending thread keeps one association open.

dimse://HOST:PORT/AET[?calling=AET]
"""

from __future__ import annotations

import io
import logging
import re
import socket
import threading
import warnings
from urllib.parse import parse_qs, urlsplit

import pydicom
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association

from engine.delivery.sink import BUSY, REFUSED, SENT, UNREACHABLE, SendResult
from engine.dicom.write import SECONDARY_CAPTURE
from engine.errors import UsageError

SCHEME = "dimse://"
CALLING = "OSTEORAY"
TIMEOUT_S = 30.0
_COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
_EXPLICIT_LE = "1.2.840.10008.1.2.1"
_TITLE = re.compile(r"[\x21-\x5b\x5d-\x7e]{1,16}")
_DUPLICATE = 0x0111
_OUT_OF_RESOURCES, _WARNING, _CLASS = 0xA7, 0xB, 8

logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # it logs whole identifiers


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
            self._entity.add_requested_context(sop_class, _EXPLICIT_LE)
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
        association = self._entity.associate(self._host, self._port, ae_title=self._called)
        if not association.is_established:
            return None
        self._own.association = association
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
    if status == 0 or status >> 12 == _WARNING:
        return SendResult(SENT)
    if status == _DUPLICATE:
        return SendResult(SENT, "already_there")
    verdict = BUSY if status >> _CLASS == _OUT_OF_RESOURCES else REFUSED
    return SendResult(verdict, f"status_{status:04X}")
