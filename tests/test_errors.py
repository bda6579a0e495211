"""The tree in the docstring of engine.errors is the tree of its classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import pytest

from engine import errors
from engine.deploy.abstained import AbstainedError
from engine.errors import EngineError, FilteredError, InstanceError, UnknownNameError

_LINE = re.compile(r"^ {4}(?P<branches>[│├└─ ]*)(?P<name>[A-Z]\w+) +(?P<code>ORY-[A-Z]\d\d)\b", re.MULTILINE)
_INDENT = 4

DOCUMENTED_EXIT_CODES = {0, 1, 2, 3, 4, 75, 143}


def drawn() -> Iterator[tuple[str, str, str | None]]:
    """(class, code, parent class) of every line of the drawing, from the top."""
    path: list[str] = []
    for line in _LINE.finditer(errors.__doc__ or ""):
        depth = len(line["branches"]) // _INDENT
        path[depth:] = [line["name"]]
        yield line["name"], line["code"], path[depth - 1] if depth else None


def all_classes(root: type[EngineError] = EngineError) -> Iterator[type[EngineError]]:
    yield root
    for child in root.__subclasses__():
        yield from all_classes(child)


def test_the_drawing_equals_the_classes() -> None:
    defined = {
        (kind.__name__, kind.code, None if kind is EngineError else kind.__bases__[0].__name__)
        for kind in all_classes()
    }
    assert set(drawn()) == defined


def test_no_error_is_defined_elsewhere() -> None:
    assert {kind.__module__ for kind in all_classes()} == {errors.__name__, AbstainedError.__module__}


def test_codes_are_unique_and_well_formed() -> None:
    codes = Counter(kind.code for kind in all_classes())
    assert [code for code, count in codes.items() if count > 1] == []
    assert all(re.fullmatch(r"ORY-[A-Z]\d\d", code) for code in codes)


def test_exit_codes_are_documented_ones() -> None:
    assert {kind.exit_code for kind in all_classes()} <= DOCUMENTED_EXIT_CODES


@pytest.mark.parametrize("family", [InstanceError, FilteredError, AbstainedError])
def test_reasons_are_unique_words(family: type[InstanceError | FilteredError | AbstainedError]) -> None:
    reasons = [kind.reason for kind in all_classes(family)]  # type: ignore[attr-defined]
    assert len(set(reasons)) == len(reasons)
    assert all(re.fullmatch(r"[a-z][a-z_]+", reason) for reason in reasons)


def test_an_unknown_name_is_answered_with_the_nearest_one() -> None:
    error = UnknownNameError("task", "hand-aeg", ["hand-age", "knee-age", "landmarks"])
    assert str(error) == "unknown task 'hand-aeg': did you mean 'hand-age'?"
    assert error.exit_code == 2


def test_an_unknown_name_with_nothing_near_is_answered_with_all() -> None:
    error = UnknownNameError("task", "zzz", ["knee-age", "hand-age"])
    assert str(error) == "unknown task 'zzz': known: hand-age, knee-age"
