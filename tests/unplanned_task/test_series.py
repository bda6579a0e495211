"""The verbs with a task of series: ingest, score, verify, report; and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from engine.deploy.bundle import BUNDLE_NAME, FORMAT, SEALED, WEIGHTS_NAME, sealed
from engine.models.network import save_weights
from engine.store import ledger
from engine.store.files import sha256_of_file, write_json
from engine.store.schema import tensor_values
from engine.training.recipe import model_of
from tests.fixtures.report_fixture import Page
from tests.fixtures.series_fixture import LONG, SHORT, SPINE, write_series
from tests.fixtures.story import osteoray
from tests.unplanned_task.learning import LEARNING
from tests.unplanned_task.recipes import wear_student
from tests.unplanned_task.series import SLICES, SPINE_WEAR

ENDS = {"filtered": 5, "quarantined": 2, "grouped": 10}


def tiny_bundle(folder: Path) -> Path:
    """A bundle of random weights for torch."""
    torch.manual_seed(1)
    model = model_of(wear_student(), SPINE_WEAR.covariates, SLICES)
    folder.mkdir()
    for name in SEALED:
        (folder / name).write_bytes(b"-")
    save_weights(LEARNING.network(model), folder / WEIGHTS_NAME)
    facts = {
        "task": SPINE_WEAR.facts(), "model": model.facts(), "engine": "torch", "backbone": model.backbone,
        "outputs": {"probabilities": [4], "attention": [2, 3 * SLICES], "embedding": [64]},
        "format": FORMAT, "calibration": {"temperature": 1.0, "max_doubt": 9.0}, "checks": None,
        "evaluation": {},
        "sha256": {name: sha256_of_file(folder / name) for name in SEALED},
    }  # fmt: skip
    write_json(folder / BUNDLE_NAME, sealed(facts))
    return folder


def test_requests_of_one_file_or_of_some_are_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    (tmp_path / "in").mkdir()
    ended = osteoray(
        "score", tmp_path / "in", "--model", bundle, "--out", tmp_path / "s", "--reuse", tmp_path
    )
    assert ended.code == 2
    assert "--reuse takes files one by one" in ended.facts["message"]
    ended = osteoray(
        "ingest", tmp_path / "in", "--task", "spine-wear", "--out", tmp_path / "s", "--incremental"
    )
    assert ended.code == 2
    assert "--incremental takes files one by one" in ended.facts["message"]


def test_one_file_is_no_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from jobs.__main__ import main

    with pytest.raises(SystemExit) as end:
        main(["serve", "--model", str(tiny_bundle(tmp_path / "bundle"))])
    assert end.value.code == 2
    assert "takes whole series" in "".join(capsys.readouterr())


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_an_archive_of_series_is_scored(ray_session: None, tmp_path: Path) -> None:
    expected = write_series(tmp_path / "in")
    bundle, out = tiny_bundle(tmp_path / "bundle"), tmp_path / "scores"
    ended = osteoray("score", tmp_path / "in", "--model", bundle, "--out", out, "--shard-size", 4, "--report")
    assert ended.code == 3
    counts = {name: ended.facts[name] for name in ("planned", "scored", "abstained", *ENDS)}
    assert {name: counts[name] for name in ENDS} == ENDS
    assert counts["scored"] + counts["abstained"] == 2
    assert counts["planned"] == len(expected) == sum(counts.values()) - counts["planned"]
    checked = osteoray("verify", out)
    assert checked.code == 0
    names = [*ledger.tables_of(out, "predictions"), *ledger.tables_of(out, "abstained")]
    ends = [row["path"] for path in names for row in ledger.read_table(path).to_pylist()]
    assert sorted(ends) == ["0.dcm", "6a.dcm"]
    grouped = [
        row for path in ledger.tables_of(out, "grouped") for row in ledger.read_table(path).to_pylist()
    ]
    assert {row["series_instance_uid"] for row in grouped} == {LONG, SHORT}
    page = (out / "report.html").read_text()
    assert "They add up." in page
    assert "grouped (10 slices of series)" in page
    assert ["Tables", "19", str(counts["scored"]), "5", str(counts["abstained"]), "2", "10", "0"] in Page(
        page
    ).rows
    again = osteoray("score", tmp_path / "in", "--model", bundle, "--out", out, "--shard-size", 4)
    assert {name: again.facts[name] for name in counts} == counts
    looked = osteoray("score", tmp_path / "in", "--model", bundle, "--dry-run", "--shard-size", 4)
    assert looked.facts["shards"] == ledger.read_plan(out)["shard"][-1].as_py() + 1


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.skipif(not SPINE.exists(), reason="the folder shared/data is not beside the checkout")
def test_a_real_series_becomes_one_sample(ray_session: None, tmp_path: Path) -> None:
    out = tmp_path / "samples"
    ended = osteoray("ingest", SPINE, "--task", "spine-wear", "--out", out, "--shard-size", 8)
    assert ended.code == 0
    counts = {
        name: ended.facts[name] for name in ("planned", "samples", "filtered", "quarantined", "grouped")
    }
    assert counts == {"planned": 40, "samples": 1, "filtered": 0, "quarantined": 0, "grouped": 39}
    assert osteoray("verify", out).code == 0
    (path,) = ledger.tables_of(out, "samples")
    table = ledger.read_table(path)
    places = {
        name.name: float(pydicom.dcmread(name, stop_before_pixels=True).ImagePositionPatient[2])
        for name in SPINE.iterdir()
    }
    by_height = sorted(places, key=lambda name: places[name])
    assert table["path"].to_pylist() == by_height[:1]
    assert places[by_height[0]] == pytest.approx(-679.8)
    images_VHW = tensor_values(table["image"])[0]
    assert images_VHW.shape == (SLICES, 64, 96)
    for seen_HW, n in zip(images_VHW, (0, 13, 26, 39), strict=True):
        data_set = pydicom.dcmread(SPINE / by_height[n])
        hu_HW = data_set.pixel_array * float(data_set.RescaleSlope) + float(data_set.RescaleIntercept)
        shown_HW = (hu_HW.clip(-200, 600) + 200) / 800 * 255
        # 512 x 512 lies as 64 x 64 in the middle of 64 x 96: an eighth of the size
        blocks_HW = shown_HW.reshape(64, 8, 64, 8).mean((1, 3))
        assert np.abs(seen_HW[:, 16:80] - blocks_HW).mean() < 3
        assert np.corrcoef(seen_HW[:, 16:80].ravel(), blocks_HW.ravel())[0, 1] > 0.99
