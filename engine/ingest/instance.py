"""One instance: bytes in, model-ready image and header columns out; the same in ingest, score, serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.dicom import header as elements
from engine.dicom.frame import Frame
from engine.dicom.functional_groups import of_frame
from engine.dicom.parse import DataSet, Limits, parse
from engine.dicom.pixels import read_frame
from engine.errors import BodyPartError, MultiFrameError, SopClassFilteredError, UsageError
from engine.imaging.borders import without_border
from engine.imaging.boxes import Box, Crop
from engine.imaging.geometry import Geometry, identity, mirrored
from engine.imaging.preprocess import (
    View,
    apply_to_frame,
    cropped,
    erased,
    fitted_HW,
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
    With the grain ``series`` a sample is a series, of which the network sees ``slices`` images.
    """

    sop_classes: tuple[str, ...]
    view: View
    other_body_parts: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    mirrored_laterality: str = ""
    grain: Literal["instance", "series"] = "instance"
    slices: int = 0

    def __post_init__(self) -> None:
        """Refuse a series without images, and images of no series.

        Raises:
            UsageError: ``slices`` does not fit the grain.
        """
        if (self.grain == "series") != (self.slices > 0):
            raise UsageError("a rule of series says how many slices its network sees, any other rule 0")

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of the image of a sample: (H, W), or (slices, H, W)."""
        return (self.slices, *self.view.size_HW) if self.slices else self.view.size_HW

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
        grain = {"grain": self.grain, "slices": self.slices} if self.slices else {}
        return {
            "sop_classes": list(self.sop_classes),
            "view": self.view.facts(),
            "other_body_parts": list(self.other_body_parts),
            "body_parts": list(self.body_parts),
            "mirrored_laterality": self.mirrored_laterality,
            **grain,
        }


def rule_from_facts(facts: Mapping[str, Any]) -> InputRule:
    """The InputRule that ``InputRule.facts`` described."""
    return InputRule(
        sop_classes=tuple(facts["sop_classes"]),
        view=view_from_facts(facts["view"]),
        other_body_parts=tuple(facts.get("other_body_parts", ())),
        body_parts=tuple(facts.get("body_parts", ())),
        mirrored_laterality=facts.get("mirrored_laterality", ""),
        grain=facts.get("grain", "instance"),
        slices=facts.get("slices", 0),
    )


def _body_part(columns: Mapping[str, Any]) -> str:
    return (columns["body_part_examined"] or "").upper()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """An instance whose header is read: which rules take it can be decided now. Its frame is decoded once."""

    columns: dict[str, Any]
    data_set: DataSet
    limits: Limits
    _frames: dict[Any, Frame] = field(default_factory=dict)

    def frame(self, view: View, *, is_whole: bool) -> Frame:
        """The frame for a view, maybe at a lower resolution unless ``is_whole``; decoded once a way.

        Raises:
            InstanceError: the pixels cannot be used.
            FilteredError: the instance has several frames or colours.
        """
        if elements.num_frames(self.data_set.header) > 1:
            raise MultiFrameError("several frames: this task takes single projection images")
        original_HW = (max(self.columns["rows"], 1), max(self.columns["columns"], 1))
        aspect = elements.pixel_aspect(self.data_set.header)
        has_levels = self.data_set.is_encapsulated and not is_whole
        least = fitted_HW(view, original_HW, aspect) if has_levels else None
        way = (least, view.window, bool(view.steps))
        if way not in self._frames:
            frame = read_frame(self.data_set, self.limits, least_HW=least, window=view.window)
            self._frames[way] = without_border(frame) if view.steps else frame  # only statistics suffer
        return self._frames[way]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A prepared instance: header columns, network-view image uint8 [rows, columns], and the map to it."""

    columns: dict[str, Any]
    image_HW: NDArray[np.uint8]
    geometry: Geometry


def parse_instance(data: bytes, salt: bytes, limits: Limits | None = None) -> Parsed:
    """Parse the bytes of one file and read its header.

    Raises:
        InstanceError: the bytes cannot be used.
    """
    caps = limits or Limits()
    data_set = parse(data, elements.TAGS, caps)
    header = of_frame(data_set.header, 0)
    columns = elements.columns(header, data_set.transfer_syntax_uid, salt)
    return Parsed(columns=columns, data_set=data_set, limits=caps)


def prepare(parsed: Parsed, rule: InputRule, crop: Crop | None = None) -> Instance:
    """Decode and preprocess an instance that fits ``rule``.

    With a ``crop`` the column ``crop_ok`` says whether the instance had a box; one without is seen whole.

    Raises:
        InstanceError: the pixels cannot be used.
        FilteredError: the instance has several frames or colours.
    """
    columns = parsed.columns
    box = crop.box_of(columns["sop_instance_uid"]) if crop else None
    frame = parsed.frame(rule.view, is_whole=box is not None)
    moved = identity(frame.original_HW)
    if crop and box:
        frame, moved = _shown(frame, box, crop, columns["sop_instance_uid"])
    image_HW, geometry = apply_to_frame(frame, rule.view)
    if rule.mirrored_laterality and columns["laterality"] == rule.mirrored_laterality:
        image_HW = np.ascontiguousarray(image_HW[:, ::-1])
        geometry = geometry.then(mirrored(geometry.network_HW))
    columns = {**columns, "remarks": sorted({*columns["remarks"], *frame.remarks})}
    return Instance(
        columns={**columns, "crop_ok": box is not None} if crop else columns,
        image_HW=image_HW,
        geometry=moved.then(geometry),
    )


def _shown(frame: Frame, box: Box, crop: Crop, sop_instance_uid: str) -> tuple[Frame, Geometry]:
    """The box alone, or all but the box, and the map from the instance's pixels to those shown."""
    if crop.erase:
        return erased(frame, box, _grey(sop_instance_uid)), identity(frame.original_HW)
    return cropped(frame, box)


def _grey(sop_instance_uid: str) -> float:
    """One random grey, 0..1, that is always the same for an instance."""
    return int(sha256_of_bytes(sop_instance_uid.encode())[:4], 16) / 0xFFFF
