"""The alarm of a whole archive: when it is raised, what it withholds; no order of shards changes it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from math import comb
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.deploy.abstained import ForeignArchiveError
from engine.deploy.archive_alarm import (
    ENOUGH,
    LEVEL,
    Finding,
    Gate,
    facts_of,
    finding,
    findings_from_facts,
    withheld,
)
from engine.evaluation import caveats
from engine.ingest.reuse import OF_A_RUN

TASK = "hand-age"


def shard(far: list[bool | None], task: str = TASK) -> pa.Table:
    """Scored rows, as a block holds them; the last one is a rejected input."""
    count = len(far)
    return pa.table(
        {
            "table": pa.array([*["samples"] * count, "filtered"]),
            "task": pa.array([*[task] * count, None]),
            "reason": pa.array([*[None] * count, "no_label"], pa.string()),
            "code": pa.array([*[None] * count, "ORY-F04"], pa.string()),
            "message": pa.array([*[None] * count, "none"], pa.string()),
            "is_far": pa.array(
                [*(None if one is None else [False, one] for one in far), None], pa.list_(pa.bool_())
            ),
        }
    )


def given(gate: Gate, blocks: Mapping[int, pa.Table], order: tuple[int, ...]) -> dict[int, list[str]]:
    """Where the rows of each shard end, by shard, if they come back in this order."""
    return {
        number: table["table"].to_pylist() for one in order for number, table in gate.take(one, blocks[one])
    }


def test_the_chance_is_that_of_the_urn() -> None:
    """Of 9 old values and 2 new ones in random order, both new ones above the largest old: 1 / C(11, 2).

    There are two signs, so it is doubled.
    """
    assert finding(2, 2, validation=9, planned=2).chance == pytest.approx(2 / comb(11, 2))
    assert finding(2, 0, validation=9, planned=2).chance == pytest.approx(1)
    many = finding(50, 12, validation=10**7, planned=50).chance
    binomial = sum(comb(50, k) * 0.1**k * 0.9 ** (50 - k) for k in range(12, 51))
    assert many == pytest.approx(2 * binomial, rel=1e-3)
    assert 0 <= finding(5000, 4000, validation=300, planned=5000).chance < LEVEL


@pytest.mark.parametrize("validation", [9, 40, 1500])
def test_archives_like_the_validation_split_are_left_alone_and_foreign_ones_found(validation: int) -> None:
    rng = np.random.default_rng(0)
    below = -(-(validation + 1) * 9 // 10)
    for _ in range(500):
        limit = np.sort(rng.normal(size=validation))[below - 1]
        far = int((rng.normal(size=ENOUGH) > limit).sum())
        assert not finding(ENOUGH, far, validation=validation, planned=99).is_foreign
    assert finding(ENOUGH, ENOUGH, validation=validation, planned=99).is_foreign


def test_another_mix_of_patients_is_no_other_archive() -> None:
    """Three times as many far ones as expected are no chance, and yet no reason to withhold all."""
    found = finding(500, 150, validation=1500, planned=500)
    assert found.chance < LEVEL
    assert not found.is_foreign


def test_the_rows_are_the_same_in_whatever_order_shards_come_back() -> None:
    blocks = {0: shard([True] * 30), 1: shard([True] * 30), 2: shard([False] * 30), 3: shard([False] * 30)}
    for order in permutations(blocks):
        told: list[Any] = []
        gate = Gate([1, 0, 3, 2], dict.fromkeys(blocks, 31), {TASK: 300}, on_found=told.append)
        ends = given(gate, blocks, order)
        assert sorted(ends) == [0, 1, 2, 3]
        assert all(rows == ["abstained"] * 30 + ["filtered"] for rows in ends.values())
        assert [(one[TASK].judged, one[TASK].far) for one in told] == [(60, 60)]


def test_nothing_is_given_back_before_the_first_films_are_judged() -> None:
    gate = Gate([0, 1, 2], dict.fromkeys(range(3), 31), {TASK: 300})
    assert gate.take(1, shard([False] * 30)) == []
    assert gate.take(2, shard([False] * 30)) == []
    assert len(gate.take(0, shard([True] * 10 + [False] * 20))) == 3


def test_a_small_archive_is_judged_by_all_that_it_has() -> None:
    gate = Gate([0, 1], {0: 7, 1: 7}, {TASK: 300})
    assert gate.take(0, shard([True] * 6)) == []
    assert [table["reason"][0].as_py() for _, table in gate.take(1, shard([True] * 6))] == [
        ForeignArchiveError.reason
    ] * 2


def test_a_task_that_comes_up_seldom_does_not_hold_the_run_up() -> None:
    gate = Gate([0, 1, 2], {0: 400, 1: 400, 2: 400}, {TASK: 300, "knee-age": 300})
    assert gate.take(0, shard([False] * 399)) == []
    assert len(gate.take(1, shard([True] * 3, "knee-age"))) == 2
    assert gate.take(2, shard([True] * 3, "knee-age"))[0][1]["table"][0].as_py() == "samples"


def test_what_was_found_stands_when_the_run_goes_on() -> None:
    foreign = finding(ENOUGH, ENOUGH, validation=300, planned=60)
    known = findings_from_facts(facts_of({TASK: foreign}, is_accepted=False))
    assert known == {TASK: foreign}
    gate = Gate([5], {4: 30, 5: 31}, {TASK: 300}, known=known)
    assert given(gate, {5: shard([False] * 30)}, (5,))[5][0] == "abstained"
    few = Finding(judged=3, far=0, chance=1.0, is_foreign=False, planned=60)
    assert few.stands(60)
    assert not few.stands(61)


def test_an_accepted_archive_keeps_its_scores_and_a_bundle_without_checks_waits_for_nothing() -> None:
    accepted = Gate([0], {0: 61}, {TASK: 300}, is_accepted=True)
    assert given(accepted, {0: shard([True] * 60)}, (0,))[0][0] == "samples"
    unchecked = Gate([0, 1], {0: 61, 1: 61}, {})
    assert given(unchecked, {1: shard([None] * 60)}, (1,))[1][0] == "samples"


def test_rows_taken_from_earlier_folders_are_withheld_as_well_and_other_tasks_are_not() -> None:
    rows = pa.concat_tables([shard([True]), shard([True], "knee-age")])
    rows = rows.set_column(0, "table", pa.array(["reused", "quarantine", "samples", "filtered"]))
    assert withheld(rows, [TASK])["table"].to_pylist() == ["abstained", "quarantine", "samples", "filtered"]
    assert withheld(rows, []) is rows
    assert (ForeignArchiveError.reason,) == OF_A_RUN


def test_the_first_line_says_it() -> None:
    found = {TASK: finding(60, 58, validation=300, planned=900)}
    manifest: dict[str, Any] = {"archive": facts_of(found, is_accepted=False), "models": []}
    (said,) = caveats.of_scores(manifest)
    assert said.startswith(
        "This archive is not like the training images of the hand-age model: of its first 60"
    )
    assert "withheld" in said
    assert caveats.is_withheld(manifest)
    manifest["archive"]["accepted"] = True
    assert not caveats.is_withheld(manifest)
    assert "--accept-foreign" in caveats.of_scores(manifest)[0]
    assert caveats.of_scores({}) == []


@pytest.mark.parametrize(("scored", "abstained", "told"), [(40, 60, 1), (60, 40, 0), (4, 6, 0)])
def test_mostly_withheld_scores_are_said_as_well(scored: int, abstained: int, told: int) -> None:
    counts = {"tasks": {TASK: {"scored": scored, "abstained": abstained}}}
    assert len(caveats.of_scores({"counts": counts})) == told
