"""What a STOW-RS answer says of one object: DICOM JSON (PS3.18 F) or the Native DICOM Model (PS3.19 A.1).

An object is stored where the Referenced SOP Sequence names it, and refused where the Failed SOP Sequence does
(PS3.18 10.5.3.2). A page, an empty answer, or one about another object says nothing of ours.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat

MAX_BYTES = 1 << 20
_MAX_VALUES, _MAX_DEPTH = 100_000, 64
_REFERENCED, _FAILED = "00081199", "00081198"
_UID, _FAILURE, _WARNING = "00081155", "00081197", "00081196"
_PARSER_ERRORS = (ValueError, TypeError, LookupError, AttributeError, RecursionError, expat.ExpatError)

Item = dict[str, str]
"""Tag -> first value of one item of a sequence."""


@dataclass(slots=True)
class StowAnswer:
    """The items of both sequences."""

    items: dict[str, list[Item]] = field(default_factory=lambda: {_REFERENCED: [], _FAILED: []})

    def is_about(self, uid: str) -> bool:
        """Whether every item is about the object; one without a UID is of the only object that was sent."""
        return all(item.get(_UID, uid) == uid for items in self.items.values() for item in items)

    def names(self, uid: str) -> bool:
        """Whether the object was stored."""
        return any(item.get(_UID) == uid for item in self.items[_REFERENCED])

    def warnings(self, uid: str) -> set[int]:
        """Warning reasons of the stored object."""
        mine = (item for item in self.items[_REFERENCED] if item.get(_UID) == uid)
        return {int(item[_WARNING]) for item in mine if _WARNING in item} - {0}

    def failures(self, uid: str) -> set[int]:
        """Failure reasons of the object; 0 where the server gives none."""
        mine = (item for item in self.items[_FAILED] if item.get(_UID, uid) == uid)
        return {int(item.get(_FAILURE, 0)) for item in mine}


def read_answer(body: bytes) -> StowAnswer | None:
    """The answer in ``body``, JSON or XML as its first character says.

    None where it is neither, is too deep, or has more values than an answer about one object.
    """
    text = bytes(body).lstrip(b"\xef\xbb\xbf \t\r\n")
    try:
        return _of_xml(text) if text.startswith(b"<") else _of_json(text)
    except _PARSER_ERRORS:
        return None


def _of_json(text: bytes) -> StowAnswer:
    if sum(text.count(mark) for mark in (b"{", b"[", b",")) > _MAX_VALUES:
        raise ValueError("more values than an answer about one object has")
    found: Any = json.loads(text)
    answer = StowAnswer()
    for part in found if isinstance(found, list) else [found]:
        for tag, items in answer.items.items():
            items.extend(_firsts(item) for item in part.get(tag, {}).get("Value", []))
            _checked(items)
    return answer


def _firsts(item: dict[str, Any]) -> Item:
    values = {tag: (item.get(tag) or {}).get("Value") for tag in (_UID, _FAILURE, _WARNING)}
    return {tag: str(value[0]).strip("\0 ") for tag, value in values.items() if value}


def _checked(items: list[Item]) -> None:
    for item in items:
        for tag in (_FAILURE, _WARNING):
            int(item.get(tag, 0))


def _of_xml(text: bytes) -> StowAnswer:
    reader = _NativeModel()
    reader.read(text)
    for items in reader.answer.items.values():
        _checked(items)
    return reader.answer


class _NativeModel:
    """Reads NativeDicomModel / DicomAttribute / Item / DicomAttribute / Value; no entities."""

    def __init__(self) -> None:
        self.answer = StowAnswer()
        self._open: list[str] = []
        """Names of open elements; of a DicomAttribute its tag."""
        self._text: list[str] = []
        self._count = 0

    def read(self, text: bytes) -> None:
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text.append
        parser.StartDoctypeDeclHandler = self._refuse
        parser.Parse(text, True)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if not self._open and name.rpartition(":")[2] != "NativeDicomModel":
            raise ValueError("another document")
        self._open.append(attributes.get("tag", "") if name == "DicomAttribute" else name)
        if len(self._open) > _MAX_DEPTH or self._count > _MAX_VALUES:
            raise ValueError("deeper or longer than an answer about one object")
        if name == "Item" and (items := self._sequence()) is not None:
            items.append({})
        self._text.clear()

    def _end(self, name: str) -> None:
        match self._open[1:]:
            case [sequence, "Item", tag, "Value"] if self.answer.items.get(sequence):
                self.answer.items[sequence][-1].setdefault(tag, "".join(self._text).strip("\0 \r\n\t"))
        self._open.pop()
        self._text.clear()

    def _sequence(self) -> list[Item] | None:
        return self.answer.items.get(self._open[1]) if len(self._open) == len("RAI") else None

    def _refuse(self, *_: object) -> None:
        raise ValueError("a document type")
