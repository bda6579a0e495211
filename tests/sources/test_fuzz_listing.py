"""Thousands of mutated archives, directories and answers: each lists as rows or ends in a typed error."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.fixtures.fuzz_listing import mutated, seeds

COUNT = int(os.environ.get("OSTEORAY_FUZZ", "2000"))
"""`make test-all` runs 20,000."""
HANDS = 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", [pytest.param(COUNT, id=str(COUNT))])
def test_mutated_sources_are_listed_or_end_typed(count: int) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.fixtures.fuzz_listing",
        "--count",
        str(count),
        "--step",
        str(HANDS),
    ]
    hands = [
        subprocess.Popen([*command, "--first", str(hand)], stdout=subprocess.PIPE, text=True)
        for hand in range(HANDS)
    ]
    said = [json.loads(hand.communicate()[0]) for hand in hands]
    assert [hand.returncode for hand in hands] == [0] * HANDS
    assert [finding for one in said for finding in one["findings"]] == []
    ends = {end for one in said for end in one["ends"]}
    for kind in {kind for kind, _ in seeds()} - {"MULTIPART", "QIDO"}:
        assert f"{kind} listed" in ends  # the mutations reach the members, not only the first checks
        assert f"{kind} source_read" in ends
    assert {"MULTIPART read", "MULTIPART source_read", "QIDO read", "QIDO ORY-U01"} <= ends


def test_a_mutation_is_made_again_by_its_number() -> None:
    assert mutated(17) == mutated(17)
    assert mutated(17) != mutated(18)
    assert len(seeds()) > 12
