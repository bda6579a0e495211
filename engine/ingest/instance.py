"""One instance: bytes in, model-ready image and header columns out; the same in ingest, score, serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.dicom import header as elements
from engine.dicom.functional_groups import of_frame
from engine.dicom.parse import DataSet, Limits, parse
from engine.dicom.pixels import read_frame
from engine.errors import BodyPartError, MultiFrameError, SopClassFilteredError
from engine.imaging.boxes import Box, Crop
from engine.imaging.geometry import Geometry, identity, mirrored
from engine.imaging.preprocess import (
    Picture,
    View,
    apply_to_picture,
    cropped,
    erased,
    least_HW,
    view_from_facts,
)
from engine.store.files import sha256_of_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRule:
    """Which instances a task takes, and how its network sees them.

    ``other_body_parts`` are values of BodyPartExamined that say it is something else: headers often state
    nothing or another word, and such instances are taken. ``body_parts`` are values that name what the task
    is about: among several rules that fit, one that names the part goes before (``engine.ingest.routing``).
    Films of ``mirrored_laterality`` (L or R) are shown mirrored, so that a network sees one side alone.
    """

    sop_classes: tuple[str, ...]
    view: View
    other_body_parts: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    mirrored_laterality: str = ""

    def names(self, columns: Mapping[str, Any]) -> bool:
        """Whether the header says that the instance shows what the task is about."""
        return _body_part(columns) in self.body_parts

    def require_fit(self, columns: Mapping[str, Any]) -> None:
        """Judge the header columns of an instance.

        Raises:
            SopClassFilteredError, BodyPartError: the instance is sound but not for this task.
        """
        if columns["sop_class_uid"] not in self.sop_classes:
            raise SopClassFilteredError(f"SOP class {columns['sop_class_uid']} is not one this task takes")
        if _body_part(columns) in self.other_body_parts:
            raise BodyPartError("the header states a body part that this task is not about")

    def facts(self) -> dict[str, Any]:
        """JSON-able facts; ``rule_from_facts`` reads them back."""
        return {
            "sop_classes": list(self.sop_classes),
            "view": self.view.facts(),
            "other_body_parts": list(self.other_body_parts),
            "body_parts": list(self.body_parts),
            "mirrored_laterality": self.mirrored_laterality,
        }


def rule_from_facts(facts: Mapping[str, Any]) -> InputRule:
    """The InputRule that ``InputRule.facts`` described."""
    return InputRule(
        sop_classes=tuple(facts["sop_classes"]),
        view=view_from_facts(facts["view"]),
        other_body_parts=tuple(facts.get("other_body_parts", ())),
        body_parts=tuple(facts.get("body_parts", ())),
        mirrored_laterality=facts.get("mirrored_laterality", ""),
    )


def _body_part(columns: Mapping[str, Any]) -> str:
    return (columns["body_part_examined"] or "").upper()


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An instance whose header is read and whose pixels are not: which rule takes it can be decided now."""

    columns: dict[str, Any]
    data_set: DataSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A prepared instance: header columns, network-view image uint8 [rows, columns], and the map to it."""

    columns: dict[str, Any]
    image_HW: NDArray[np.uint8]
    geometry: Geometry
    content_sha256: str


def open_instance(data: bytes, salt: bytes, limits: Limits | None = None) -> Opened:
    """Parse the bytes of one file and read its header.

    Raises:
        InstanceError: the bytes cannot be used.
    """
    data_set = parse(data, elements.TAGS, limits or Limits())
    header = of_frame(data_set.header, 0)
    columns = elements.columns(header, data_set.transfer_syntax_uid, salt)
    return Opened(columns=columns, data_set=data_set)


def viewed(
    opened: Opened, rule: InputRule, digest: str, limits: Limits | None = None, crop: Crop | None = None
) -> Instance:
    """Decode and preprocess an instance that fits ``rule``; ``digest`` is that of its bytes.

    With a ``crop`` the column ``crop_ok`` says whether the instance had a box; one without is seen whole.

    Raises:
        InstanceError: the pixels cannot be used.
        FilteredError: the instance has several frames or colours.
    """
    caps = limits or Limits()
    columns = opened.columns
    if elements.num_frames(opened.data_set.header) > 1:
        raise MultiFrameError("several frames: this task takes single projection images")
    original_HW = (max(columns["rows"], 1), max(columns["columns"], 1))
    box = crop.box_of(columns["sop_instance_uid"]) if crop else None
    least = None if box else least_HW(rule.view, original_HW)
    frame = read_frame(opened.data_set, caps, least_HW=least, window=rule.view.window)
    picture = Picture(frame.values_HW, frame.gain, frame.offset, frame.original_HW, frame.reduction)
    moved = identity(frame.original_HW)
    if crop and box:
        picture, moved = _shown(picture, box, crop, columns["sop_instance_uid"])
    image_HW, geometry = apply_to_picture(picture, rule.view)
    if rule.mirrored_laterality and columns["laterality"] == rule.mirrored_laterality:
        image_HW = np.ascontiguousarray(image_HW[:, ::-1])
        geometry = geometry.then(mirrored(geometry.network_HW))
    return Instance(
        columns={**columns, "crop_ok": box is not None} if crop else columns,
        image_HW=image_HW,
        geometry=moved.then(geometry),
        content_sha256=digest,
    )


def _shown(picture: Picture, box: Box, crop: Crop, sop_instance_uid: str) -> tuple[Picture, Geometry]:
    """The box alone, or all but the box, and the map from the instance's pixels to those shown."""
    if crop.erase:
        return erased(picture, box, _grey(sop_instance_uid)), identity(picture.original_HW)
    return cropped(picture, box)


def _grey(sop_instance_uid: str) -> float:
    """One random grey, 0..1, that is always the same for an instance."""
    return int(sha256_of_bytes(sop_instance_uid.encode())[:4], 16) / 0xFFFF
