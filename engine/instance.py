"""One instance: bytes in, model-ready image and header columns out; the same in ingest, score, serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.dicom import header as elements
from engine.dicom.functional import of_frame
from engine.dicom.guard import Limits, parse
from engine.dicom.pixels import read_frame
from engine.errors import MultiFrameError, SopClassFilteredError
from engine.geometry import Geometry
from engine.manifest import sha256_of_bytes
from engine.preprocess import Picture, View, apply_to_picture, least_HW, view_from_facts


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRule:
    """Which instances a task takes, and how its network sees them."""

    sop_classes: tuple[str, ...]
    view: View

    def facts(self) -> dict[str, Any]:
        """JSON-able facts; ``rule_from_facts`` reads them back."""
        return {"sop_classes": list(self.sop_classes), "view": self.view.facts()}


def rule_from_facts(facts: Mapping[str, Any]) -> InputRule:
    """The InputRule that ``InputRule.facts`` described."""
    return InputRule(sop_classes=tuple(facts["sop_classes"]), view=view_from_facts(facts["view"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A prepared instance: header columns, network-view image uint8 [rows, columns], and the map to it."""

    columns: dict[str, Any]
    image_HW: NDArray[np.uint8]
    geometry: Geometry
    content_sha256: str


def prepare(data: bytes, rule: InputRule, salt: bytes, limits: Limits | None = None) -> Instance:
    """Read, check, decode and preprocess one instance; the SOP class is checked before any pixel is touched.

    Raises:
        InstanceError: the bytes cannot be used (its ``reason`` says why).
        FilteredError: the instance is sound but not for this task.
    """
    caps = limits or Limits()
    data_set = parse(data, elements.TAGS, caps)
    header = of_frame(data_set.header, 0)
    columns = elements.columns(header, data_set.transfer_syntax_uid, salt)
    if columns["sop_class_uid"] not in rule.sop_classes:
        raise SopClassFilteredError(f"SOP class {columns['sop_class_uid']} is not one this task takes")
    if elements.integer(header, "NumberOfFrames", 1) > 1:
        raise MultiFrameError("several frames: this task takes single projection images")
    original_HW = (max(columns["rows"], 1), max(columns["columns"], 1))
    frame = read_frame(data_set, caps, least_HW=least_HW(rule.view, original_HW))
    picture = Picture(frame.values_HW, frame.gain, frame.offset, frame.original_HW, frame.reduction)
    image_HW, geometry = apply_to_picture(picture, rule.view)
    return Instance(
        columns=columns, image_HW=image_HW, geometry=geometry, content_sha256=sha256_of_bytes(data)
    )
