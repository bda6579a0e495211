"""Thousands of mutated real files: each ends as a sample or a typed error, in 2 s and 256 MiB."""

from __future__ import annotations

import os

import pytest

from tests.fixtures.fuzz import DATA, mutated, run, seeds

COUNT = int(os.environ.get("OSTEORAY_FUZZ", "2000"))
"""`make test-all` runs 20,000."""
FROM = "shared-data" if (DATA / "dicom_matrix").is_dir() else "pydicom-only"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [pytest.param(COUNT, id=f"{COUNT}-from-{FROM}")])
def test_mutated_files_end_typed_and_within_bounds(count: int) -> None:
    ends, findings = run(range(count))
    assert findings == []
    assert ends.total() == count
    assert ends["sample"] > count / 100  # the mutations reach the pixels, not only the first checks
    assert len(ends) > 8


def test_a_mutation_is_made_again_by_its_number() -> None:
    assert mutated(17) == mutated(17)
    assert mutated(17) != mutated(18)
    assert len(seeds()) > 50
