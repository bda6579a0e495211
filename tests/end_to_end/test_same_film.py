"""The same film gives the same row, however its file is written: every rewriting on every film."""

from __future__ import annotations

import pytest

from engine.errors import EngineError
from engine.tasks import TASKS
from tests.fixtures import films
from tests.fixtures.films import Film
from tests.fixtures.rewriting import Rewriting
from tests.fixtures.rewritings import REWRITINGS
from tests.fixtures.same_film import apart

AT_FULL_SIZE = (
    "JPEG 2000 lossless", "HTJ2K lossless", "JPEG-LS near", "JPEG lossless", "window twice as wide",
    "MONOCHROME1, fewer bits than BitsStored", "VOI LUT, 8 bits, packed", "padding, JPEG 2000 lossless",
    "padding, JPEG-LS near", "circular shutter over film", "white frame of 17 pixels",
    "rows halved, PixelSpacing", "overlay in bit 15, stated", "trailing padding after a code stream", "RGB",
)  # fmt: skip
"""The whole table over films of this size is in benchmarks/same_film.py."""


def beyond(rewriting: Rewriting, of: tuple[Film, ...]) -> list[str]:
    """The films whose input or row is not the same, with figures."""
    found = []
    for film in of:
        if not rewriting.takes(film):
            continue
        try:
            away = apart(film, rewriting)
        except EngineError as error:
            found.append(f"{film.name}: {error.code} {error}")
            continue
        if away.beyond(rewriting.bound_of(film)):
            found.append(f"{film.name}: {away}")
    return found


@pytest.mark.parametrize("name", REWRITINGS)
def test_a_rewritten_film_gives_the_same_input_and_the_same_row(name: str) -> None:
    assert beyond(REWRITINGS[name], films.small()) == []


@pytest.mark.parametrize("name", AT_FULL_SIZE)
def test_so_does_one_of_the_size_of_a_detector(name: str) -> None:
    assert beyond(REWRITINGS[name], films.large()) == []


@pytest.mark.skipif(not films.real_hands(1), reason=films.NO_REAL)
@pytest.mark.parametrize("name", AT_FULL_SIZE)
def test_so_does_a_real_one(name: str) -> None:
    assert beyond(REWRITINGS[name], films.real_hands(1)) == []


def test_every_task_has_films_and_every_rewriting_takes_some() -> None:
    assert {film.task for film in films.small()} == set(TASKS)
    assert all(any(map(rewriting.takes, films.small())) for rewriting in REWRITINGS.values())
