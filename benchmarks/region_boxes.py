"""What `osteoray regions` wrote against true boxes, of phantoms or of real radiographs; last line JSON.

    python -m benchmarks.region_boxes BOXES.parquet --phantoms COUNT --seed SEED --size ROWS --data INGEST
    python -m benchmarks.region_boxes BOXES.parquet --truth hand_rsna100 --data INGEST

The phantoms are those of `osteoray phantom --task hand-age` with the same three numbers. TRUTH is as for
benchmarks.attention_boxes; the carpal region is the box ``Wrist``, the metacarpal one the hull of ``MCP``.
``even`` and ``odd`` halves (by place, or by number of the radiograph) stand apart, for rules that were chosen
on one of them. A box of the same size in the middle of the image stands beside each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.attention_boxes import hull, in_the_middle, true_shares
from engine.datasets.phantom.visits import true_carpals
from engine.dicom.write import uid_from
from engine.imaging.boxes import Box, covered, iou
from engine.store import ledger

HALF = 0.5
LABELS = {"carpals": "Wrist", "metacarpals": "MCP"}
Case = tuple[int, Box, Box, Box]
"""Number, found, true, and the box of the found one's size in the middle of the image."""


def main() -> None:
    """Judge and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("boxes", type=Path)
    parser.add_argument("--phantoms", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    shapes = shapes_of(options.data)
    if options.phantoms:
        carpals = true_carpals(count=options.phantoms, seed=options.seed, size=options.size)
        truth = {"carpals": {uid: (place, box) for place, (uid, box) in enumerate(carpals.items())}}
    else:
        truth = dict(real(options.truth, shapes))
    rows = pq.read_table(options.boxes).to_pylist()
    print(json.dumps({region: judged(rows, region, boxes, shapes) for region, boxes in truth.items()}))


def shapes_of(data: Path) -> dict[str, tuple[int, int]]:
    """Rows and columns of each sample."""
    names = ["sop_instance_uid", "rows", "columns"]
    rows = [
        row
        for path in ledger.tables_of(data, "samples")
        for row in pq.read_table(path, columns=names).to_pylist()
    ]
    return {row["sop_instance_uid"]: (row["rows"], row["columns"]) for row in rows}


def real(truth: Path, shapes: dict[str, tuple[int, int]]) -> Iterator[tuple[str, dict[str, tuple[int, Box]]]]:
    """Region -> instance -> number and true box."""
    shares = true_shares(truth)
    uids = {number: uid_from("rsna", str(number), "instance") for number in shares}
    for region, label in LABELS.items():
        yield (
            region,
            {
                uids[number]: (number, hull(boxes[label], shapes[uids[number]]))
                for number, boxes in shares.items()
                if label in boxes and uids[number] in shapes
            },
        )


def judged(
    rows: Sequence[dict[str, Any]],
    region: str,
    truth: dict[str, tuple[int, Box]],
    shapes: dict[str, tuple[int, int]],
) -> dict[str, Any]:
    """What the boxes of a region are worth, over all cases and by half."""
    cases = []
    for row in rows:
        if row["region"] == region and row["sop_instance_uid"] in truth:
            number, true_box = truth[row["sop_instance_uid"]]
            box = Box(left=row["left"], top=row["top"], right=row["right"], bottom=row["bottom"])
            cases.append((number, box, true_box, in_the_middle(box, shapes[row["sop_instance_uid"]])))
    even, odd = ([case for case in cases if case[0] % 2 == rest] for rest in (0, 1))
    return {name: facts(some) for name, some in (("all", cases), ("even", even), ("odd", odd))}


def facts(cases: Sequence[Case]) -> dict[str, Any]:
    """Shares of good cases, and medians."""
    ious = [iou(found, true) for _, found, true, _ in cases]
    return {
        "cases": len(cases),
        "iou_at_least_half": round(float(np.mean([value >= HALF for value in ious])), 3),
        "median_iou": round(float(np.median(ious)), 3),
        "covers_half": round(
            float(np.mean([covered(true, found) >= HALF for _, found, true, _ in cases])), 3
        ),
        "middle_covers_half": round(
            float(np.mean([covered(true, mid) >= HALF for _, _, true, mid in cases])), 3
        ),
    }


if __name__ == "__main__":
    main()
