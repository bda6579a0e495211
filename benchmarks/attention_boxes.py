"""Attention boxes against the ossification boxes of 240 real radiographs; last line JSON.

    python -m benchmarks.attention_boxes --run RUN --data INGEST --truth hand_rsna100 --out FOLDER

TRUTH holds ossification_boxes.csv (id, orig_width, orig_height, label, xmin, ymin, xmax, ymax, in pixels of
the original) of the archive that INGEST was made from. The true carpal region is the box ``Wrist``, the true
metacarpal region the hull of the boxes ``MCP``. A region is good where it covers at least half of the true
one; its size is stated beside it, since a box that covers the whole image covers everything.

Thresholds are chosen on the cases of even id (the smallest median box among those that are good in 90 %), and
judged on those of odd id, together with the rules that the product ships.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from engine.dicom.write import uid_from
from engine.imaging.boxes import Box, covered, iou, whole_image
from engine.models.network import Network
from engine.tasks.ages.attention_boxes import RULES, BoxRule, box_from_map, coarse, masked, on_grid
from engine.tasks.ages.find_regions import Looked, look
from engine.training.run_folder import load_net

WANTED_SHARE, HALF = 0.9, 0.5
TAUS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
PICTURED = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One radiograph: what a network looked at, and the two true regions in pixels of the ingested image."""

    number: int
    looked: Looked
    carpals: Box
    metacarpals: Box


def main() -> None:
    """Measure, draw and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    cases = read_cases(options.run, options.data, options.truth)
    chosen, judged = ([case for case in cases if case.number % 2 == odd] for odd in (0, 1))
    carpals = choose(chosen, carpal_boxes, "carpals", [BoxRule(tau=tau) for tau in TAUS])
    metacarpals = choose(
        chosen,
        lambda some, rule: metacarpal_boxes(some, carpals, rule),
        "metacarpals",
        [BoxRule(tau=tau, mode=mode) for tau, mode in product(TAUS, ("largest", "union"))],
    )
    picked = sorted(judged, key=lambda case: case.number)[:: max(len(judged) // PICTURED, 1)][:PICTURED]
    draw(picked, options.out / "attention_boxes.png")
    shipped = (RULES["carpals"], RULES["metacarpals"])
    result = {
        "cases": {"chosen_on": len(chosen), "judged_on": len(judged)},
        "chosen": results(judged, carpals, metacarpals),
        "shipped_on_judged": results(judged, *shipped),
        "shipped_on_all": results(cases, *shipped),
    }
    (options.out / "attention_boxes.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def read_cases(run: Path, data: Path, truth: Path) -> list[Case]:
    """All radiographs that have boxes and were ingested, by number."""
    shares = true_shares(truth)
    number_of = {uid_from("rsna", str(number), "instance"): number for number in shares}
    cases = []
    for looked in look(load_net(run, Network), data, only=list(number_of)):
        number = number_of[looked.sop_instance_uid]
        hulls = [hull(shares[number][label], looked.view.original_HW) for label in ("Wrist", "MCP")]
        cases.append(Case(number=number, looked=looked, carpals=hulls[0], metacarpals=hulls[1]))
    return cases


def true_shares(truth: Path) -> dict[int, dict[str, list[tuple[float, ...]]]]:
    """Number of a radiograph -> label -> its boxes as shares of width and height."""
    shares: dict[int, dict[str, list[tuple[float, ...]]]] = defaultdict(lambda: defaultdict(list))
    with (truth / "ossification_boxes.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            width, height = float(row["orig_width"]), float(row["orig_height"])
            edges = (
                float(row["xmin"]) / width, float(row["ymin"]) / height,
                float(row["xmax"]) / width, float(row["ymax"]) / height,
            )  # fmt: skip
            shares[int(row["id"])][row["label"]].append(edges)
    return shares


def hull(edges: list[tuple[float, ...]], original_HW: tuple[int, int]) -> Box:
    """The box around boxes given as shares of width and height, in pixels of a grid of this size."""
    lefts, tops, rights, bottoms = np.array(edges).T
    rows, columns = original_HW
    return Box(
        left=float(lefts.min()) * columns - 0.5,
        top=float(tops.min()) * rows - 0.5,
        right=float(rights.max()) * columns - 0.5,
        bottom=float(bottoms.max()) * rows - 0.5,
    )


def carpal_boxes(cases: Sequence[Case], rule: BoxRule) -> list[Box]:
    """The first region of each case."""
    return [box_from_map(coarse(case.looked.map_hw), rule, case.looked.view).box for case in cases]


def metacarpal_boxes(cases: Sequence[Case], first: BoxRule, rule: BoxRule) -> list[Box]:
    """The region of each case that remains when the first is masked."""
    boxes = []
    for case in cases:
        view = case.looked.view
        map_HW = on_grid(coarse(case.looked.map_hw), view.network_HW)
        rest_HW = masked(map_HW, box_from_map(map_HW, first, view), view)
        boxes.append(box_from_map(rest_HW, rule, view).box)
    return boxes


def choose(
    cases: Sequence[Case],
    boxes_of: Callable[[Sequence[Case], BoxRule], list[Box]],
    region: str,
    rules: Sequence[BoxRule],
) -> BoxRule:
    """Of the rules good in WANTED_SHARE of the cases the one of the smallest boxes; else the best."""
    tried = [(judge(cases, boxes_of(cases, rule), region), rule) for rule in rules]
    enough = [
        (facts["median_share_of_image"], rule) for facts, rule in tried if facts["good"] >= WANTED_SHARE
    ]
    if enough:
        return min(enough, key=lambda one: one[0])[1]
    return max(tried, key=lambda one: one[0]["good"])[1]


def judge(cases: Sequence[Case], boxes: Sequence[Box], region: str) -> dict[str, float]:
    """Share of good boxes, their median overlap with the true region and share of the image."""
    truths = [getattr(case, region) for case in cases]
    wholes = [whole_image(case.looked.view.original_HW).area for case in cases]
    good = [covered(truth, box) >= HALF for truth, box in zip(truths, boxes, strict=True)]
    overlap = [iou(truth, box) for truth, box in zip(truths, boxes, strict=True)]
    size = [box.area / whole for box, whole in zip(boxes, wholes, strict=True)]
    return {
        "good": round(float(np.mean(good)), 3),
        "median_iou": round(float(np.median(overlap)), 3),
        "median_share_of_image": round(float(np.median(size)), 3),
    }


def results(cases: Sequence[Case], first: BoxRule, second: BoxRule) -> dict[str, Any]:
    """What two rules are worth; the middle of the image, of the same size, stands beside them."""
    found = {"carpals": carpal_boxes(cases, first), "metacarpals": metacarpal_boxes(cases, first, second)}
    rules = {"carpals": first, "metacarpals": second}
    return {
        name: {
            "rule": {"tau": rules[name].tau, "mode": rules[name].mode, "pad": rules[name].pad},
            **judge(cases, boxes, name),
            "middle_of_image_good": judge(cases, centred(cases, boxes), name)["good"],
        }
        for name, boxes in found.items()
    }


def centred(cases: Sequence[Case], boxes: Sequence[Box]) -> list[Box]:
    """Boxes of the same size in the middle of each image: what the size alone is worth."""
    return [in_the_middle(box, case.looked.view.original_HW) for case, box in zip(cases, boxes, strict=True)]


def in_the_middle(box: Box, original_HW: tuple[int, int]) -> Box:
    """A box of this size in the middle of an image."""
    x = (original_HW[1] - 1) / 2 - (box.left + box.right) / 2
    y = (original_HW[0] - 1) / 2 - (box.top + box.bottom) / 2
    return Box(left=box.left + x, top=box.top + y, right=box.right + x, bottom=box.bottom + y)


def draw(cases: Sequence[Case], path: Path) -> None:
    """Twelve cases: image, map, found boxes (solid) and true ones (dashed)."""
    mpl.use("Agg")
    figure, axes = plt.subplots(2, 6, figsize=(13, 5), layout="constrained")
    first = carpal_boxes(cases, RULES["carpals"])
    second = metacarpal_boxes(cases, RULES["carpals"], RULES["metacarpals"])
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, case, carpals, metacarpals in zip(axes.flat, cases, first, second, strict=False):
        looked = case.looked
        axis.imshow(looked.image_HW, cmap="gray")
        map_HW = on_grid(looked.map_hw, looked.view.network_HW)
        axis.imshow(map_HW, cmap="inferno", alpha=0.35 * map_HW / max(float(map_HW.max()), 1e-6))
        for box, colour, style in (
            (carpals, "#ffb000", "-"), (metacarpals, "#4fc3ff", "-"),
            (case.carpals, "#ffb000", "--"), (case.metacarpals, "#4fc3ff", "--"),
        ):  # fmt: skip
            (left, top), (right, bottom) = looked.view.to_network(
                np.array([(box.left, box.top), (box.right, box.bottom)])
            )
            axis.add_patch(
                Rectangle((left, top), right - left, bottom - top, fill=False, ec=colour, ls=style, lw=1.2)
            )
    figure.suptitle("Found (solid) and true (dashed): carpals orange, metacarpals blue", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
