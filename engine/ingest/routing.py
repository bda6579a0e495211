"""Which of several rules take an instance, told from its header alone, and why.

Each rule is asked whether it fits. Of those that do, the ones that name the instance's body part take it, all
of them. Where none names it, the header leaves the body part open, and ``Open`` says who takes it: ``all``
that fit, the ``first`` of them in the order in which bundles were named, or none (``named``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from engine.errors import (
    BodyPartError,
    BodyPartOpenError,
    BothSidesError,
    FilteredError,
    ForProcessingError,
    ModalityError,
    SopClassFilteredError,
    TooSmallError,
    ViewError,
)
from engine.ingest.instance import InputRule

Open = Literal["all", "first", "named"]
ONLY_FIT, BODY_PART, OPEN, FIRST_NAMED = "only_fit", "body_part", "open", "first_named"
REASONS = (ONLY_FIT, BODY_PART, OPEN, FIRST_NAMED)
"""Values of the column ``route``, from the surest choice to the one that only the order made."""

_FURTHEST = (
    SopClassFilteredError, ForProcessingError, ModalityError, BodyPartError, ViewError, BothSidesError,
    TooSmallError, BodyPartOpenError,
)  # fmt: skip
"""What is refused, in the order in which it is looked at."""


def route(
    columns: Mapping[str, Any], rules: Sequence[InputRule], where_open: Open = "all"
) -> list[str | FilteredError]:
    """For each rule, why it takes the instance with these columns (one of REASONS), or why it does not."""
    refusals = [_refusal(rule, columns) for rule in rules]
    fitting = [place for place, refusal in enumerate(refusals) if refusal is None]
    naming = [place for place in fitting if rules[place].names(columns)]
    return [refusal or _reason(place, fitting, naming, where_open) for place, refusal in enumerate(refusals)]


def furthest(refusals: Collection[FilteredError]) -> FilteredError:
    """That of the rule that came furthest: "another body part" says more than "another SOP class"."""
    return max(refusals, key=lambda refusal: _FURTHEST.index(type(refusal)))


def _refusal(rule: InputRule, columns: Mapping[str, Any]) -> FilteredError | None:
    try:
        rule.require_fit(columns)
    except FilteredError as refusal:
        return refusal
    return None


def _reason(
    place: int, fitting: Sequence[int], naming: Sequence[int], where_open: Open
) -> str | FilteredError:
    if place in naming or (len(fitting) == 1 and where_open != "named"):
        return ONLY_FIT if len(fitting) == 1 else BODY_PART
    if naming:
        return BodyPartError("the header names the body part of another model")
    if where_open == "named":
        return BodyPartOpenError("the header names no body part of this model")
    if where_open == "all":
        return OPEN
    if place == fitting[0]:
        return FIRST_NAMED
    return BodyPartOpenError("the header leaves the body part open: the first model that fits took it")
