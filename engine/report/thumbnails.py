"""Cases as pictures: the image the network saw, and the same under its attention map, as PNG data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from engine.errors import EngineError
from engine.imaging.overlay import overlay
from engine.report.folders import read_attention, read_kept_cases

LoadImage = Callable[[str], NDArray[np.uint8]]
"""Path relative to the archive -> network-view image, uint8 [H, W]."""

SIDE_PX = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One instance to look at, ages in months; no label: ``truth`` is None, no image: both pictures are."""

    uid_tail: str
    sex: str
    truth: float | None
    predicted: float
    sd: float
    plain: str | None
    overlaid: str | None


def cases(folder: Path, frame: pl.DataFrame, load_image: LoadImage | None) -> list[Case]:
    """One case a row of ``frame``, in its order; where an image cannot be read again, without pictures."""
    maps = read_attention(folder, frame) if load_image else {}
    return [
        _case(row, _load(row["path"], load_image), maps.get(row["instance_index"]))
        for row in frame.iter_rows(named=True)
    ]


def kept_cases(path: Path) -> list[Case]:
    """The cases that a run kept with their images, in its order; none where there is no such table.

    Raises:
        TableError: the table is damaged.
    """
    if not path.is_file():
        return []
    frame, images_NHW, maps_Nhw = read_kept_cases(path)
    rows = zip(frame.iter_rows(named=True), images_NHW, maps_Nhw, strict=True)
    return [_case(row, image_HW, map_hw) for row, image_HW, map_hw in rows]


def _case(
    row: Mapping[str, Any], image_HW: NDArray[np.uint8] | None, map_hw: NDArray[np.uint8] | None
) -> Case:
    return Case(
        uid_tail=row["sop_instance_uid"][-12:],
        sex=row["sex"],
        truth=row.get("truth"),
        predicted=row["predicted"],
        sd=row["sd"],
        plain=None if image_HW is None else png_uri(image_HW),
        overlaid=None if image_HW is None or map_hw is None else png_uri(overlay(image_HW, map_hw)),
    )


def png_uri(image: NDArray[np.uint8]) -> str:
    """A PNG data URI of a grey [H, W] or colour [H, W, 3] image, made smaller where it exceeds SIDE_PX."""
    picture = Image.fromarray(image)
    picture.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.BOX)
    if picture.mode == "RGB":
        picture = picture.quantize(128, dither=Image.Dither.NONE)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _load(path: str, load_image: LoadImage | None) -> NDArray[np.uint8] | None:
    if load_image is None:
        return None
    try:
        return load_image(path)
    except (EngineError, OSError):  # the archive may have moved since it was scored: the page says so
        return None
