"""A bundle that was changed after it was written is refused, whichever file it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.bundle import BUNDLE_NAME, SEALED, open_bundle
from engine.errors import BundleError, TableError
from engine.manifest import sha256_of_file, write_json
from engine.tasks.hand_age import HAND_AGE


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    for name in SEALED:
        (tmp_path / name).write_bytes(f"the bytes of {name}".encode())
    digests = {name: sha256_of_file(tmp_path / name) for name in SEALED}
    facts = {"task": HAND_AGE.facts(), "attention_HW": [4, 4], "engine": "onnxruntime", "sha256": digests}
    write_json(tmp_path / BUNDLE_NAME, facts)
    return tmp_path


def test_facts_come_back(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert (opened.task, opened.rule, opened.map_HW) == ("hand-age", HAND_AGE.rule, (4, 4))
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
