"""The regions of every sample of an ingest folder, from the attention of a trained network.

Legend: B batch, V views, H, W view, h, w cells of the map, S side of the common frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from engine.errors import UsageError
from engine.imaging.geometry import Geometry, identity
from engine.ingest import covariates
from engine.ingest.samples_folder import batches, manifest_of
from engine.models.grad_cam import class_map
from engine.models.network import Network
from engine.store.schema import tensor_values
from engine.tasks import task_named
from engine.tasks.ages.attention_boxes import (
    COMMON_RULES,
    RULES,
    BoxRule,
    Found,
    Map,
    box_from_map,
    brought,
    coarse,
    regions,
)
from engine.tasks.ages.registration import LEARNT_FROM, SIDE, common_frame, place, smoothed

BATCH = 64
_NOTHING = 1e-12
ERASED_REGION = "metacarpals"
"""What a network that was trained on images without their carpals looks at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """One sample: its image on the view's grid, where a network looked, and the way to original pixels."""

    sop_instance_uid: str
    image_HW: NDArray[np.uint8]
    map_hw: Map
    view: Geometry


def find_boxes(
    net: Network,
    folder: Path,
    run_sha256: str,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    is_together: bool = False,
) -> Iterator[dict[str, Any]]:
    """Rows for ``boxes.write_boxes``: each region of each sample, in the order of the shards.

    Regions are those of each image's own attention. Which part tells the age is a property of the question,
    though, not of one image: with ``is_together`` they are read off the mean of all attention, in the frame
    that the images share (``engine.tasks.ages.registration``), and brought back to each image that fits it.

    Where the folder was ingested with the carpals erased, only the metacarpals are looked for, and no mask is
    laid over the map.

    Raises:
        UsageError, TableError: see ``look``.
    """
    manifest = _of_one_view(net, folder)
    read = _erased if manifest.get("crop", {}).get("erase") else regions
    total = int(manifest["counts"]["samples"])
    frame_SS = common_frame(_some_images(folder, total)) if total and is_together else None
    mean_SS = np.zeros((SIDE, SIDE), np.float32)
    instances: list[tuple[str, Geometry | dict[str, Found]]] = []
    for done, looked in enumerate(look(net, folder), start=1):
        placed = place(frame_SS, looked.image_HW) if frame_SS is not None else None
        if placed is not None and placed.is_sure:
            carried_SS = placed.carried(looked.map_hw)
            mean_SS += carried_SS / max(float(carried_SS.sum()), _NOTHING)
            instances.append((looked.sop_instance_uid, placed.view(looked.view)))
        else:
            own = read(coarse(looked.map_hw), looked.view, RULES)
            instances.append((looked.sop_instance_uid, own))
        if on_progress:
            on_progress(done, total)
    common = read(smoothed(mean_SS), identity((SIDE, SIDE)), COMMON_RULES)
    for uid, way in instances:
        boxes = (
            way if isinstance(way, dict) else {name: brought(found, way) for name, found in common.items()}
        )
        for name, found in boxes.items():
            yield {
                "sop_instance_uid": uid, "region": name,
                "left": found.box.left, "top": found.box.top,
                "right": found.box.right, "bottom": found.box.bottom,
                "ok": found.ok, "run_sha256": run_sha256,
            }  # fmt: skip


def look(net: Network, folder: Path, only: Sequence[str] | None = None) -> Iterator[Looked]:
    """Every sample of a folder, or those of some SOP instance UIDs, with the network's class map.

    Raises:
        UsageError: the network takes several views of an instance.
        TableError: the folder is no finished ingest.
    """
    manifest = _of_one_view(net, folder)
    rows, columns = manifest["task"]["rule"]["view"]["size_HW"]
    given = task_named(manifest["task"]["name"]).restricted(net.facts.covariates).covariates
    names = ["sop_instance_uid", "rows", "columns", "original_to_network", "image"]
    for table in batches(folder, [*names, *covariates.sources(given)], BATCH):
        is_wanted = pc.is_in(table["sop_instance_uid"], pa.array(only or (), pa.string()))
        wanted = table if only is None else table.filter(is_wanted)
        images_BHW = tensor_values(wanted["image"])
        facts = wanted.drop_columns(["image"]).to_pylist()
        known_BQ = torch.from_numpy(covariates.columns(facts, given))
        x_B1HW = torch.from_numpy(images_BHW.copy())[:, None].float() / 255
        maps_Bhw = class_map(net, x_B1HW, known_BQ).numpy()
        for row, image_HW, map_hw in zip(facts, images_BHW, maps_Bhw, strict=True):
            matrix_33 = np.array(row["original_to_network"], np.float64).reshape(3, 3)
            view = Geometry(matrix_33, (int(row["rows"]), int(row["columns"])), (int(rows), int(columns)))
            yield Looked(
                sop_instance_uid=row["sop_instance_uid"], image_HW=image_HW, map_hw=map_hw, view=view
            )


def found_shares(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Share of the instances in which each region was found."""
    by_region: dict[str, list[bool]] = {}
    for row in rows:
        by_region.setdefault(row["region"], []).append(row["ok"])
    return {name: round(sum(oks) / len(oks), 4) for name, oks in by_region.items()}


def _erased(map_hw: Map, view: Geometry, rules: Mapping[str, BoxRule]) -> dict[str, Found]:
    return {ERASED_REGION: box_from_map(map_hw, rules[ERASED_REGION], view)}


def _some_images(folder: Path, total: int) -> list[NDArray[np.uint8]]:
    """At most LEARNT_FROM images from all over a folder."""
    every = max(math.ceil(total / LEARNT_FROM), 1)
    images, first = [], 0
    for table in batches(folder, ["image"], BATCH):
        images += list(tensor_values(table["image"])[-first % every :: every])
        first += table.num_rows
    return images


def _of_one_view(net: Network, folder: Path) -> dict[str, Any]:
    """The manifest of a finished ingest whose samples, as the network, have one view."""
    if net.facts.num_views > 1:
        raise UsageError(
            f"this network takes {net.facts.num_views} views at once: boxes come from one of one view"
        )
    manifest = manifest_of(folder)
    if "views" in manifest:
        raise UsageError(f"{folder} holds several views a sample: name the folder of one of them")
    return manifest
