"""Checks of an embedding: faults it was fitted on, novelty, and how seldom sound images are withheld."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.deploy.out_of_distribution import FAULTS, Checks, fit_checks, load_checks, made, shrunk_covariance
from engine.deploy.quality import verdicts
from engine.errors import BundleError, ExportError
from engine.evaluation.conformal import ABSTAIN_COVERAGE
from engine.tasks.task import Limits

Images = NDArray[np.uint8]

SIDE = 32
MIX = np.random.default_rng(5).normal(0, 1 / 8, (64, 48))


def hands(count: int, *, seed: int) -> Images:
    """A palm with a wrist below it and a thumb on its left: no side is like another, all a little apart."""
    rng = np.random.default_rng(seed)
    images = rng.normal(20, 8, (count, SIDE, SIDE)) * rng.uniform(0.5, 1.5, (count, 1, 1))
    for image_HW in images:
        down, right = rng.integers(-3, 4, 2)
        image_HW[6 + down : 18 + down, 10 + right : 22 + right] += 120 + rng.normal(0, 25)
        image_HW[18 + down :, 13 + right : 19 + right] += 90 + rng.normal(0, 25)
        image_HW[11 + down : 14 + down, 5 + right : 10 + right] += 70 + rng.normal(0, 25)
    return np.clip(images, 0, 255).astype(np.uint8)[:, None]


def embed(images_NVHW: Images) -> NDArray[np.float32]:
    """Mixed means of 8 x 8 tiles, in the place of a network."""
    tiles = images_NVHW.reshape(len(images_NVHW), 8, SIDE // 8, 8, SIDE // 8).mean((2, 4))
    mixed_NC = tiles.reshape(len(images_NVHW), -1) @ MIX
    embedding_NC: NDArray[np.float32] = np.tanh(mixed_NC / 40).astype(np.float32)
    return embedding_NC


@pytest.fixture(scope="module")
def checks() -> Checks:
    return fit_checks(embed, hands(400, seed=0), hands(600, seed=1))


def reasons(checks: Checks, images_NVHW: Images) -> list[str]:
    return [error.reason if error else "" for error in checks.findings(embed(images_NVHW))]


@pytest.mark.parametrize("name", FAULTS)
def test_a_known_fault_is_called_by_its_name(name: str, checks: Checks) -> None:
    told = reasons(checks, made(name, hands(60, seed=2), seed=9))
    assert np.mean([bool(one) for one in told]) > 0.9
    assert np.mean([one == FAULTS[name].error.reason for one in told]) > 0.6


def test_what_is_like_nothing_is_out_of_distribution(checks: Checks) -> None:
    stripes_HW = np.zeros((SIDE, SIDE), np.uint8)
    stripes_HW[np.arange(SIDE) % 16 < 8] = 250
    images_NVHW = np.stack([stripes_HW, stripes_HW.T])[:, None]
    assert reasons(checks, images_NVHW) == ["out_of_distribution"] * 2


def test_limits_withhold_the_stated_share_of_the_validation_split(checks: Checks) -> None:
    withheld = np.mean([bool(one) for one in reasons(checks, hands(600, seed=1))])
    assert 0 < withheld <= 2 * (1 - ABSTAIN_COVERAGE)
    fresh = np.mean([bool(one) for one in reasons(checks, hands(1000, seed=3))])
    assert fresh <= 0.04


def test_an_instance_is_judged_alike_alone_and_among_others(checks: Checks) -> None:
    images_NVHW = np.concatenate([hands(5, seed=4), made("half", hands(5, seed=4))])
    alone = [reasons(checks, image_VHW[None])[0] for image_VHW in images_NVHW]
    assert reasons(checks, images_NVHW) == alone
    assert checks.findings(embed(images_NVHW)[:0]) == []


@pytest.mark.parametrize(
    ("count", "limit"), [(9, "widened"), (40, "widened"), (198, "widened"), (199, "conformal")]
)
def test_few_validation_images_widen_the_limits_and_the_facts_say_so(count: int, limit: str) -> None:
    """Over the draws of few images, sound ones are withheld as seldom as with many; strangers always."""
    train, fresh = hands(100, seed=0), hands(300, seed=3)
    draws = [fit_checks(embed, train, hands(count, seed=seed)) for seed in range(20, 28)]
    fitted = draws[0]
    assert (fitted.limit, fitted.validation) == (limit, count)
    assert np.mean([bool(one) for draw in draws for one in reasons(draw, fresh)]) <= 0.04
    stripes_HW = np.tile(np.arange(SIDE) % 16 < 8, (SIDE, 1)) * np.uint8(250)
    assert reasons(fitted, np.stack([stripes_HW, stripes_HW.T])[:, None]) == ["out_of_distribution"] * 2


@pytest.mark.parametrize(("train", "validation"), [(8, 300), (300, 8), (0, 0)])
def test_too_few_images_to_know_a_spread_are_refused(train: int, validation: int) -> None:
    with pytest.raises(ExportError, match="--without-checks"):
        fit_checks(embed, hands(train, seed=0), hands(validation, seed=1))


def test_a_tenth_of_sound_images_are_far_and_all_that_is_like_nothing(checks: Checks) -> None:
    assert checks.is_far(embed(hands(2000, seed=8))).mean(0) == pytest.approx([0.1, 0.1], abs=0.05)
    noise = np.random.default_rng(0).integers(0, 255, (20, 1, SIDE, SIDE)).astype(np.uint8)
    assert checks.is_far(embed(noise // 2 + 120)).any(1).all()


def test_checks_come_back_and_strange_ones_are_refused(checks: Checks, tmp_path: Path) -> None:
    path, images_NVHW = tmp_path / "checks.safetensors", made("two", hands(20, seed=5))
    checks.save(path)
    again = load_checks(path, checks.facts())
    assert again.facts() == checks.facts()
    assert reasons(again, images_NVHW) == reasons(checks, images_NVHW)
    strange: list[dict[str, Any]] = [{**checks.facts(), "faults": ["bent"]}, {"faults": []}]
    for facts in strange:
        with pytest.raises(BundleError, match="export the run again"):
            load_checks(path, facts)
    path.write_bytes(b"no tensors")
    with pytest.raises(BundleError, match="export the run again"):
        load_checks(path, checks.facts())


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_a_fault_keeps_the_grid_of_every_view(name: str, size: tuple[int, int]) -> None:
    image_HW = hands(1, seed=6)[0, 0]
    shown = np.resize(image_HW, (2, 3, *size)).astype(np.uint8)
    assert made(name, shown).shape == shown.shape
    assert (made(name, shown, seed=3) == made(name, shown, seed=3)).all()


def test_the_embedding_is_asked_before_the_spread() -> None:
    images_BVHW = hands(1, seed=7)
    finding = FAULTS["two"].error("two")
    (found,) = verdicts([{}], images_BVHW, [99.0], limits=Limits(), max_doubt=1.0, by_embedding=[finding])
    assert found is finding


def test_a_shrunk_covariance_lies_between_the_sample_and_the_identity() -> None:
    few_NC = np.random.default_rng(0).normal(0, 2, (12, 40))
    centred_NC = few_NC - few_NC.mean(0)
    eigenvalues = np.linalg.eigvalsh(shrunk_covariance(centred_NC))
    sample = np.linalg.eigvalsh(centred_NC.T @ centred_NC / 12)
    assert eigenvalues.min() > 0.5
    assert eigenvalues.max() < sample.max()
    assert eigenvalues.sum() == pytest.approx(sample.sum())
