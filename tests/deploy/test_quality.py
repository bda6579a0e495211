"""Which scores are withheld: by header, by image, by spread."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engine.datasets.phantom.hand import draw_hand
from engine.deploy import quality
from engine.deploy.abstained import AbstainedError
from engine.tasks import TASKS, task_named
from engine.tasks.task import Limits

HAND = Limits(oldest_months=240.0, is_middle_bright=True)


def hand(number: int, side: int = 64) -> NDArray[np.uint8]:
    """A phantom hand as a network sees it."""
    rng = np.random.default_rng(number)
    film_HW = draw_hand(40.0 + 12 * number, "FM"[number % 2], rng, 128).astype(np.float64)
    low, high = np.percentile(film_HW, [0.5, 99.5])
    grey_HW = (np.clip((film_HW - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    height, width = grey_HW.shape
    scale = side / max(height, width)
    small = Image.fromarray(grey_HW).resize(
        (round(width * scale), round(height * scale)), Image.Resampling.BOX
    )
    return np.asarray(small)


HANDS = [hand(number) for number in range(8)]


def fault(image_HW: NDArray[np.uint8]) -> str | None:
    found = quality.image_fault(image_HW, is_middle_bright=True)
    return found.reason if found else None


@pytest.mark.parametrize("number", range(len(HANDS)))
def test_a_hand_is_let_pass_and_its_negative_is_not(number: int) -> None:
    assert fault(HANDS[number]) is None
    assert fault(255 - HANDS[number]) == "inverted"


@pytest.mark.parametrize("side", [64, 112, 300])
def test_the_size_of_the_view_changes_no_verdict(side: int) -> None:
    assert fault(hand(3, side)) is None
    assert fault(255 - hand(3, side)) == "inverted"


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("shape", [(64, 64), (20, 64), (200, 200)])
def test_one_grey_is_blank(level: int, shape: tuple[int, int]) -> None:
    assert fault(np.full(shape, level, np.uint8)) == "blank"


@pytest.mark.parametrize("side", [64, 112])
def test_noise_has_no_structure(side: int) -> None:
    noise_HW = np.random.default_rng(0).integers(0, 256, (side, side)).astype(np.uint8)
    assert fault(noise_HW) == "no_structure"


def test_padding_is_not_looked_at() -> None:
    image_HW = np.zeros((64, 64), np.uint8)
    negative_HW = 255 - HANDS[0]
    height, width = negative_HW.shape
    narrow_HW = negative_HW[:, (width - 40) // 2 : (width - 40) // 2 + 40]
    image_HW[:height, 12:52] = narrow_HW
    row = {"original_to_network": [1, 0, 12, 0, 1, 0, 0, 0, 1], "rows": height, "columns": 40}
    assert (quality.content(image_HW, row) == narrow_HW).all()
    assert quality.content(image_HW, {}).shape == (64, 64)


@pytest.mark.parametrize(
    ("age", "reason"), [(None, None), (0.0, None), (228.0, None), (241.0, "age_above_range")]
)
def test_adults_are_not_for_a_childs_task(age: float | None, reason: str | None) -> None:
    found = quality.header_fault({"age_months": age}, HAND)
    assert (found.reason if found else None) == reason


def verdicts(sd: float, widest: float | None, **row: Any) -> AbstainedError | None:
    images_BVHW = HANDS[0][None, None]
    return quality.verdicts([row], images_BVHW, [sd], limits=HAND, max_doubt=widest)[0]


def test_the_spread_is_asked_last_and_only_where_the_model_has_a_limit() -> None:
    assert verdicts(99.0, None) is None
    assert verdicts(30.0, 30.0) is None
    uncertain, adult = verdicts(30.1, 30.0), verdicts(30.1, 30.0, age_months=600.0)
    assert uncertain is not None
    assert adult is not None
    assert (uncertain.reason, adult.reason) == ("uncertain", "age_above_range")


def test_no_instance_no_verdict() -> None:
    assert quality.verdicts([], np.zeros((0, 1, 64, 64), np.uint8), [], limits=HAND, max_doubt=1.0) == []


@pytest.mark.parametrize("name", TASKS)
def test_the_limits_are_those_of_the_task(name: str) -> None:
    limits = task_named(name).limits
    assert (limits.oldest_months, limits.is_middle_bright) == {
        "hand-age": (240.0, True), "knee-age": (300.0, False), "sos-stage": (None, False),
    }[name]  # fmt: skip


def test_a_task_without_limits_is_judged_by_its_images() -> None:
    (found,) = quality.verdicts(
        [{"age_months": 900.0}], np.zeros((1, 1, 64, 64), np.uint8), [1.0], limits=Limits(), max_doubt=None
    )
    assert found is not None
    assert found.reason == "blank"
