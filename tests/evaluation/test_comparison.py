"""Two runs on the same instances by hand-computed cases, and folds joined to one table."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import TableError
from engine.evaluation.comparison import Fold, aligned, compare, out_of_fold
from engine.evaluation.held_out import HeldOut, groups, read_held_out, write_held_out
from engine.tasks.ages.accuracy import accuracy

TRUTH = np.array([30.0, 90, 100, 150, 190, 200])


def held_out(errors: list[float], *, first: int = 0) -> HeldOut:
    num = len(errors)
    return HeldOut(
        uids_N=np.array([f"1.2.{first + i}" for i in range(num)]),
        patients_N=np.array([f"p{first + i}" for i in range(num)]),
        sexes_N=np.array(["F", "M", ""] * num)[:num],
        truth_N=TRUTH[:num].astype(np.float32),
        predicted_N=(TRUTH[:num] + errors).astype(np.float32),
        sd_N=np.full(num, 5, np.float32),
    )


def test_difference_and_gap_by_hand() -> None:
    student, alone, teacher = (held_out([e] * 6) for e in (7.0, 10.0, 5.0))
    facts = compare(student, alone, teacher)
    overall = facts["differences"][0]
    assert overall["difference"] == -3.0
    assert overall["interval"] == [-3.0, -3.0]
    assert (overall["mae_a"], overall["mae_b"]) == (7.0, 10.0)
    taught = facts["teacher"]
    assert taught["gap_months"] == 5.0
    assert taught["gap_closed"] == pytest.approx(0.6)
    assert taught["gap_closed_interval"] == pytest.approx([0.6, 0.6])
    assert taught["fidelity_a"]["mae_months"] == 2.0
    assert taught["fidelity_b"]["mae_months"] == 5.0
    assert taught["fidelity_difference"] == -3.0
    assert facts["between"]["mae_months"] == 3.0
    json.dumps(facts, allow_nan=False)


def test_a_teacher_that_is_no_better_leaves_no_gap_to_close() -> None:
    facts = compare(held_out([7.0] * 6), held_out([10.0] * 6), held_out([10.0] * 6))
    assert facts["teacher"]["gap_closed"] is None
    assert facts["teacher"]["gap_closed_interval"] is None


def test_groups_are_compared_and_adjusted_for() -> None:
    facts = compare(held_out([1, 1, 1, 1, 1, 9]), held_out([5, 5, 5, 5, 5, 5]))
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
    facts = compare(a, turned)
    assert (facts["instances"], facts["not_in_both"]) == (4, 2)
    assert facts["differences"][0]["difference"] == 0.0
    assert aligned([a, turned])[1].uids_N.tolist() == ["1.2.0", "1.2.1", "1.2.3", "1.2.5"]


def test_runs_that_cannot_be_compared_are_refused() -> None:
    a = held_out([1.0] * 6)
    with pytest.raises(TableError, match="no held-out instance"):
        compare(a, held_out([1.0] * 6, first=10))
    with pytest.raises(TableError, match="another truth"):
        compare(a, replace(a, truth_N=a.truth_N + 1))
    with pytest.raises(TableError, match="another truth or patient"):
        compare(a, replace(a, patients_N=np.array(["x"] * 6)))


def folds(count: int = 3) -> list[Fold]:
    return [
        Fold(fold=f, folds=count, data_sha256="d", held=held_out([float(f + 1)] * 4, first=10 * f))
        for f in range(count)
    ]


def test_folds_join_to_one_table() -> None:
    runs = folds()
    joined, fold_N, facts = out_of_fold(runs[::-1])
    assert len(joined.uids_N) == 12
    assert fold_N.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert facts["mae_months"] == pytest.approx(2.0)
    assert [row["mae_months"] for row in facts["by_fold"]] == [1.0, 2.0, 3.0]
    json.dumps(facts, allow_nan=False)


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "no fold"),
        (folds()[:2], "each of the folds"),
        ([*folds()[:2], replace(folds()[2], fold=1)], "each of the folds"),
        ([*folds()[:2], replace(folds()[2], data_sha256="e")], "no folds of one division"),
        ([*folds()[:2], replace(folds()[2], held=folds()[0].held)], "in two folds"),
    ],
)
def test_folds_that_do_not_belong_together_are_refused(runs: list[Fold], message: str) -> None:
    with pytest.raises(TableError, match=message):
        out_of_fold(runs)


def test_a_patient_in_two_folds_is_refused() -> None:
    runs = folds(2)
    same = replace(runs[1].held, patients_N=runs[0].held.patients_N)
    with pytest.raises(TableError, match="patient is in two folds"):
        out_of_fold([runs[0], replace(runs[1], held=same)])


def test_accuracy_by_hand() -> None:
    facts = accuracy(held_out([3.0, -9, 12, 30, 0, 6]))
    assert (facts["instances"], facts["patients"]) == (6, 6)
    assert facts["mae_months"] == 10.0
    assert facts["rmse_months"] == pytest.approx(math.sqrt((9 + 81 + 144 + 900 + 36) / 6))
    assert facts["within"] == pytest.approx({"6": 0.5, "12": 5 / 6, "24": 5 / 6})
    assert facts["bland_altman"]["bias"] == pytest.approx(7.0)
    assert 0.9 < facts["icc"] < 1
    groups_found = {row["group"]: row["mae_months"] for row in facts["subgroups"]}
    assert groups_found["female"] == pytest.approx(16.5)
    assert groups_found["5 to under 10 years"] == pytest.approx(10.5)
    json.dumps(facts, allow_nan=False)


def test_accuracy_of_one_instance_has_figures_without_intervals() -> None:
    facts = accuracy(held_out([4.0]))
    assert facts["mae_months"] == 4.0
    assert facts["mae_low"] is None
    assert facts["icc"] is None
    json.dumps(facts, allow_nan=False)


def test_the_table_comes_back_and_a_bad_one_is_refused(tmp_path: Path) -> None:
    held, path = held_out([1.0, 2, 3]), tmp_path / "held.parquet"
    write_held_out(held, path, fold=pa.array([0, 0, 1], pa.int32()))
    back = read_held_out(path)
    assert back.uids_N.tolist() == held.uids_N.tolist()
    assert back.errors_N.tolist() == [1.0, 2.0, 3.0]
    assert pq.read_table(path)["fold"].to_pylist() == [0, 0, 1]
    assert [name for name, _ in groups(back)][:2] == ["female", "male"]
    write_held_out(held.chosen(np.array([0, 0])), path)
    with pytest.raises(TableError, match="twice"):
        read_held_out(path)
    pq.write_table(pa.table({"sop_instance_uid": ["a"]}), path)
    with pytest.raises(TableError, match="cannot be read"):
        read_held_out(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(TableError, match="cannot be read"):
        read_held_out(path)
