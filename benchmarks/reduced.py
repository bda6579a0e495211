"""What decoding at reduced resolution changes: the image, in grey levels of 255, and a network's months.

    python -m benchmarks.reduced IMAGES --bundle BUNDLE [--sizes 112 256 512]

Each PNG or JPEG in IMAGES becomes a 12-bit JPEG 2000 file, once read as `ingest` reads it and once decoded
whole and then resized by area. Grey levels differ after the view's own stretch. Months are those of the
bundle, at the bundle's view. Last line JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.deploy.bundle import open_bundle
from engine.deploy.engines import open_predictor
from engine.dicom import header as elements
from engine.dicom.parse import Limits, parse
from engine.dicom.pixels import display_values
from engine.dicom.write import Facts, uid_from, write_instance
from engine.imaging.preprocess import apply
from engine.ingest import covariates
from engine.ingest.instance import InputRule
from engine.ingest.sample import Reading, samples_of

_GRAIN = 4.0
"""sd of the noise below the 8 bits of the source, in stored values of 12 bits."""

Image = NDArray[np.uint8]


def as_dicom(source: Path, target: Path) -> bytes:
    """The picture as 12-bit JPEG 2000, with noise where its own bits end."""
    grey_HW = cv2.imread(str(source), cv2.IMREAD_GRAYSCALE)
    assert grey_HW is not None
    noise_HW = np.random.default_rng(0).normal(0.0, _GRAIN, grey_HW.shape)
    stored_HW = np.clip(grey_HW.astype(np.float64) * 16 + 8 + noise_HW, 0, 4095).astype(np.uint16)
    uids = {f"{level}_instance_uid": uid_from(source.stem, level) for level in ("sop", "study", "series")}
    write_instance(target, stored_HW, Facts(**uids, patient_id="benchmark"), syntax="jpeg-2000")
    return target.read_bytes()


def both_ways(data: bytes, rule: InputRule) -> tuple[Image, Image, float]:
    """The image as it is read, the one of a whole decode, and how many times faster the first was."""
    started = time.perf_counter()
    (outcome,) = samples_of(data, Reading(source="", rules=(rule,), salt=b"benchmark"))
    if isinstance(outcome, Exception):
        raise outcome
    _, reduced_HW = outcome
    middle = time.perf_counter()
    data_set = parse(data, elements.TAGS, Limits())
    whole_HW, _ = apply(display_values(data_set, Limits()), rule.view)
    ended = time.perf_counter()
    return reduced_HW, whole_HW, (ended - middle) / (middle - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[112, 256, 512])
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    predictor = open_predictor(options.bundle, bundle.engine, threads=1)
    sources = sorted(path for path in options.images.iterdir() if path.suffix in {".png", ".jpg", ".jpeg"})
    differences: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    months: list[float] = []
    covariates_BQ = covariates.columns([{}, {}], bundle.covariates)
    with tempfile.TemporaryDirectory() as scratch:
        for source in sources:
            data = as_dicom(source, Path(scratch) / "image.dcm")
            for size in options.sizes:
                rule = replace(bundle.rule, view=replace(bundle.rule.view, size_HW=(size, size)))
                reduced_HW, whole_HW, ratio = both_ways(data, rule)
                apart = np.abs(reduced_HW.astype(np.int16) - whole_HW)
                kept = differences[size]
                kept["mean"].append(float(apart.mean()))
                kept["p99.9"].append(float(np.percentile(apart, 99.9)))
                kept["max"].append(float(apart.max()))
                kept["times_faster"].append(ratio)
            pair = np.stack(both_ways(data, bundle.rule)[:2])
            first, second = predictor.predict(pair[:, None], covariates_BQ)["months"].tolist()
            months.append(abs(first - second))
    print(json.dumps(_result(len(sources), differences, months)))


def _result(
    count: int, differences: dict[int, dict[str, list[float]]], months: list[float]
) -> dict[str, Any]:
    levels = {
        str(size): {
            "mean": round(statistics.mean(kept["mean"]), 3),
            "worst_mean": round(max(kept["mean"]), 3),
            "worst_p99.9": round(max(kept["p99.9"]), 1),
            "max": max(kept["max"]),
            "times_faster": round(statistics.median(kept["times_faster"]), 2),
        }
        for size, kept in differences.items()
    }
    answer = {"mean": round(statistics.mean(months), 3), "max": round(max(months), 3)}
    return {"images": count, "grey_levels_of_255_by_view": levels, "months": answer}


if __name__ == "__main__":
    main()
