"""The head phantom: the gap closes from the inside, the box holds it, readers differ, splits are as said."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from engine.datasets.phantom.archive import write_archive
from engine.datasets.phantom.hand import draw_bones
from engine.datasets.phantom.head import _open, _pose, build_head, expose_head, stage_of
from engine.datasets.phantom.heads import HEADS, plan_head, split_of_visit

SIZE = 256


@pytest.mark.parametrize(
    ("fused", "stage"),
    [
        (0.0, 0),
        (0.049, 0),
        (0.05, 1),
        (0.34, 1),
        (0.35, 2),
        (0.65, 3),
        (0.94, 3),
        (0.95, 4),
        (1.0, 4),
        (-0.1, 0),
    ],
)
def test_stages_begin_at_their_edges(fused: float, stage: int) -> None:
    assert stage_of(fused) == stage


def test_the_same_seed_gives_the_same_pixels_and_the_gap_alone_differs_by_its_fused_part() -> None:
    one, again = (expose_head(0.4, np.random.default_rng(5), SIZE) for _ in "ab")
    assert np.array_equal(one.film.stored_HW, again.film.stored_HW)
    other = expose_head(1.0, np.random.default_rng(5), SIZE)
    assert other.box == one.box
    apart_HW = np.abs(one.film.stored_HW.astype(int) - other.film.stored_HW)
    box = one.box
    inside = (slice(int(box.top), int(box.bottom) + 1), slice(int(box.left), int(box.right) + 1))
    assert apart_HW[inside].max() > 40
    apart_HW[inside] = 0
    assert apart_HW.max() == 0


def test_the_gap_closes_from_the_inside_of_the_skull() -> None:
    """The more is fused, the less bone is taken away; what stays open is the part next to the throat."""
    for seed in range(6):
        taken = []
        for fused in (0.0, 0.3, 0.6, 0.9, 1.0):
            rng = np.random.default_rng(seed)
            pixels_per_mm, pose = _pose(rng, SIZE)
            head = build_head(fused, rng, gap_mm=0.075 * SIZE / pixels_per_mm)
            whole_HW = draw_bones(head.bones, pose)
            open_HW = whole_HW.copy()
            _open(open_HW, head.gaps[0], pose)
            taken.append(float(np.maximum(whole_HW - open_HW, 0).sum()))
            if 0 < fused < 1:
                rows, columns = np.nonzero(whole_HW - open_HW > 0.1)
                middle = np.array([columns.mean(), rows.mean()])
                start, end = pose.place(np.stack([head.gaps[0].start, head.gaps[0].end]))
                assert np.linalg.norm(middle - end) < np.linalg.norm(middle - start)
        assert taken == sorted(taken, reverse=True)
        assert taken[-1] == 0


def test_decoys_are_as_many_and_say_nothing_of_the_stage() -> None:
    counts, fused, decoy = [], [], []
    for index in range(400):
        rng = np.random.default_rng(index)
        own = float(np.random.default_rng([7, index]).uniform())
        gaps = build_head(own, rng, gap_mm=16.0).gaps
        counts.append(len(gaps) - 1)
        fused += [own] * (len(gaps) - 1)
        decoy += [gap.fused for gap in gaps[1:]]
    assert set(counts) == {3, 4, 5, 6}
    assert abs(np.corrcoef(fused, decoy)[0, 1]) < 0.1


def test_two_readers_agree_as_readers_do_and_splits_are_as_promised() -> None:
    visits = [plan_head(0, index) for index in range(1300)]
    assert Counter(split_of_visit(visit) for visit in visits) == {"train": 400, "val": 100, "test": 800}
    one_N, two_N = (np.array([visit.readers[reader] for visit in visits]) for reader in (0, 1))
    table = np.zeros((5, 5))
    np.add.at(table, (one_N, two_N), 1)
    apart = np.subtract.outer(np.arange(5), np.arange(5)) ** 2
    expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
    kappa = 1 - (apart * table).sum() / (apart * expected).sum()
    assert 0.75 < kappa < 0.92


def test_an_archive_of_heads_has_a_stage_and_a_box_for_each_film(tmp_path: Path) -> None:
    counts = write_archive(HEADS, tmp_path / "a", count=13, size=96, syntax="explicit")
    assert (counts["instances"], counts["train"], counts["test"]) == (13, 4, 8)
    with (tmp_path / "a" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["sop_instance_uid"] for row in rows}) == 13
    for row in rows:
        assert row["sos_stage"] in "01234"
        assert float(row["sos_left"]) < float(row["sos_right"])
        if row["split"] == "test":
            assert row["sos_stage"] == row["exact_stage"]
