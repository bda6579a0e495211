"""What must be known of a bundle before its scores are read."""

from __future__ import annotations

from typing import Any

import pytest

from engine.evaluation import caveats

WHOLE: dict[str, Any] = {
    "task": {"name": "hand-age"},
    "calibration": {"max_doubt": 9.0},
    "checks": {"limit": "conformal", "validation": 300},
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"checks": None}, ["hand-age model has no checks"]),
        ({"checks": {"limit": "widened", "validation": 40}}, ["fitted on 40 images only"]),
        ({"calibration": {"max_doubt": None}}, ["no limit of doubt"]),
    ],
)
def test_each_lack_has_its_sentence(changes: dict[str, Any], words: list[str]) -> None:
    said = caveats.of_bundle({**WHOLE, **changes})
    assert len(said) == len(words)
    assert all(word in sentence for word, sentence in zip(words, said, strict=True))
