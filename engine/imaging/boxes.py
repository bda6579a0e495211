"""Boxes in original pixels, and the table that carries them from one job to the next.

    sop_instance_uid, region, left, top, right, bottom, ok, run_sha256

One row for each instance and region. ``ok`` is false where no box was found: the box is then the whole image.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine.errors import TableError, UnknownNameError
from engine.store import schema
from engine.store.labels import Label, read_label_table

_EDGES = ("left", "top", "right", "bottom")


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Edges in pixels, x to the right and y down; the zero lies at the *centre* of the top-left pixel.

    A whole image of ``rows`` x ``columns`` goes from -0.5 to columns - 0.5 and from -0.5 to rows - 0.5.
    """

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """Square pixels; 0 for a box turned inside out."""
        return max(self.right - self.left, 0.0) * max(self.bottom - self.top, 0.0)


def whole_image(original_HW: tuple[int, int]) -> Box:
    """The box of all pixels of a grid (rows, columns)."""
    return Box(left=-0.5, top=-0.5, right=original_HW[1] - 0.5, bottom=original_HW[0] - 0.5)


def cut(box: Box, original_HW: tuple[int, int]) -> Box:
    """The part of a box that lies on a grid (rows, columns); its area is 0 where none does."""
    whole = whole_image(original_HW)
    return Box(
        left=max(box.left, whole.left),
        top=max(box.top, whole.top),
        right=min(box.right, whole.right),
        bottom=min(box.bottom, whole.bottom),
    )


def shared_area(one: Box, other: Box) -> float:
    """Square pixels that two boxes share."""
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    return max(width, 0.0) * max(height, 0.0)


def iou(one: Box, other: Box) -> float:
    """Shared area over joint area, 0..1."""
    shared = shared_area(one, other)
    joint = one.area + other.area - shared
    return shared / joint if joint > 0 else 0.0


def covered(target: Box, found: Box) -> float:
    """Share of ``target`` that ``found`` covers, 0..1."""
    return shared_area(target, found) / target.area if target.area > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """Which part of each instance a network sees: the box of ``region`` in the table ``path``, or all but it.

    With ``erase`` the box becomes one grey instead, so that a network trained on that looks elsewhere.
    """

    path: Path
    region: str
    erase: bool = False

    def facts(self) -> dict[str, Any]:
        """JSON-able facts; ``crop_from_facts`` reads them back."""
        return {"path": str(self.path), "region": self.region, "erase": self.erase}

    def box_of(self, sop_instance_uid: str) -> Box | None:
        """The box of an instance; None where none was found, so that it is seen whole.

        Raises:
            TableError, UnknownNameError: see ``read_boxes``.
        """
        return _boxes_once(self.path, self.region).get(sop_instance_uid)


def crop_from_facts(facts: Mapping[str, Any]) -> Crop:
    """The Crop that ``Crop.facts`` described."""
    return Crop(path=Path(facts["path"]), region=facts["region"], erase=facts["erase"])


@functools.lru_cache(maxsize=2)
def _boxes_once(path: Path, region: str) -> Mapping[str, Box]:
    return read_boxes(path, region)


def write_boxes(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of the columns above as Parquet; the caller makes it appear at once."""
    pq.write_table(
        pa.Table.from_pylist(rows, schema=schema.stamped(schema.BOXES, "boxes")), path, compression="zstd"
    )


def read_boxes(path: Path, region: str) -> Mapping[str, Box]:
    """Boxes of one region that were found, by SOP instance UID; of a CSV those that a reader drew.

    A label table (CSV) has them in the columns REGION_left, _top, _right and _bottom.

    Raises:
        TableError: the table is absent, or is none of boxes.
        UnknownNameError: it holds no such region.
        UsageError: the label table cannot be read.
    """
    if path.suffix.lower() == ".csv":
        return _drawn_boxes(path, region)
    try:
        table = pq.read_table(path).select(schema.BOXES.names)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise TableError(f"{path} is no table of boxes: write one with `osteoray regions`") from error
    known = pc.unique(table["region"]).to_pylist()
    if region not in known:
        raise UnknownNameError("region", region, known)
    chosen = table.filter(pc.and_(pc.equal(table["region"], region), table["ok"]))
    return {
        row["sop_instance_uid"]: Box(
            left=row["left"], top=row["top"], right=row["right"], bottom=row["bottom"]
        )
        for row in chosen.to_pylist()
    }


def _drawn_boxes(path: Path, region: str) -> Mapping[str, Box]:
    label = Label(name=region, kind="box", required=True)
    boxes = {}
    for uid, values in read_label_table(path, (label,)).values_by_uid.items():
        edges = [edge for column in label.columns if (edge := values[column]) is not None]
        if edges:
            boxes[uid] = Box(**dict(zip(_EDGES, edges, strict=True)))
    return boxes
