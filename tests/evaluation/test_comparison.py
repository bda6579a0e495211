"""Two runs on the same instances by hand-computed cases, and folds joined to one table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import TableError
from engine.evaluation.comparison import aligned, compare
from engine.evaluation.held_out import HeldOut, by_sex, read_held_out, write_held_out
from engine.tasks.ages.accuracy import PREDICTED, SD, TRUTH, errors
from engine.tasks.ages.answer import AGE
from tests.fixtures import judged_fixture

AGES = np.array([30.0, 90, 100, 150, 190, 200])


def held_out(apart: list[float], *, first: int = 0) -> HeldOut:
    truth = AGES[: len(apart)]
    return judged_fixture.held_out(truth, truth + apart, np.full(len(apart), 5), first=first)


def test_difference_and_gap_by_hand() -> None:
    student, alone, teacher = (held_out([e] * 6) for e in (7.0, 10.0, 5.0))
    facts = compare(AGE, student, alone, teacher)
    overall = facts["differences"][0]
    assert overall["difference"] == -3.0
    assert overall["interval"] == [-3.0, -3.0]
    assert (overall["error_a"], overall["error_b"]) == (7.0, 10.0)
    taught = facts["teacher"]
    assert taught["gap"] == 5.0
    assert taught["gap_closed"] == pytest.approx(0.6)
    assert taught["gap_closed_interval"] == pytest.approx([0.6, 0.6])
    assert taught["fidelity"]["a"]["mean"] == 2.0
    assert taught["fidelity"]["b"]["mean"] == 5.0
    assert taught["fidelity"]["difference"] == -3.0
    assert facts["between"]["mean"] == 3.0
    json.dumps(facts, allow_nan=False)


def test_a_teacher_that_is_no_better_leaves_no_gap_to_close() -> None:
    facts = compare(AGE, held_out([7.0] * 6), held_out([10.0] * 6), held_out([10.0] * 6))
    assert facts["teacher"]["gap_closed"] is None
    assert facts["teacher"]["gap_closed_interval"] is None


def test_groups_are_compared_and_adjusted_for() -> None:
    facts = compare(AGE, held_out([1, 1, 1, 1, 1, 9]), held_out([5, 5, 5, 5, 5, 5]))
    rows = {row["group"]: row for row in facts["differences"]}
    assert rows["female"]["instances"] == 2
    assert rows["15 years and over"]["difference"] == pytest.approx(0.0)
    assert rows["5 to under 10 years"]["difference"] == pytest.approx(-4.0)
    assert rows["0 to under 5 years"]["p_value"] is None  # one patient
    assert all(row["p_holm"] is None or row["p_holm"] >= row["p_value"] for row in rows.values())
    assert facts["teacher"] is None


def test_instances_are_matched_by_uid_whatever_their_order() -> None:
    a, b = held_out([1, 2, 3, 4, 5, 6]), held_out([1, 2, 3, 4, 5, 6])
    turned = b.chosen(np.array([5, 3, 1, 0]))
    facts = compare(AGE, a, turned)
    assert (facts["instances"], facts["not_in_both"]) == (4, 2)
    assert facts["differences"][0]["difference"] == 0.0
    assert aligned([a, turned])[1].uids_N.tolist() == ["1.2.0", "1.2.1", "1.2.3", "1.2.5"]


def test_runs_that_cannot_be_compared_are_refused() -> None:
    a = held_out([1.0] * 6)
    with pytest.raises(TableError, match="no held-out instance"):
        compare(AGE, a, held_out([1.0] * 6, first=10))
    with pytest.raises(TableError, match="another truth"):
        compare(AGE, a, replace(a, truth={TRUTH: a.truth[TRUTH] + 1}))
    with pytest.raises(TableError, match="another truth or patient"):
        compare(AGE, a, replace(a, patients_N=np.array(["x"] * 6)))


def test_the_table_comes_back_and_a_bad_one_is_refused(tmp_path: Path) -> None:
    held, path = held_out([1.0, 2, 3]), tmp_path / "held.parquet"
    write_held_out(held, path)
    back = read_held_out(path)
    assert back.uids_N.tolist() == held.uids_N.tolist()
    assert errors(back).tolist() == [1.0, 2.0, 3.0]
    assert np.isnan(back.age_months_N).all()
    assert pq.read_table(path).column_names[3:] == ["age_months", "truth_bone_age_months", PREDICTED, SD]
    assert [name for name, _ in by_sex(back)] == ["female", "male"]
    write_held_out(held.chosen(np.array([0, 0])), path)
    with pytest.raises(TableError, match="twice"):
        read_held_out(path)
    pq.write_table(pa.table({"sop_instance_uid": ["a"]}), path)
    with pytest.raises(TableError, match="cannot be read"):
        read_held_out(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(TableError, match="cannot be read"):
        read_held_out(path)
