"""A bundle that was changed after it was written is refused, whichever file it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.deploy.bundle import (
    BUNDLE_NAME,
    CARD_NAME,
    FORMAT,
    SEAL,
    SEALED,
    open_bundle,
    read_facts,
    sealed,
)
from engine.errors import BundleError, TableError
from engine.store.files import sha256_of_file, write_json
from engine.tasks.hand_age import HAND_AGE
from engine.tasks.knee_age import KNEE_AGE

CALIBRATION = {"instances": 40, "temperature": 1.5, "by_sd": {"0.9": 2.0}}


MODEL = {"covariates": ["sex"], "covariate_columns": [1]}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    for name in SEALED:
        (tmp_path / name).write_bytes(f"the bytes of {name}".encode())
    digests = {name: sha256_of_file(tmp_path / name) for name in SEALED}
    facts = {"task": HAND_AGE.facts(), "model": MODEL, "format": FORMAT}
    facts |= {"outputs": {"months": [], "attention": [4, 4], "embedding": [8]}}
    facts |= {"calibration": CALIBRATION, "checks": None, "evaluation": {"mae_months": 7.5}}
    facts |= {"engine": "onnxruntime", "sha256": digests}
    write_json(tmp_path / BUNDLE_NAME, sealed(facts))
    return tmp_path


def test_facts_come_back(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert (opened.task, opened.rule, opened.map_HW) == ("hand-age", HAND_AGE.rule, (4, 4))
    assert opened.covariates == HAND_AGE.covariates
    assert opened.sha256 == open_bundle(bundle).sha256


@pytest.mark.parametrize("name", SEALED)
def test_a_changed_or_absent_file_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(b"other")
    with pytest.raises(BundleError, match="differs from its digest"):
        open_bundle(bundle)
    (bundle / name).unlink()
    with pytest.raises(BundleError, match="is absent"):
        open_bundle(bundle)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="cannot be read"):
        open_bundle(tmp_path)


def change(folder: Path, **facts: object) -> None:
    write_json(folder / BUNDLE_NAME, {**read_facts(folder), **facts})


def test_a_changed_fact_breaks_the_seal(bundle: Path) -> None:
    assert open_bundle(bundle).engine == "onnxruntime"
    change(bundle, engine="openvino")
    with pytest.raises(BundleError, match="changed after it was written"):
        open_bundle(bundle)


def test_facts_without_a_seal_are_refused(bundle: Path) -> None:
    facts = read_facts(bundle)
    del facts[SEAL]
    write_json(bundle / BUNDLE_NAME, facts)
    with pytest.raises(BundleError, match="lacks a fact"):
        open_bundle(bundle)


def test_another_calibration_is_another_model(bundle: Path) -> None:
    before = open_bundle(bundle)
    assert before.calibration == CALIBRATION
    facts = {name: fact for name, fact in read_facts(bundle).items() if name != SEAL}
    facts["calibration"]["by_sd"]["0.9"] = 3.0
    write_json(bundle / BUNDLE_NAME, sealed(facts))
    assert open_bundle(bundle).sha256 != before.sha256


def test_another_card_or_date_is_the_same_model(bundle: Path) -> None:
    before = open_bundle(bundle).sha256
    (bundle / CARD_NAME).write_text("written later")
    facts = {name: fact for name, fact in read_facts(bundle).items() if name != SEAL}
    digests = {**facts["sha256"], CARD_NAME: sha256_of_file(bundle / CARD_NAME)}
    write_json(bundle / BUNDLE_NAME, sealed({**facts, "sha256": digests, "written": "later"}))
    assert open_bundle(bundle).sha256 == before


def test_a_bundle_of_an_earlier_release_is_refused(bundle: Path) -> None:
    change(bundle, format=1)
    with pytest.raises(BundleError, match="this release reads"):
        open_bundle(bundle)


def test_a_graph_without_an_attention_map_has_no_grid(bundle: Path) -> None:
    facts = {name: fact for name, fact in read_facts(bundle).items() if name != SEAL}
    write_json(bundle / BUNDLE_NAME, sealed({**facts, "outputs": {"months": [], "embedding": [8]}}))
    assert open_bundle(bundle).map_HW is None


def test_another_input_rule_is_another_model(bundle: Path) -> None:
    facts = read_facts(bundle)
    del facts[SEAL]
    before = open_bundle(bundle).sha256
    facts["task"]["rule"]["view"]["stretch_percentiles"] = [1.0, 99.0]
    write_json(bundle / BUNDLE_NAME, sealed(facts))
    assert open_bundle(bundle).sha256 != before


@pytest.mark.parametrize("fact", ["task", "outputs", "engine", "sha256", "calibration"])
def test_an_absent_or_senseless_fact_is_refused(bundle: Path, fact: str) -> None:
    facts = {name: value for name, value in read_facts(bundle).items() if name != SEAL}
    kept = {name: value for name, value in facts.items() if name != fact}
    write_json(bundle / BUNDLE_NAME, sealed(kept))
    with pytest.raises(BundleError, match="lacks a fact"):
        open_bundle(bundle)
    if fact != "engine":
        write_json(bundle / BUNDLE_NAME, sealed({**facts, fact: 3}))
        with pytest.raises(BundleError, match="lacks a fact"):
            open_bundle(bundle)


def test_every_flipped_byte_is_found(bundle: Path) -> None:
    for name in SEALED:
        whole = (bundle / name).read_bytes()
        for place in range(len(whole)):
            flipped = bytearray(whole)
            flipped[place] ^= 1
            (bundle / name).write_bytes(flipped)
            with pytest.raises(BundleError, match="differs from its digest"):
                open_bundle(bundle)
        (bundle / name).write_bytes(whole)
    open_bundle(bundle)


def test_a_bundle_whose_covariates_had_other_columns_is_refused(bundle: Path) -> None:
    facts = {name: fact for name, fact in read_facts(bundle).items() if name != SEAL}
    facts |= {"task": KNEE_AGE.facts()}
    both = {"covariates": ["sex", "chronological_age"]}
    write_json(bundle / BUNDLE_NAME, sealed({**facts, "model": {**both, "covariate_columns": [1, 21]}}))
    assert open_bundle(bundle).covariates == KNEE_AGE.covariates
    for earlier, message in (
        ({"covariate_columns": [1, 2]}, "train and export again"),
        ({}, "export the run again"),
    ):
        write_json(bundle / BUNDLE_NAME, sealed({**facts, "model": {**both, **earlier}}))
        with pytest.raises(BundleError, match=message):
            open_bundle(bundle)
