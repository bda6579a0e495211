"""A model bundle: the compiled student with every fact that its use needs, and digests that seal it.

BUNDLE/bundle.json         task, input rule, outputs, engine, metrics, code version, file digests
BUNDLE/student.onnx        the graph
BUNDLE/model.safetensors   the torch weights
BUNDLE/card.md             model card
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import BundleError
from engine.instance import InputRule, rule_from_facts
from engine.manifest import read_json, sha256_of_facts, sha256_of_file

BUNDLE_NAME = "bundle.json"
ONNX_NAME = "student.onnx"
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "card.md"
SEALED = (ONNX_NAME, WEIGHTS_NAME, CARD_NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The facts of an opened bundle; ``sha256`` identifies the model in every result row."""

    folder: Path
    task: str
    rule: InputRule
    map_HW: tuple[int, int]
    engine: str
    sha256: str
    facts: dict[str, Any]


def read_facts(folder: Path) -> dict[str, Any]:
    """The facts of a bundle, its digests unchecked.

    Raises:
        TableError: there is no bundle.json.
    """
    return read_json(folder / BUNDLE_NAME)


def open_bundle(folder: Path) -> Bundle:
    """Read a bundle and check that nothing in it was changed.

    Raises:
        BundleError: a file is absent or differs from its digest.
        TableError: there is no bundle.json.
    """
    facts = read_facts(folder)
    for name in SEALED:
        path = folder / name
        if not path.is_file():
            raise BundleError(f"{path} is absent: export the run again")
        if sha256_of_file(path) != facts["sha256"].get(name):
            raise BundleError(f"{path} differs from its digest in {BUNDLE_NAME}: export the run again")
    return Bundle(
        folder=folder,
        task=facts["task"]["name"],
        rule=rule_from_facts(facts["task"]["rule"]),
        map_HW=(facts["attention_HW"][0], facts["attention_HW"][1]),
        engine=facts["engine"],
        sha256=sha256_of_facts(facts["sha256"]),
        facts=facts,
    )
