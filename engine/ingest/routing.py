"""Which of several rules takes an instance, told from its header alone, and why.

Exactly one rule fits: it takes the instance. Several fit: those that name the instance's body part go before
those that merely do not exclude it, and among equals the first one goes before, so the order in which bundles
are named decides only what the header leaves open. None fits: the instance is filtered for the reason of the
rule that came furthest, since "another body part" says more than "another SOP class".

Where only what is named is wanted, an instance that no fitting rule names, or more than one, is filtered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import BodyPartError, BodyPartOpenError, FilteredError, SopClassFilteredError
from engine.ingest.instance import InputRule

ONLY_FIT, BODY_PART, FIRST_NAMED = "only_fit", "body_part", "first_named"
REASONS = (ONLY_FIT, BODY_PART, FIRST_NAMED)
"""Values of the column ``route``, from the surest choice to the one that only the order made."""

_FURTHEST = (SopClassFilteredError, BodyPartError)
"""What a rule refuses, in the order in which it looks."""


@dataclass(frozen=True, slots=True)
class Route:
    """The place of the rule that takes an instance, and one of REASONS."""

    rule: int
    reason: str


def route(columns: Mapping[str, Any], rules: Sequence[InputRule], *, is_named: bool = False) -> Route:
    """The rule, of one or several, that takes the instance with these header columns.

    With ``is_named`` only one that names its body part, and alone does.

    Raises:
        SopClassFilteredError, BodyPartError, BodyPartOpenError: none does.
    """
    fitting: list[int] = []
    refusals: list[FilteredError] = []
    for place, rule in enumerate(rules):
        try:
            rule.require_fit(columns)
        except FilteredError as refusal:
            refusals.append(refusal)
        else:
            fitting.append(place)
    if not fitting:
        raise max(refusals, key=lambda refusal: _FURTHEST.index(type(refusal)))
    naming = [place for place in fitting if rules[place].names(columns)]
    if is_named and len(naming) != 1:
        raise BodyPartOpenError("the header does not name a body part of exactly one model")
    if len(fitting) == 1:
        return Route(fitting[0], ONLY_FIT)
    if len(naming) == 1:
        return Route(naming[0], BODY_PART)
    return Route((naming or fitting)[0], FIRST_NAMED)
