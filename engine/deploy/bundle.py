"""A model bundle: the compiled student with every fact that its use needs, and digests that seal it.

BUNDLE/bundle.json         task, input rule, outputs, engine, calibration, figures, code version, file digests
BUNDLE/student.onnx        the graph
BUNDLE/model.safetensors   the torch weights
BUNDLE/card.md             model card
BUNDLE/checks.safetensors  fitted checks of its embedding; absent where it was exported without
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.deploy.out_of_distribution import Checks, load_checks
from engine.errors import BundleError
from engine.evaluation.answer import Facts
from engine.ingest.covariates import Covariate, widths
from engine.ingest.instance import InputRule, rule_from_facts
from engine.store.files import read_json, sha256_of_facts, sha256_of_file
from engine.tasks import task_named

FORMAT = 3
ATTENTION, EMBEDDING = "attention", "embedding"
"""Outputs of a graph beside those of its task's Answer; the attention map may be missing."""
BUNDLE_NAME = "bundle.json"
ONNX_NAME = "student.onnx"
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "card.md"
CHECKS_NAME = "checks.safetensors"
SEALED = (ONNX_NAME, WEIGHTS_NAME, CARD_NAME)
"""Files that every bundle has."""
SEAL = "facts_sha256"
_IDENTITY = ("format", "task", "model", "outputs", "calibration", "checks", "evaluation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The facts of an opened bundle.

    ``sha256`` identifies the model in every result row: task, weights, graph, input rule, outputs,
    calibration, checks, and what was measured of it. The card, parity's speed and the time of writing have
    no part in it: a run that is exported again is the same model.
    """

    folder: Path
    task: str
    rule: InputRule
    covariates: tuple[Covariate, ...]
    map_HW: tuple[int, int] | None
    """The grid of its attention maps; None where its graph gives none."""
    engine: str
    calibration: Facts
    checks: Checks | None
    sha256: str
    facts: dict[str, Any]


def read_facts(folder: Path) -> dict[str, Any]:
    """The facts of a bundle, its digests unchecked.

    Raises:
        TableError: there is no bundle.json.
    """
    return read_json(folder / BUNDLE_NAME)


def open_bundle(folder: Path, expected: str | None = None) -> Bundle:
    """Read a bundle and check that nothing in it was changed.

    ``expected`` is the identity that it must have: that of the bundle which the run began with.

    Raises:
        BundleError: a file is absent or differs from its digest, a fact is absent, another release wrote it,
            or it is another bundle than ``expected``.
        TableError: there is no bundle.json.
    """
    facts = read_facts(folder)
    if type(facts.get("format")) is not int or facts["format"] != FORMAT:
        raise BundleError(
            f"{folder} is of format {facts.get('format')!r:.20} and this release reads {FORMAT}: export the "
            "run again with this release, or use the release that wrote it"
        )
    found = _opened(folder, facts)
    if expected is not None and found.sha256 != expected:
        raise BundleError(
            f"{folder} is another bundle now (model {found.sha256[:12]}, not {expected[:12]}): put the "
            "former one back and run the same command again, or choose another --out"
        )
    return found


def _opened(folder: Path, facts: dict[str, Any]) -> Bundle:
    """The bundle that these facts describe, its files checked.

    Raises:
        BundleError: see ``open_bundle``.
    """
    try:
        _check_digests(folder, facts)
        return Bundle(
            folder=folder,
            task=facts["task"]["name"],
            rule=rule_from_facts(facts["task"]["rule"]),
            covariates=_covariates(folder, facts),
            map_HW=tuple(grid) if (grid := facts["outputs"].get(ATTENTION)) else None,
            engine=facts["engine"],
            calibration=dict(facts["calibration"]),
            checks=load_checks(folder / CHECKS_NAME, facts["checks"]) if facts["checks"] else None,
            sha256=_identity(facts),
            facts=facts,
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{folder / BUNDLE_NAME} lacks a fact: export the run again") from error


def sealed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a new bundle with a digest of themselves, so that a changed fact is found as well."""
    return {**facts, SEAL: sha256_of_facts(facts)}


def sealed_files(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """The files of a bundle whose digests its facts hold."""
    return (*SEALED, CHECKS_NAME) if facts["checks"] else SEALED


def _identity(facts: Mapping[str, Any]) -> str:
    """Digest of all that decides what a score says, and of what is claimed of the model."""
    digests = {name: digest for name, digest in facts["sha256"].items() if name != CARD_NAME}
    return sha256_of_facts({**{name: facts[name] for name in _IDENTITY}, "sha256": digests})


def _covariates(folder: Path, facts: Mapping[str, Any]) -> tuple[Covariate, ...]:
    """The covariates of the bundle's network.

    Raises:
        BundleError: it encodes them as an earlier release did.
    """
    covariates = task_named(facts["task"]["name"]).restricted(facts["model"]["covariates"]).covariates
    if tuple(facts["model"]["covariate_columns"]) != widths(covariates):
        raise BundleError(
            f"{folder / BUNDLE_NAME} encodes its covariates as an earlier release did: train and export again"
        )
    return covariates


def _check_digests(folder: Path, facts: Mapping[str, Any]) -> None:
    """Compare every file with its digest, and the facts with their seal.

    Raises:
        BundleError: a file is absent, or something differs from its digest.
    """
    for name in sealed_files(facts):
        path = folder / name
        if not path.is_file():
            raise BundleError(f"{path} is absent: export the run again")
        if sha256_of_file(path) != facts["sha256"].get(name):
            raise BundleError(f"{path} differs from its digest in {BUNDLE_NAME}: export the run again")
    unsealed = {name: fact for name, fact in facts.items() if name != SEAL}
    if sha256_of_facts(unsealed) != facts[SEAL]:
        raise BundleError(f"{folder / BUNDLE_NAME} was changed after it was written: export the run again")
