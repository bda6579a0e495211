"""Several regions of the same instances as views of one sample: joined, packed, trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine import sources
from engine.errors import TableError, UsageError
from engine.imaging.boxes import Crop, write_boxes
from engine.ingest.join_views import join
from engine.ingest.samples_folder import data_facts
from engine.ingest.shard import ReadSpec, read_shard
from engine.store import ledger
from engine.store.files import read_json, sha256_of_facts
from engine.store.labels import Labels
from engine.store.schema import tensor_values
from engine.store.verification import verify
from engine.tasks.hand_age import HAND_AGE
from engine.training.checkpoint import new_state
from engine.training.dataset import open_training_set, pack_images
from engine.training.loop import World, epochs
from engine.training.recipe import model_of
from tests.fixtures.training_fixture import LABEL, LABELS, SIZE, Made, small_view, tiny_recipe, write_ingest

torch.set_num_threads(1)

COUNT, SHARD = 40, 16


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The whole images, the same cut to a box, and the two joined."""
    root = tmp_path_factory.mktemp("views")
    sides = ("train", "train", "train", "test")
    made = [Made(patient=f"p{n}", months=20.0 + 4 * n, split=sides[n % 4]) for n in range(COUNT)]
    whole = write_ingest(root, made, shard_size=SHARD)
    part = ingest_part(root, whole)
    joined = root / "joined"
    join([whole, part], joined)
    return whole, part, joined


def ingest_part(root: Path, whole: Path, *, drop: int = 0) -> Path:
    """The archive of ``whole`` again, cut to its middle, less ``drop`` labels."""
    tables = [ledger.read_table(path) for path in ledger.tables_of(whole, "samples")]
    rows = [row for table in tables for row in table.drop_columns(["image"]).to_pylist()]
    edges = {"left": 11.5, "top": 11.5, "right": 35.5, "bottom": 35.5}
    found = {"ok": True, "run_sha256": "0"}
    boxes = root / f"boxes-{drop}.parquet"
    write_boxes(
        boxes,
        [
            {"sop_instance_uid": row["sop_instance_uid"], "region": "carpals", **edges, **found}
            for row in rows
        ],
    )  # fmt: skip
    kept = rows[drop:]
    task, out = small_view(HAND_AGE), root / f"part-{drop}"
    spec = ReadSpec(
        source=str(root / "archive"), folder=out, rules=(task.rule,), salt=b"a salt for tests",
        label_names=(LABEL,),
        labels=Labels({row["sop_instance_uid"]: {LABEL: row[LABEL]} for row in kept}, {}),
        crop=Crop(path=boxes, region="carpals"), isolation=None,
    )  # fmt: skip
    plan = sources.plan(spec.source, SHARD)
    out.mkdir()
    facts = {"kind": "ingest", "config_sha256": sha256_of_facts(0), "task": task.facts()}
    ledger.begin(out, {**facts, "crop": {"region": "carpals", "erase": False}})
    ledger.write_plan(out, plan)
    for shard in ledger.missing_shards(out, plan):
        ledger.commit_shard(
            out, shard, read_shard([row for row in plan.to_pylist() if row["shard"] == shard], spec)
        )
    ledger.close(out, plan, {})
    return out


def images_of(folder: Path) -> np.ndarray:
    return np.concatenate(
        [tensor_values(ledger.read_table(path)["image"]) for path in ledger.tables_of(folder, "samples")]
    )


def test_a_joined_sample_shows_each_region(views: tuple[Path, Path, Path]) -> None:
    whole, part, joined = views
    both = images_of(joined)
    assert both.shape == (COUNT, 2, SIZE, SIZE)
    assert np.array_equal(both[:, 0], images_of(whole))
    assert np.array_equal(both[:, 1], images_of(part))
    assert not np.array_equal(both[:, 0], both[:, 1])


def test_the_books_of_a_joined_folder_are_in_order(views: tuple[Path, Path, Path]) -> None:
    whole, _, joined = views
    assert verify(joined) == verify(whole)
    assert join(list(views[:2]), joined) == verify(whole)  # again: nothing is left to do
    told = data_facts(joined)["views"]
    assert [view["crop"] for view in told] == [None, {"region": "carpals", "erase": False}]


@pytest.mark.parametrize("fusion", ["late", "channel_stack"])
def test_a_network_of_two_views_learns(views: tuple[Path, Path, Path], tmp_path: Path, fusion: str) -> None:
    recipe = tiny_recipe(fusion=fusion, epochs=2, batch_size=8)
    pack_images(views[2], tmp_path, LABELS)
    data = open_training_set(views[2], tmp_path, HAND_AGE)
    assert data.images_NVHW.shape == (COUNT, 2, SIZE, SIZE)
    model = model_of(recipe, HAND_AGE.covariates, 2)
    state = new_state(recipe, HAND_AGE.learning().network, model, (), torch.device("cpu"))
    before = state.trainee.net.classify.weight.clone()
    logs = list(epochs(recipe, HAND_AGE.learning(), data, state, world=World(), teacher=None))
    assert len(logs) == 2
    assert not torch.equal(before, state.trainee.net.classify.weight)


def test_what_does_not_belong_together_is_not_joined(views: tuple[Path, Path, Path], tmp_path: Path) -> None:
    whole, _, joined = views
    other = write_ingest(tmp_path, [Made(patient=f"q{n}", months=50.0) for n in range(5)], shard_size=SHARD)
    with pytest.raises(UsageError, match="another archive"):
        join([whole, other], tmp_path / "out")
    with pytest.raises(UsageError, match="two folders"):
        join([whole], tmp_path / "out")
    with pytest.raises(UsageError, match="joined again"):
        join([joined, joined], tmp_path / "out")
    lacking = ingest_part(whole.parent, whole, drop=2)
    with pytest.raises(TableError, match="lacks 2"):
        join([whole, lacking], tmp_path / "out")
    assert not read_json(tmp_path / "out" / "manifest.json")["complete"]


def test_regression_learns_too(views: tuple[Path, Path, Path], tmp_path: Path) -> None:
    recipe = tiny_recipe(epochs=1, batch_size=8, head="regression", objective={"kl": 0.0})
    pack_images(views[0], tmp_path, LABELS)
    data = open_training_set(views[0], tmp_path, HAND_AGE)
    model = model_of(recipe, HAND_AGE.covariates, 1)
    state = new_state(recipe, HAND_AGE.learning().network, model, (), torch.device("cpu"))
    (log,) = epochs(recipe, HAND_AGE.learning(), data, state, world=World(), teacher=None)
    assert np.isfinite(log["val/error"])
