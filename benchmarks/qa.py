"""Which faulty images abstain, for which reason, and how many sound ones do, on real radiographs.

    python -m benchmarks.qa --model BUNDLE --hands DATA [--other NAME=FOLDER ...] [--count 300]

``DATA`` holds ``labels.csv`` (``id``, ``split``) beside ``images/<id>.png``: the images of its split "test",
which no limit was fitted on. Faults are made of them here, in other ways than those which the checks of a
bundle were fitted on. ``FOLDER`` holds images of another part of the body, shown as they are, and squeezed
onto the grid of the hands, so that black bars give nothing away. "before" is without the checks of the
embedding. Last line JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.deploy.abstained import AbstainedError
from engine.deploy.score import Model, open_model, verdicts
from engine.imaging.preprocess import apply
from engine.ingest import covariates

Grey = NDArray[np.uint8]
Make = Callable[[Grey, Grey, np.random.Generator], Grey]

BATCH = 64
NO_FAULTS = ("sound", "mirrored")


def squeezed(image_HW: Grey, size_HW: tuple[int, ...]) -> Grey:
    """The image on another grid, whatever its aspect."""
    return np.asarray(Image.fromarray(image_HW).resize((size_HW[1], size_HW[0]), Image.Resampling.BOX))


def side(share: float, *, fill: bool) -> Make:
    """Keep a share of the image on one of four sides; with ``fill`` on the grid of the whole."""

    def make(image_HW: Grey, _: Grey, rng: np.random.Generator) -> Grey:
        turns = int(rng.integers(4))
        turned_HW = np.rot90(image_HW, turns)
        kept_HW = np.rot90(turned_HW[: round(share * turned_HW.shape[0])], -turns)
        return squeezed(np.ascontiguousarray(kept_HW), image_HW.shape) if fill else kept_HW

    return make


def corner(image_HW: Grey, _: Grey, rng: np.random.Generator) -> Grey:
    """A window of half the height and half the width."""
    height, width = image_HW.shape
    top, left = rng.integers(height // 2), rng.integers(width // 2)
    return image_HW[top : top + height // 2, left : left + width // 2]


def marker(image_HW: Grey, _: Grey, rng: np.random.Generator) -> Grey:
    """A dark film with nothing but a bright marker."""
    film_HW = np.full(image_HW.shape, 8, np.uint8)
    height, width = image_HW.shape
    top, left = rng.integers(height * 4 // 5), rng.integers(width * 4 // 5)
    film_HW[top : top + height // 10, left : left + width // 12] = 230
    return film_HW


FAULTS: dict[str, Make] = {
    "sound": lambda image, _, __: image,
    "mirrored": lambda image, _, __: image[:, ::-1],
    "inverted": lambda image, _, __: 255 - image,
    "turned by 90": lambda image, _, rng: np.rot90(image, int(rng.choice([1, 3]))),
    "turned by 180": lambda image, _, __: np.rot90(image, 2),
    "70 % of it": side(0.7, fill=True),
    "half of it": side(0.5, fill=False),
    "half of it, squeezed": side(0.5, fill=True),
    "a quarter of it": corner,
    "two hands": lambda image, other, _: np.concatenate([image, other[:, ::-1]], axis=1),
    "two hands, squeezed": lambda image, other, _: squeezed(np.concatenate([image, other], 1), image.shape),
    "marker alone": marker,
    "noise": lambda image, _, rng: rng.integers(0, 256, image.shape).astype(np.uint8),
    "one grey": lambda image, _, rng: np.full(image.shape, rng.integers(256), np.uint8),
}


@dataclass(frozen=True, slots=True)
class Judge:
    """A bundle with its engine: what ``score`` would say of an image, with and without its checks."""

    model: Model

    def verdicts(self, images: Sequence[Grey]) -> Iterator[tuple[str, str]]:
        """Reason before and now for each image; "" where it would be scored."""
        for start in range(0, len(images), BATCH):
            seen = [self._seen(image_HW) for image_HW in images[start : start + BATCH]]
            rows, views = zip(*seen, strict=True)
            bundle = self.model.bundle
            covariates_BQ = covariates.columns(rows, bundle.covariates)
            images_BVHW = np.stack(views)[:, None]
            raw = self.model.predictor.predict(images_BVHW, covariates_BQ)
            unchecked = replace(self.model, bundle=replace(bundle, checks=None))
            before, now = (
                verdicts(model, rows, images_BVHW, raw, raw["sd_months"]) for model in (unchecked, self.model)
            )
            yield from ((_reason(old), _reason(new)) for old, new in zip(before, now, strict=True))

    def _seen(self, image_HW: Grey) -> tuple[dict[str, Any], Grey]:
        shown_HW, geometry = apply((image_HW / 255).astype(np.float32), self.model.bundle.rule.view)
        row = dict.fromkeys(covariates.sources(self.model.bundle.covariates))
        row |= {"rows": image_HW.shape[0], "columns": image_HW.shape[1], "age_months": None}
        return {**row, "original_to_network": geometry.matrix_33.reshape(-1).tolist()}, shown_HW


def _reason(error: AbstainedError | None) -> str:
    return error.reason if error else ""


def grey(path: Path) -> Grey:
    """An image file as grey values of 8 bits."""
    return np.asarray(Image.open(path).convert("L"))


def test_hands(data: Path, count: int) -> list[Grey]:
    """At most ``count`` images of the split "test", evenly over the table."""
    with (data / "labels.csv").open(newline="") as stream:
        names = [row["id"] for row in csv.DictReader(stream) if row["split"] == "test"]
    places = np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)
    return [grey(data / "images" / f"{names[place]}.png") for place in places]


def cases(hands: list[Grey], others: dict[str, Path], count: int) -> Iterator[tuple[str, list[Grey]]]:
    """Name and images of each row of the table."""
    for name, make in FAULTS.items():
        rng = np.random.default_rng(len(name))
        neighbours = [*hands[1:], hands[0]]
        yield name, [make(image, other, rng) for image, other in zip(hands, neighbours, strict=True)]
    for name, folder in others.items():
        images = [grey(path) for path in sorted(folder.iterdir())[:count]]
        yield name, images
        yield f"{name}, squeezed", [squeezed(image, hands[0].shape) for image in images]


def measure(judge: Judge, hands: list[Grey], others: dict[str, Path], count: int) -> dict[str, Any]:
    """By case: images, share that abstains before and now, and shares of the reasons now."""
    rows: dict[str, dict[str, Any]] = {}
    print(f"{'':<22} {'images':>6} {'before':>7} {'now':>7}  reasons", flush=True)
    for name, images in cases(hands, others, count):
        both = list(judge.verdicts(images))
        reasons = Counter(now for _, now in both if now)
        shares = {reason: round(number / len(both), 3) for reason, number in reasons.most_common()}
        before, now = (sum(bool(pair[place]) for pair in both) / len(both) for place in (0, 1))
        rows[name] = {
            "images": len(both),
            "before": round(before, 4),
            "now": round(now, 4),
            "reasons": shares,
        }
        told = ", ".join(f"{reason} {share:.1%}" for reason, share in shares.items())
        print(f"{name:<22} {len(both):>6} {before:>7.1%} {now:>7.1%}  {told}", flush=True)
    return rows


def main() -> None:
    """Print the table and its JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--hands", type=Path, required=True)
    parser.add_argument("--other", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--engine", default="")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    model = open_model(options.model, options.engine or None, threads=options.threads)
    others = {name: Path(folder) for name, _, folder in (text.partition("=") for text in options.other)}
    hands = test_hands(options.hands, options.count)
    rows = measure(Judge(model), hands, others, options.count)
    facts = {"model_sha256": model.bundle.sha256, "no_faults": NO_FAULTS}
    print(json.dumps({**facts, "checks": model.bundle.facts["checks"], "cases": rows}))


if __name__ == "__main__":
    main()
