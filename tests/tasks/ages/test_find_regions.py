"""Boxes of a whole ingest folder from a network's attention; and the phantom's own carpal region."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from engine.datasets.phantom.hand import carpal_box, expose
from engine.datasets.phantom.visits import plan_hand as plan_visit
from engine.datasets.phantom.visits import true_carpals
from engine.errors import UsageError
from engine.imaging.boxes import read_boxes, whole_image, write_boxes
from engine.models.network import Network
from engine.store import ledger
from engine.store.files import read_json, write_json
from engine.tasks.ages.attention_boxes import RULES
from engine.tasks.ages.find_regions import find_boxes, found_shares, look
from tests.fixtures.training_fixture import BACKBONE, LABEL, SIZE, Made, net_facts, write_ingest

torch.set_num_threads(1)

COUNT = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = [Made(patient=f"p{n}", months=30.0 * n + 10) for n in range(COUNT)]
    return write_ingest(tmp_path_factory.mktemp("discs"), made, shard_size=3)


def net(num_views: int = 1) -> Network:
    torch.manual_seed(0)
    return Network(net_facts(backbone=BACKBONE, num_views=num_views))


def test_every_sample_has_every_region(folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    rows = list(find_boxes(net(), folder, "ab", lambda done, total: seen.append((done, total))))
    assert len(rows) == COUNT * len(RULES)
    assert seen[-1] == (COUNT, COUNT)
    assert set(found_shares(rows)) == set(RULES)
    whole = whole_image((SIZE, SIZE))
    for row in rows:
        assert whole.left <= row["left"] < row["right"] <= whole.right
        assert whole.top <= row["top"] < row["bottom"] <= whole.bottom
    write_boxes(tmp_path / "boxes.parquet", rows)
    assert len(read_boxes(tmp_path / "boxes.parquet", "hand")) == sum(
        row["ok"] for row in rows if row["region"] == "hand"
    )


def moved_hand(pixels: float) -> NDArray[np.uint8]:
    film_HW = expose(100.0, "F", np.random.default_rng(1), SIZE).stored_HW // 16
    image_HW = np.zeros((SIZE, SIZE), np.uint8)
    image_HW[:, : film_HW.shape[1]] = film_HW
    return np.roll(image_HW, round(pixels) - COUNT, axis=1)


def test_images_of_one_thing_share_their_regions(tmp_path: Path) -> None:
    """Each box moves as its hand moved; what attention a network of no training has is of no matter."""
    made = [Made(patient=f"p{n}", months=float(COUNT + n)) for n in range(COUNT)]
    folder = write_ingest(tmp_path, made, draw=moved_hand)
    shift_of = {}
    for path in ledger.tables_of(folder, "samples"):
        for row in pq.read_table(path, columns=["sop_instance_uid", LABEL]).to_pylist():
            shift_of[row["sop_instance_uid"]] = row[LABEL] - COUNT
    rows = [row for row in find_boxes(net(), folder, "ab", is_together=True) if row["region"] == "carpals"]
    assert all(row["ok"] for row in rows)
    at_N = np.array([row["left"] - shift_of[row["sop_instance_uid"]] for row in rows])
    assert np.ptp(at_N) < 1.0


def test_one_look_at_some_samples(folder: Path) -> None:
    uids = [looked.sop_instance_uid for looked in look(net(), folder)]
    (one,) = look(net(), folder, only=uids[2:3])
    assert one.sop_instance_uid == uids[2]
    assert one.image_HW.shape == one.view.network_HW == (SIZE, SIZE)
    assert np.isfinite(one.map_hw).all()


def test_where_the_carpals_are_erased_only_the_rest_is_looked_for(folder: Path) -> None:
    manifest = read_json(folder / "manifest.json")
    try:
        write_json(folder / "manifest.json", {**manifest, "crop": {"region": "carpals", "erase": True}})
        rows = list(find_boxes(net(), folder, "ab"))
    finally:
        write_json(folder / "manifest.json", manifest)
    assert {row["region"] for row in rows} == {"metacarpals"}


def test_boxes_come_from_one_view(folder: Path) -> None:
    with pytest.raises(UsageError, match="one view"):
        next(look(net(num_views=2), folder))


def test_the_carpals_of_a_phantom_are_where_it_is_drawn() -> None:
    """Grown carpals are the densest place of the wrist: their box is brighter than the picture."""
    for index in range(3):
        visit = plan_visit(4, index)
        state = np.random.default_rng(index)
        box = carpal_box(visit.bone_age_months, visit.sex, state, 128)
        film_HW = expose(visit.bone_age_months, visit.sex, np.random.default_rng(index), 128).stored_HW
        inner_HW = film_HW[round(box.top) : round(box.bottom), round(box.left) : round(box.right)]
        assert inner_HW.size > 0
        assert np.median(inner_HW) > np.median(film_HW)
        assert box.area < 0.1 * film_HW.size


def test_a_larger_archive_of_phantoms_begins_with_the_same_truth() -> None:
    few, more = (true_carpals(count=count, seed=3, size=96) for count in (2, 4))
    assert list(few.items()) == list(more.items())[:2]
