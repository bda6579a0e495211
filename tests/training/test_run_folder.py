"""What a run says of itself holds from any folder that a later verb is called in."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.ingest.samples_folder import manifest_of
from engine.models.network import Network, save_weights
from engine.store.files import write_json
from engine.training.run_folder import RUN_NAME, WEIGHTS_NAME
from jobs.train import _facts
from tests.fixtures.training_fixture import BACKBONE, Made, net_facts, tiny_recipe, write_ingest


def test_samples_and_teacher_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`train` names them from the folder that it is called in; `export` is called in another one."""
    data = write_ingest(tmp_path / "discs", [Made(patient="P1", months=50.0, split="train")], shard_size=20)
    teacher, net = tmp_path / "teacher", net_facts(backbone=BACKBONE)
    teacher.mkdir()
    save_weights(Network(net), teacher / WEIGHTS_NAME)
    write_json(teacher / RUN_NAME, {"status": "done", "task": "hand-age", "model": net.facts()})
    monkeypatch.chdir(tmp_path)
    facts = _facts(tiny_recipe(), data.relative_to(tmp_path), Path("run"), Path("teacher"))
    monkeypatch.chdir("/")
    assert manifest_of(Path(facts["data"]["folder"]))["complete"]
    assert Path(facts["teacher"]["run"]) == teacher.resolve()
