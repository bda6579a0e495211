"""Cases as pictures: the image the network saw, and the same under its attention map, as PNG data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from engine.errors import EngineError
from engine.report.folders import read_attention

LoadImage = Callable[[str], NDArray[np.uint8]]
"""Path relative to the archive -> network-view image, uint8 [H, W]."""

SIDE_PX = 240
_OPACITY = 0.75
# weak attention violet, then red, strongest yellow: told apart on grey, with colour-vision deficiencies too
_STOPS = (0.0, 0.35, 0.7, 1.0)
_RAMP_S3 = np.array([[70, 30, 130], [190, 45, 95], [240, 125, 40], [255, 225, 90]], np.float64)


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
    shown = []
    for row in frame.iter_rows(named=True):
        image_HW = _load(row["path"], load_image)
        attention_hw = maps.get(row["instance_index"])
        shown.append(
            Case(
                uid_tail=row["sop_instance_uid"][-12:],
                sex=row["sex"],
                truth=row.get("truth"),
                predicted=row["predicted"],
                sd=row["sd"],
                plain=None if image_HW is None else png_uri(image_HW),
                overlaid=None
                if image_HW is None or attention_hw is None
                else png_uri(overlay(image_HW, attention_hw)),
            )
        )
    return shown


def overlay(image_HW: NDArray[np.uint8], attention_hw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The grey image with the map laid over it in colour, uint8 [H, W, 3]; no attention leaves it grey.

    The map covers the same square as the image on a coarser grid, and is enlarged bilinearly.
    """
    height, width = image_HW.shape
    enlarged = Image.fromarray(attention_hw).resize((width, height), Image.Resampling.BILINEAR)
    strength_HW = np.asarray(enlarged, np.float64) / 255
    colour_HW3 = np.stack([np.interp(strength_HW, _STOPS, channel_S) for channel_S in _RAMP_S3.T], axis=-1)
    opacity_HW1 = _OPACITY * strength_HW[..., None]
    mixed_HW3 = (1 - opacity_HW1) * image_HW[..., None] + opacity_HW1 * colour_HW3
    shown_HW3: NDArray[np.uint8] = np.rint(mixed_HW3).astype(np.uint8)
    return shown_HW3


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
