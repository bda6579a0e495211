"""Cases as pictures: the image the network saw, and the same under its attention map, as PNG data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from engine.errors import TableError
from engine.evaluation.held_out import TRUTH, in_words
from engine.imaging.overlay import overlay
from engine.report.folders import read_attention
from engine.store import ledger
from engine.store.schema import tensor_values
from engine.tasks.task import Task

Images = Mapping[str, NDArray[np.uint8]]
"""Network-view images, uint8 [H, W], by path in the archive; those that could be read again."""
ReadAgain = Callable[[Mapping[str, Any], Sequence[str]], Images]
"""Facts of an input rule, and paths in the archive -> images as the rule's network saw them."""

SIDE_PX = 240


Case = dict[str, Any]
"""One instance to look at. Without a label ``truth`` is empty, without an image both pictures are None."""


def cases(folder: Path, frame: pl.DataFrame, task: Task, images: Images) -> list[Case]:
    """One case a row of ``frame``, in its order; where there is no image, without pictures."""
    maps = read_attention(folder, frame, task.name) if images else {}
    return [
        _case(row, task, images.get(row["path"]), maps.get(row["instance_index"]))
        for row in frame.iter_rows(named=True)
    ]


def kept_cases(path: Path, task: Task, errors: Mapping[str, float]) -> list[Case]:
    """The test cases that a run kept with their images, in its order; none where there is no such table.

    ``errors`` are those of the held-out instances by UID.

    Raises:
        TableError: the table is damaged or lacks the images.
    """
    if not path.is_file():
        return []
    table = ledger.read_table(path)
    if "image" not in table.column_names:
        raise TableError(f"{path} has no column image: train the run again")
    images_NHW = tensor_values(table["image"])
    has_maps = "attention_map" in table.column_names
    maps = tensor_values(table["attention_map"]) if has_maps else [None] * table.num_rows
    names = [name for name in table.column_names if name not in ("image", "attention_map")]
    shown = []
    for row, image_HW, map_hw in zip(table.select(names).to_pylist(), images_NHW, maps, strict=True):
        known = {name.removeprefix(TRUTH): value for name, value in row.items()}
        known["error"] = errors.get(row["sop_instance_uid"])
        shown.append(_case(known, task, image_HW, map_hw))
    return shown


def _case(
    row: Mapping[str, Any], task: Task, image_HW: NDArray[np.uint8] | None, map_hw: NDArray[np.uint8] | None
) -> Case:
    return {
        "uid_tail": row["sop_instance_uid"][-12:],
        "sex": in_words(row["patient_sex"]),
        "sentence": task.answer.sentence(row),
        "error": row.get("error"),
        "unit": task.answer.error_unit,
        "truth": _truth(row, task),
        "plain": None if image_HW is None else png_uri(image_HW),
        "overlaid": None if image_HW is None or map_hw is None else png_uri(overlay(image_HW, map_hw)),
    }


def _truth(row: Mapping[str, Any], task: Task) -> str:
    """The required labels in words; one alone needs no name."""
    labels = [label for label in task.labels if label.required]
    parts = []
    for label in labels:
        values = [row.get(name) for name in label.columns]
        if all(value is not None for value in values):
            words = f"{', '.join(f'{value:.4g}' for value in values)} {label.unit}".rstrip()
            parts.append(words if len(labels) == 1 else f"{label.name} {words}")
    return "; ".join(parts)


def png_uri(image: NDArray[np.uint8]) -> str:
    """A PNG data URI of a grey [H, W] or colour [H, W, 3] image, made smaller where it exceeds SIDE_PX."""
    picture = Image.fromarray(image)
    picture.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.BOX)
    if picture.mode == "RGB":
        picture = picture.quantize(128, dither=Image.Dither.NONE)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
