"""One instance: bytes in, model-ready image and header columns out; the same in ingest, score, serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.dicom import header as elements
from engine.dicom.columns import columns as columns_of
from engine.dicom.frame import Frame
from engine.dicom.functional_groups import of_frame
from engine.dicom.parse import DataSet, Limits, parse
from engine.dicom.pixels import read_frame
from engine.dicom.sites import wider
from engine.dicom.write import DX_FOR_PRESENTATION
from engine.errors import (
    BodyPartError,
    BothSidesError,
    ForProcessingError,
    ModalityError,
    MultiFrameError,
    SopClassFilteredError,
    TooSmallError,
    UsageError,
    ViewError,
)
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

DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
_RAW = "raw values of the detector, for processing: have the image for presentation sent"
_STATED, _DESCRIBED = ("body_part_examined", "anatomic_region"), "described_body_part"
_LISTS = ("body_parts", "modalities", "views")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRule:
    """Which instances a task takes, and how its network sees them.

    An empty list takes any. ``body_parts`` are what the task is about: a film whose header names anything
    else is filtered, unless by a wider word for one of them (ARM for a hand). Where it names nothing it is
    taken; among several rules that fit, one whose part is named goes before (``engine.ingest.routing``).
    ``modalities`` and ``views`` are those that are taken where one is stated. ``least_px`` is the fewest
    rows, and columns, of an image; half of what the network sees is always enough.
    Films of ``mirrored_laterality`` (L or R) are shown mirrored, so that a network sees one side alone; films
    of both sides are filtered.
    With the grain ``series`` a sample is a series, of which the network sees ``slices`` images.
    """

    sop_classes: tuple[str, ...]
    view: View
    body_parts: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    least_px: int = 0
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
        stated = _terms(columns, *_STATED)
        own = stated if stated & set(self.body_parts) else _terms(columns, _DESCRIBED)
        return bool(own & set(self.body_parts)) and own <= self._open_parts

    def require_fit(self, columns: Mapping[str, Any]) -> None:
        """Judge the header columns of an instance.

        Raises:
            FilteredError: the instance is sound but not for this task.
        """
        if columns["sop_class_uid"] not in self.sop_classes:
            if columns["sop_class_uid"] == DX_FOR_PROCESSING and DX_FOR_PRESENTATION in self.sop_classes:
                raise ForProcessingError(_RAW)
            raise SopClassFilteredError(f"SOP class {columns['sop_class_uid']} is not one this task takes")
        if "for_processing" in columns["remarks"] and columns["sop_class_uid"] != DX_FOR_PROCESSING:
            raise ForProcessingError(_RAW)
        if self.modalities and not _terms(columns, "modality") <= set(self.modalities):
            raise ModalityError(f"this task takes the modalities {', '.join(self.modalities)}")
        self._require_body_part(columns)
        if self.views and not _terms(columns, "view_position") <= set(self.views):
            raise ViewError(f"the header names a view other than {', '.join(self.views)}")
        if self.mirrored_laterality and columns["laterality"] == "B":
            raise BothSidesError("the header says that it shows both sides: send each as an image of its own")
        least = min(self.least_px, min(self.view.size_HW) // 2)
        if 0 < min(columns["rows"], columns["columns"]) < least:
            raise TooSmallError(f"fewer rows or columns than the {least} that this task needs")

    @property
    def _open_parts(self) -> frozenset[str]:
        """Terms that do not speak against the task."""
        return wider(self.body_parts) | set(self.body_parts)

    def _require_body_part(self, columns: Mapping[str, Any]) -> None:
        """All that BodyPartExamined and codes name must fit; where they are open, the descriptions count."""
        if not self.body_parts:
            return
        stated, described = _terms(columns, *_STATED), _terms(columns, _DESCRIBED)
        foreign = stated - self._open_parts
        if not foreign and not (stated | described) & set(self.body_parts):
            foreign = described - self._open_parts
        if foreign:
            raise BodyPartError(f"the header names another body part: {', '.join(sorted(foreign))}")

    def facts(self) -> dict[str, Any]:
        """JSON-able facts; ``rule_from_facts`` reads them back."""
        grain = {"grain": self.grain, "slices": self.slices} if self.slices else {}
        return {
            "sop_classes": list(self.sop_classes),
            "view": self.view.facts(),
            **{name: list(value) for name in _LISTS if (value := getattr(self, name))},
            "least_px": self.least_px,
            "mirrored_laterality": self.mirrored_laterality,
            **grain,
        }


def rule_from_facts(facts: Mapping[str, Any]) -> InputRule:
    """The InputRule that ``InputRule.facts`` described."""
    return InputRule(
        sop_classes=tuple(facts["sop_classes"]),
        view=view_from_facts(facts["view"]),
        **{name: tuple(facts.get(name, ())) for name in _LISTS},
        least_px=facts.get("least_px", 0),
        mirrored_laterality=facts.get("mirrored_laterality", ""),
        grain=facts.get("grain", "instance"),
        slices=facts.get("slices", 0),
    )


def _terms(columns: Mapping[str, Any], *names: str) -> set[str]:
    return {term for name in names if columns[name] for term in columns[name].split("\\")}


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
    columns = columns_of(header, data_set.transfer_syntax_uid, salt)
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
    remarks = {*columns["remarks"], *frame.remarks}
    if rule.mirrored_laterality and columns["laterality"] == rule.mirrored_laterality:
        image_HW = np.ascontiguousarray(image_HW[:, ::-1])
        geometry = geometry.then(mirrored(geometry.network_HW))
        remarks.add("mirrored")
    columns = {**columns, "remarks": sorted(remarks)}
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
