"""Five bad files in a hundred, of every kind: each ends in its table with its reason, and no row is lost."""

from __future__ import annotations

from pathlib import Path

from engine.datasets.phantom.faults import FAULTS
from tests.fixtures.planted import books


def test_planted_faults_end_exactly_as_planted(tmp_path: Path) -> None:
    ended = books(tmp_path, 20 * len(FAULTS))
    bad = {path for path, (table, _) in ended.planted.items() if table != "samples"}
    assert len(bad) == len(FAULTS) >= 25
    assert {path: ended.found.get(path) for path in bad} == {path: ended.planted[path] for path in bad}
    assert ended.found == ended.planted
