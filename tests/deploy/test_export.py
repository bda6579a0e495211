"""The parity gate decides: a compiled graph that departs from torch leaves no bundle behind."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy

from engine.delivery.uids import result_uid
from engine.deploy.bundle import BUNDLE_NAME, open_bundle
from engine.deploy.export import export
from engine.deploy.parity import parity_samples
from engine.errors import ExportError, ParityError
from engine.ingest.covariates import SEX
from tests.fixtures.story import Story, osteoray

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]  # the story is told in the first test


def test_departing_graph_writes_nothing(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights change after the graph was written: torch and the engine then hold different students."""
    from engine.deploy import export as module

    run = tmp_path / "run"
    shutil.copytree(story.student, run)
    write = module.write_onnx

    def write_then_change(*parts: Any) -> None:
        write(*parts)
        weights = run / "model.safetensors"
        tensors = safetensors.numpy.load_file(weights)
        tensors["classify.bias"] = tensors["classify.bias"] + np.linspace(0, 1, 240, dtype=np.float32)
        safetensors.numpy.save_file(tensors, weights)

    monkeypatch.setattr(module, "write_onnx", write_then_change)
    samples = parity_samples(story.samples, 8, (SEX,))
    with pytest.raises(ParityError, match="no bundle was written"):
        export(run, tmp_path / "bundle", engine="onnxruntime", samples=samples, threads=1)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_bundle_is_never_overwritten(story: Story) -> None:
    samples = parity_samples(story.samples, 8, (SEX,))
    with pytest.raises(ExportError, match="not empty"):
        export(story.student, story.bundle, engine="auto", samples=samples, threads=1)


def test_a_run_that_is_exported_again_is_the_same_model(story: Story, tmp_path: Path) -> None:
    """So its results have the same UIDs, and an archive takes no second report."""
    again = tmp_path / "again"
    assert osteoray("export", story.student, "--out", again).code == 0
    first, second = open_bundle(story.bundle), open_bundle(again)
    assert (second.sha256, second.facts["sha256"]["student.onnx"]) == (
        first.sha256, first.facts["sha256"]["student.onnx"],
    )  # fmt: skip
    uids = [result_uid("1.2.3", bundle.sha256, bundle.task, "sr") for bundle in (first, second)]
    assert uids[0] == uids[1]
    assert str(story.root) not in (again / BUNDLE_NAME).read_text()


def test_graph_has_a_dynamic_batch_and_carries_its_weights(story: Story) -> None:
    graph = onnx.load(str(story.bundle / "student.onnx"), load_external_data=False).graph
    assert [value.name for value in graph.input] == ["image", "covariates"]
    assert [value.name for value in graph.output] == ["months", "sd_months", "attention", "embedding"]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert not any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer)
