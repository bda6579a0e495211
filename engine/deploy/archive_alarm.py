"""Whether an archive is like the images that a model was trained on, told from the first films of a run.

Of images like those of the validation split a tenth is far out (``Checks.is_far``), by each of two signs: how
novel it is, and how much it resembles a fault. Of the first films of an archive the share is counted. Where
more than SHARE of them are far out by one sign, and chance explains that with less than LEVEL, the model is
not for this archive: the run gives none of its scores.

Shards are read in a fixed order and held back until the first films are judged; what was found is written
down before any shard is committed. So a row depends on its file and on that one finding, never on the shards
or files beside it, and a run that is resumed goes on as it began.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from engine.deploy.abstained import ForeignArchiveError
from engine.deploy.bundle import Bundle
from engine.deploy.out_of_distribution import FAR, SIGNS
from engine.ingest.reuse import reused
from engine.store.counts import PREDICTIONS

SHARE = 0.5
"""Five times the share that is expected: another mix of patients moves the embedding, but not so far."""
LEVEL = 1e-6
"""One in a million archives of images like those of the validation split is taken for a foreign one."""
ENOUGH = 50
"""So many judged films of a task decide."""
MOST = 500
"""Planned instances after which a task that came up seldom is left to the checks of each film."""
_WITHHELD = "the archive is not like the training images: no score of this run is given"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the first films of a task said: how many were judged, and how many are ``far`` by the worse sign.

    ``chance`` is at least that of as many or more in an archive like the validation split. ``planned`` are
    the instances of the plan by then: a plan that has grown may be judged anew where too few were.
    """

    judged: int
    far: int
    chance: float
    is_foreign: bool
    planned: int

    def stands(self, planned: int) -> bool:
        """Whether it holds for a plan of so many instances."""
        return self.is_foreign or self.judged >= ENOUGH or self.planned == planned


def finding(judged: int, far: int, *, validation: int, planned: int) -> Finding:
    """What ``far`` of ``judged`` films say, where being far was set by so many ``validation`` images.

    The chance of one sign is exact for exchangeable images: the number of new values above the r-th smallest
    of N earlier ones is beta-binomial, with N + 1 - r and r. That of the worse sign is at most their sum.
    """
    below = math.ceil((validation + 1) * FAR)
    above = validation + 1 - below
    chance = len(SIGNS) * math.fsum(
        math.exp(
            _log_beta(above + count, below + judged - count)
            - _log_beta(above, below)
            - _log_beta(count + 1, judged - count + 1)
            - math.log(judged + 1)
        )
        for count in range(far, judged + 1)
    )
    is_foreign = far > SHARE * judged and chance < LEVEL
    return Finding(judged=judged, far=far, chance=min(chance, 1.0), is_foreign=is_foreign, planned=planned)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


class Gate:
    """Holds scored shards back until the first films say whether the archive is like the training images."""

    def __init__(
        self,
        order: Sequence[int],
        rows_of_shard: Mapping[int, int],
        validation: Mapping[str, int],
        *,
        known: Mapping[str, Finding] | None = None,
        on_found: Callable[[Mapping[str, Finding]], None] = lambda found: None,
        is_accepted: bool = False,
    ) -> None:
        """Take the shards in the ``order`` in which they are read, with their planned instances.

        Args:
            order: the missing shards.
            rows_of_shard: planned instances of each shard of the plan.
            validation: of each task that has checks, the validation images that they were fitted on.
            known: what was found before; it stands where ``Finding.stands``.
            on_found: told what was found, before any shard is given back.
            is_accepted: whether scores are given whatever is found.
        """
        self._order, self._rows_of_shard, self._validation = order, rows_of_shard, validation
        self._on_found, self._is_accepted = on_found, is_accepted
        self._planned = sum(rows_of_shard.values())
        self._found = {
            task: one
            for task, one in (known or {}).items()
            if task in validation and one.stands(self._planned)
        }
        self._counts = {task: [0] * (1 + len(SIGNS)) for task in validation if task not in self._found}
        self._held: dict[int, pa.Table] = {}
        self._next = 0

    def take(self, shard: int, rows: pa.Table) -> list[tuple[int, pa.Table]]:
        """The shards that may be committed by now, with withheld scores as rows of ``abstained``."""
        self._held[shard] = rows
        while self._counts and self._next < len(self._order) and self._order[self._next] in self._held:
            self._count(self._held[self._order[self._next]])
            self._next += 1
            if self._is_decided():
                self._decide()
        if self._counts:
            return []
        free, self._held = self._held, {}
        foreign = [] if self._is_accepted else [task for task, one in self._found.items() if one.is_foreign]
        return [(number, withheld(table, foreign)) for number, table in free.items()]

    def _count(self, rows: pa.Table) -> None:
        for task, counts in self._counts.items():
            far = rows.filter(pc.equal(rows["task"], task))["is_far"].drop_null().to_pylist()
            counts[0] += len(far)
            for place in range(len(SIGNS)):
                counts[1 + place] += sum(one[place] for one in far)

    def _is_decided(self) -> bool:
        seen = sum(self._rows_of_shard[shard] for shard in self._order[: self._next])
        return (
            self._next == len(self._order)
            or seen >= MOST
            or all(judged >= ENOUGH for judged, *_ in self._counts.values())
        )

    def _decide(self) -> None:
        for task, (judged, *far) in self._counts.items():
            self._found[task] = finding(
                judged, max(far), validation=self._validation[task], planned=self._planned
            )
        self._counts = {}
        self._on_found(self._found)


def withheld(rows: pa.Table, tasks: Iterable[str]) -> pa.Table:
    """The rows of a shard with each score of ``tasks`` turned into an abstained row."""
    is_score = pc.is_in(rows["table"], pa.array(["samples", reused(PREDICTIONS)]))
    is_withheld = pc.and_(is_score, pc.is_in(rows["task"], pa.array(tasks, pa.string())))
    if not pc.any(is_withheld).as_py():
        return rows
    said = {
        "table": "abstained",
        "reason": ForeignArchiveError.reason,
        "code": ForeignArchiveError.code,
        "message": _WITHHELD,
    }
    for name, word in said.items():
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, name, pc.if_else(is_withheld, word, rows[name]))
    return rows


def checked(bundles: Iterable[Bundle]) -> dict[str, int]:
    """The validation images of the checks of each bundle that has some, by task."""
    return {bundle.task: bundle.checks.validation for bundle in bundles if bundle.checks}


def facts_of(found: Mapping[str, Finding], *, is_accepted: bool) -> dict[str, Any]:
    """What a manifest says of an archive; ``findings_from_facts`` reads it back."""
    return {"accepted": is_accepted, "tasks": {task: asdict(one) for task, one in found.items()}}


def findings_from_facts(facts: Mapping[str, Any] | None) -> dict[str, Finding]:
    """The findings that ``facts_of`` described; none where a run has found none yet."""
    return {task: Finding(**one) for task, one in (facts or {}).get("tasks", {}).items()}
