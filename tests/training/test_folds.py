"""Folds hold patients together, are balanced, and barely move when patients join."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from engine.errors import UsageError
from engine.tasks.hand_age import HAND_AGE
from engine.training.dataset import open_training_set, pack_images
from engine.training.folds import SLACK, folds_of, hash_of_patient
from engine.training.recipe import Split, with_changes
from tests.fixtures.training_fixture import LABELS, Made, tiny_recipe, write_ingest


def cohort(patients: int, *, films: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    keys = np.repeat([f"{seed}-patient-{i}" for i in range(patients)], films)
    months = np.repeat(generator.uniform(1, 220, patients), films) + generator.uniform(0, 3, patients * films)
    sexes = np.repeat(generator.choice(["F", "M"], patients), films)
    return keys, months, sexes


def bands(months: np.ndarray) -> np.ndarray:
    return np.digitize(months, [60, 120, 180])


def strata(months: np.ndarray, sexes: np.ndarray) -> list[tuple[int, str]]:
    return [(int(bands(m)), s) for m, s in zip(months, sexes, strict=True)]


def test_films_of_a_patient_share_a_fold_whatever_their_ages() -> None:
    keys, months, sexes = cohort(80, films=3)
    folds = folds_of(keys, bands(months), sexes, folds=5)
    assert all(len(set(folds[keys == key])) == 1 for key in set(keys))
    assert set(folds) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("patients", "folds"), [(2000, 5), (300, 5), (60, 3), (7, 5)])
def test_no_fold_holds_more_of_a_stratum_than_its_share_and_slack(patients: int, folds: int) -> None:
    keys, months, sexes = cohort(patients)
    of = folds_of(keys, bands(months), sexes, folds=folds)
    sizes = Counter(strata(months, sexes))
    for (stratum, _), count in Counter(zip(strata(months, sexes), of.tolist(), strict=True)).items():
        assert count <= math.ceil((1 + SLACK) * sizes[stratum] / folds)


def test_each_fold_has_its_share_of_each_sex_and_age() -> None:
    keys, months, sexes = cohort(2000)
    of = folds_of(keys, bands(months), sexes, folds=5)
    for stratum, size in Counter(strata(months, sexes)).items():
        counts = Counter(f for f, s in zip(of.tolist(), strata(months, sexes), strict=True) if s == stratum)
        assert min(counts[fold] for fold in range(5)) > 0.6 * size / 5


def test_the_order_of_rows_does_not_matter() -> None:
    keys, months, sexes = cohort(300)
    order = np.random.default_rng(3).permutation(300)
    shuffled = folds_of(keys[order], bands(months[order]), sexes[order], folds=5)
    assert (shuffled == folds_of(keys, bands(months), sexes, folds=5)[order]).all()


def test_nearly_all_keep_their_fold_when_patients_join() -> None:
    keys, months, sexes = cohort(2000)
    before = folds_of(keys[:1800], bands(months[:1800]), sexes[:1800], folds=5)
    after = folds_of(keys, bands(months), sexes, folds=5)[:1800]
    assert (before == after).mean() > 0.97


def test_the_same_patients_in_another_set_are_in_the_same_fold() -> None:
    keys, months, sexes = cohort(2000)
    some = np.random.default_rng(1).permutation(2000)[:1200]
    elsewhere = folds_of(keys[some], bands(months[some] + 4), sexes[some], folds=5)
    assert (elsewhere == folds_of(keys, bands(months), sexes, folds=5)[some]).mean() > 0.95


def test_a_small_set_departs_from_the_hash_only_to_be_balanced() -> None:
    keys = np.array([f"p{i}" for i in range(10)])
    of = folds_of(keys, bands(np.full(10, 100.0)), np.full(10, "F"), folds=5)
    hashed = np.array([hash_of_patient(key) % 5 for key in keys])
    assert max(Counter(of.tolist()).values()) <= 3
    assert 0.5 <= (of == hashed).mean() < 1


def test_without_a_sex_or_with_one_fold() -> None:
    assert len(folds_of(["a", "b"], [100, 100], [None, ""], folds=2)) == 2
    with pytest.raises(ValueError, match="at least 2"):
        folds_of(["a"], [100], ["F"], folds=1)


def test_a_recipe_names_its_fold_and_refuses_senseless_ones() -> None:
    chosen = with_changes(tiny_recipe(), ["folds=5", "fold=4"])
    assert (chosen.split.folds, chosen.split.fold) == (5, 4)
    for change in (["fold=1"], ["folds=1"], ["folds=5", "fold=5"], ["folds=-2"]):
        with pytest.raises(UsageError, match="fold"):
            with_changes(tiny_recipe(), change)


def test_each_sample_outside_test_is_held_out_by_one_fold(tmp_path: Path) -> None:
    made = [
        Made(patient=f"P{i}", months=20.0 + 9 * i, split="test" if i >= 18 else "train", sex="FM"[i % 2])
        for i in range(22)
        for _ in range(2)
    ]
    folder = write_ingest(tmp_path / "made", made)
    pack_images(folder, tmp_path / "cache", LABELS)
    sets = [
        open_training_set(folder, tmp_path / "cache", HAND_AGE, split=Split(folds=3, fold=fold))
        for fold in range(3)
    ]
    held = [data.uids_N[data.index_of("val")].tolist() for data in sets]
    assert sorted(sum(held, [])) == sorted(sets[0].uids_N[sets[0].splits_N != "test"].tolist())
    assert all((data.splits_N == "test").sum() == 8 for data in sets)
    for data in sets:
        assert not set(data.patients_N[data.index_of("val")]) & set(data.patients_N[data.index_of("train")])
