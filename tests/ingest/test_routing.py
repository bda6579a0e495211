"""Which rules take an instance, told from its header, and what they say where they do not."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from engine.dicom.sites import TERMS
from engine.errors import (
    AlreadyScoredError,
    BodyPartError,
    BodyPartOpenError,
    FilteredError,
    SopClassFilteredError,
)
from engine.imaging.preprocess import View
from engine.ingest.instance import InputRule, parse_instance
from engine.ingest.routing import BODY_PART, FIRST_NAMED, ONLY_FIT, OPEN, Open, furthest, route
from engine.sources import wire
from engine.tasks import TASKS, task_named
from engine.tasks.hand_age import HAND_AGE
from engine.tasks.knee_age import KNEE_AGE
from tests.fixtures.dicom_fixture import image, picture

CT, DX = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.1.1"
HAND, KNEE = HAND_AGE.rule, KNEE_AGE.rule
SLICES = InputRule(sop_classes=(CT,), view=View(size_HW=(16, 16)))
ANY = InputRule(sop_classes=(DX,), view=View(size_HW=(16, 16)))


def header(sop_class: str, part: str | None) -> dict[str, Any]:
    facts = parse_instance(image(picture((64, 64)), SOPClassUID=sop_class, BodyPartExamined=part), b"s" * 32)
    return facts.columns


OTHER, CLASS, LEFT_OPEN = BodyPartError, SopClassFilteredError, BodyPartOpenError
MIRRORED = replace(HAND, mirrored_laterality="L")


def routes(
    rules: tuple[InputRule, ...], part: str | None, where_open: Open = "all", sop_class: str = DX
) -> list[str | type[FilteredError]]:
    """Why each rule takes an instance, or the kind of its refusal."""
    found = route(header(sop_class, part), rules, where_open)
    return [one if isinstance(one, str) else type(one) for one in found]


@pytest.mark.parametrize(
    ("rules", "part", "expected"),
    [
        ((HAND,), "HAND", [ONLY_FIT]),
        ((HAND,), None, [ONLY_FIT]),
        ((HAND, KNEE), "HAND", [ONLY_FIT, OTHER]),
        ((HAND, KNEE), "KNEE", [OTHER, ONLY_FIT]),
        ((KNEE, HAND), "WRIST", [OTHER, ONLY_FIT]),
        ((HAND, KNEE), "PATELLA", [OTHER, ONLY_FIT]),
        ((HAND, KNEE), "patella", [OTHER, ONLY_FIT]),
        ((KNEE, HAND), "METACARPUS", [OTHER, ONLY_FIT]),
        ((HAND, KNEE), None, [OPEN, OPEN]),
        ((KNEE, HAND), "EXTREMITY", [OPEN, OPEN]),
        ((KNEE, HAND), "CHEST", [OTHER, OTHER]),
        ((KNEE, HAND), "ARM", [OTHER, ONLY_FIT]),
        ((HAND, KNEE), "LOWERLIMB", [OTHER, ONLY_FIT]),
        ((ANY, HAND, MIRRORED), "HAND", [OTHER, BODY_PART, BODY_PART]),
        ((ANY, KNEE, HAND), "KNEE", [OTHER, BODY_PART, OTHER]),
        ((HAND, KNEE), "FOOT", [OTHER, OTHER]),
    ],
)
def test_who_takes_an_instance(
    rules: tuple[InputRule, ...], part: str | None, expected: list[str | type[FilteredError]]
) -> None:
    assert routes(rules, part) == expected
    if OPEN not in expected:  # the header decides: --route has no part in it
        assert routes(rules, part, "first") == expected


@pytest.mark.parametrize("part", [None, "EXTREMITY", "MEIER"])
def test_what_the_header_leaves_open_goes_where_it_is_asked_to(part: str | None) -> None:
    for rules in ((HAND, KNEE), (KNEE, HAND)):
        assert routes(rules, part, "all") == [OPEN, OPEN]
        assert routes(rules, part, "first") == [FIRST_NAMED, LEFT_OPEN]
        assert routes(rules, part, "named") == [LEFT_OPEN, LEFT_OPEN]


@pytest.mark.parametrize(
    ("rules", "part", "expected"),
    [
        ((HAND,), "WRIST", [ONLY_FIT]),
        ((HAND,), None, [LEFT_OPEN]),
        ((HAND, KNEE), "KNEE", [OTHER, ONLY_FIT]),
        ((HAND, KNEE), "PATELLA", [OTHER, ONLY_FIT]),
        ((ANY, KNEE, HAND), "KNEE", [OTHER, BODY_PART, OTHER]),
        ((HAND, KNEE), "EXTREMITY", [LEFT_OPEN, LEFT_OPEN]),
        ((HAND, KNEE), "CHEST", [OTHER, OTHER]),
        ((HAND, MIRRORED), "HAND", [BODY_PART, BODY_PART]),
        ((HAND, KNEE), "FOOT", [OTHER, OTHER]),
    ],
)
def test_who_takes_only_what_is_named(
    rules: tuple[InputRule, ...], part: str | None, expected: list[str | type[FilteredError]]
) -> None:
    assert routes(rules, part, "named") == expected


def test_another_class_says_less_than_another_part() -> None:
    assert routes((HAND, SLICES), "HAND", sop_class=CT) == [CLASS, ONLY_FIT]
    assert routes((HAND, KNEE), "HAND", sop_class=CT) == [CLASS, CLASS]
    for rules in permutations((HAND, KNEE, SLICES)):
        refusals = [one for one in route(header(DX, "FOOT"), rules) if isinstance(one, FilteredError)]
        assert type(furthest(refusals)) is BodyPartError


@pytest.mark.parametrize("name", TASKS)
def test_a_task_names_known_body_parts_and_its_own_word_is_among_them(name: str) -> None:
    task = task_named(name)
    assert task.body_part in task.rule.body_parts
    assert set(task.rule.body_parts) <= TERMS


def test_the_route_of_known_bytes_crosses_to_the_other_process() -> None:
    error = AlreadyScoredError("known")
    error.route = BODY_PART
    again = wire.error_from_facts(wire.error_facts(error))
    assert isinstance(again, AlreadyScoredError)
    assert again.route == BODY_PART
