"""What holds for every task, whatever it answers: checks that take a Task. CONTRIBUTING promises them.

``test_tasks`` runs them over TASKS, and the unplanned task over itself. Legend: B batch, N samples, V views,
Q covariate columns, H, W view.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.delivery import sr
from engine.delivery.scored import Model, Scored
from engine.deploy.bundle import ATTENTION, EMBEDDING
from engine.deploy.parity import ParitySamples, require_parity
from engine.dicom.identity import identity
from engine.distillation.weighted_terms import Trainee
from engine.errors import ParityError
from engine.evaluation.answer import Facts, Grid, Plot, Raw, Text
from engine.evaluation.held_out import HeldOut
from engine.ingest.covariates import columns as covariate_columns
from engine.ingest.covariates import names_of, widths
from engine.ingest.instance import rule_from_facts
from engine.models.batch import Batch
from engine.models.network import ModelFacts, Network, Outputs, frozen
from engine.tasks.task import Task
from engine.training.learning import Truth, Weights
from tests.fixtures.outside import complaints
from tests.fixtures.results_fixture import archive
from tests.fixtures.training_fixture import BACKBONE

COUNT, SIDE = 24, 48
RESERVED = {"sop_instance_uid", "patient_key", "path", "task", "model_sha256", "code_version"}


def values_of(task: Task) -> list[dict[str, Any]]:
    """Header and table columns of some samples, the last of them with nothing known."""
    rng = np.random.default_rng(5)
    rows: list[dict[str, Any]] = [{} for _ in range(COUNT)]
    for row in rows[:-1]:
        for covariate in task.covariates:
            low, high = covariate.low or 0.0, covariate.high or 100.0
            value = rng.choice(["M", "F"]) if covariate.column == "patient_sex" else rng.uniform(low, high)
            row[covariate.column] = value
    return rows


def truth_of(task: Task) -> dict[str, NDArray[np.float32]]:
    """Label columns: a number grows with the sample, classes go round, points and boxes lie on the view."""
    place_N = np.arange(COUNT, dtype=np.float32)
    truth: dict[str, NDArray[np.float32]] = {}
    for label in task.labels:
        given = {
            "number": [5.0 + 9.0 * place_N], "class": [place_N % 3], "point": [place_N % SIDE] * 2,
            "box": [0 * place_N + edge for edge in (4.0, 6.0, 40.0, 38.0)],
        }[label.kind]  # fmt: skip
        truth |= dict(zip(label.columns, (part.astype(np.float32) for part in given), strict=True))
    return truth


def images() -> NDArray[np.uint8]:
    """Two views of noise whose brightness grows with the sample."""
    rng = np.random.default_rng(7)
    noise = rng.integers(0, 100, (COUNT, 2, SIDE, SIDE)) + 6 * np.arange(COUNT)[:, None, None, None]
    return noise.astype(np.uint8)


def net_of(task: Task, *, num_views: int = 1, seed: int = 0) -> Network:
    """A network of the task, all of its weights random; several views are its input channels."""
    torch.manual_seed(seed)
    given = task.covariates
    facts = ModelFacts(
        backbone=BACKBONE,
        covariates=names_of(given),
        covariate_columns=widths(given),
        num_views=num_views,
        fusion="channel_stack",
    )
    net = task.learning().network(facts)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net.eval()


def targets_of(task: Task) -> Truth:
    truth = truth_of(task)
    found = task.learning().targets(truth, np.zeros(COUNT, bool), "truth")
    assert found.is_labelled_N.all()
    return found.columns


def batch_of(task: Task, *, num_views: int = 1) -> Batch:
    return Batch(
        torch.from_numpy(images()[:, :num_views]).float() / 255,
        torch.from_numpy(covariate_columns(values_of(task), task.covariates)),
        {name: torch.from_numpy(values) for name, values in targets_of(task).items()},
    )


def weights_of(task: Task, **terms: float) -> Weights:
    parameters = task.learning().parameters
    return Weights(task={name: one.default for name, one in parameters.items()}, terms=terms)


def held_out_of(task: Task, net: Network) -> tuple[HeldOut, Facts, Raw]:
    """What an evaluation makes of a network: held-out predictions, the calibration, the graph's outputs."""
    learning, batch = task.learning(), batch_of(task)
    with torch.inference_mode():
        kept = {name: part.numpy() for name, part in learning.kept(net(*inputs_of(batch))).items()}
    header = {
        "uids_N": np.array([f"1.2.{number}" for number in range(COUNT)]),
        "patients_N": np.array([f"{number // 2:032x}" for number in range(COUNT)]),
        "sexes_N": np.array(["M", "F", "F"] * (COUNT // 3)), "age_months_N": np.full(COUNT, 99, np.float32),
    }  # fmt: skip
    truth = {**truth_of(task), **targets_of(task)}
    truth = {name: truth[name] for name in task.label_columns}
    calibration = learning.calibrate(HeldOut(**header, truth=truth, predicted={}, raw=kept))
    raw = learning.graph_outputs(kept, calibration)
    said = {
        name: np.array(values) for name, values in task.answer.rows(raw, values_of(task), calibration).items()
    }
    return HeldOut(**header, truth=truth, predicted=said, raw=kept), calibration, raw


def inputs_of(batch: Batch) -> tuple[Tensor, Tensor]:
    return batch.x_BVHW, batch.covariates_BQ


def facts_survive_json_and_give_the_rule_back(task: Task) -> None:
    facts = json.loads(json.dumps(task.facts()))
    assert facts["name"] == task.name
    assert facts["labels"] == [label.facts() for label in task.labels]
    assert facts["covariates"] == list(names_of(task.covariates))
    assert rule_from_facts(facts["rule"]) == task.rule


def labels_have_columns_of_their_own_and_one_is_required(task: Task) -> None:
    columns = task.label_columns
    assert len(set(columns)) == len(columns) > 0
    assert all(column.isidentifier() for column in columns)
    assert any(label.required for label in task.labels)


def covariates_have_one_width_whether_known_or_missing(task: Task) -> None:
    *known, missing = values_of(task)
    for covariate in task.covariates:
        assert len(covariate.encode(missing.get(covariate.column))) == covariate.width > 0
        assert {len(covariate.encode(row[covariate.column])) for row in known} == {covariate.width}


def an_answer_names_columns_that_are_free_and_that_it_reads(task: Task) -> None:
    names = [column.name for column in task.answer.columns]
    assert len(set(names)) == len(names)
    assert not set(names) & RESERVED
    assert task.answer.doubt in names
    assert task.answer.value is None or task.answer.value in names
    assert not set(task.answer.outputs) & {ATTENTION, EMBEDDING}


def rows_are_exactly_the_columns_in_their_types(task: Task) -> None:
    _, calibration, raw = held_out_of(task, net_of(task))
    rows = task.answer.rows(raw, values_of(task), calibration)
    assert list(rows) == [column.name for column in task.answer.columns]
    for column in task.answer.columns:
        made = pa.array(list(rows[column.name]), column.type)
        assert len(made) == COUNT
        assert column.nullable or made.null_count == 0


def a_row_is_the_same_in_every_batch(task: Task) -> None:
    """A service scores one instance, a night many: both must give the same number, to the bit."""
    _, calibration, raw = held_out_of(task, net_of(task))
    samples = values_of(task)
    together = task.answer.rows(raw, samples, calibration)
    for place in range(COUNT):
        one = {name: values[place : place + 1] for name, values in raw.items()}
        alone = task.answer.rows(one, samples[place : place + 1], calibration)
        for column in task.answer.columns:
            given = (together[column.name][place], alone[column.name][0])
            assert np.array_equal(*given) or given == (None, None), column.name


def the_graph_gives_what_an_evaluation_kept(task: Task) -> None:
    net = net_of(task)
    _, calibration, raw = held_out_of(task, net)
    graph = task.learning().deployed(net, calibration).eval()
    with torch.inference_mode():
        given = graph(*inputs_of(batch_of(task)))
    names = (
        *task.answer.outputs,
        *([ATTENTION] if len(given) == len(task.answer.outputs) + 2 else []),
        EMBEDDING,
    )
    found = dict(zip(names, given, strict=True))
    assert set(raw) == set(task.answer.outputs)
    for name in task.answer.outputs:
        np.testing.assert_allclose(found[name].numpy(), raw[name], rtol=1e-4, atol=1e-4)
    if ATTENTION in found:
        assert 0 <= found[ATTENTION].min() <= found[ATTENTION].max() <= 1
    assert found[EMBEDDING].ndim == 2


def the_loss_falls_and_only_the_student_learns(task: Task) -> None:
    learning, batch = task.learning(), batch_of(task)
    teacher = frozen(net_of(task, seed=1))
    student = Trainee(net_of(task, seed=2), teacher.channels).train()
    before = copy.deepcopy(teacher.state_dict())
    started = copy.deepcopy(student.net.state_dict())
    optimiser = torch.optim.AdamW(student.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        shown = learning.teacher_view(batch)
        with torch.no_grad():
            taught: Outputs = teacher(*inputs_of(shown))
        parts = learning.objective(
            student(*inputs_of(batch)), taught, batch, weights_of(task, kd=0.1, hint=0.1)
        )
        assert all(math.isfinite(part.item()) for part in parts.values())
        assert {"loss", "task", "term/kd/raw", "term/hint/weighted"} <= set(parts)
        losses.append(parts["loss"].item())
        optimiser.zero_grad()
        torch.autograd.backward(parts["loss"])
        optimiser.step()
    assert np.mean(losses[-3:]) < 0.8 * losses[0]
    moved = {name for name, value in student.net.state_dict().items() if not value.equal(started[name])}
    assert {name for name, _ in student.net.named_parameters()} <= moved
    assert all(value.equal(before[name]) for name, value in teacher.state_dict().items())


def without_a_teacher_the_task_alone_is_minimised(task: Task) -> None:
    batch = batch_of(task)
    student = net_of(task)(*inputs_of(batch))
    parts = task.learning().objective(student, None, batch, weights_of(task, kd=1.0))
    assert parts["loss"].item() == parts["task"].item()
    assert not any(name.startswith("term/") for name in parts)


class _Planted(nn.Module):
    """A graph that was given its inputs wrongly."""

    def __init__(self, graph: nn.Module, way: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.graph, self.way = graph, way

    def forward(self, image: Tensor, covariates: Tensor) -> Any:
        return self.graph(*self.way(image, covariates))


class _Predictor:
    """A graph behind the interface of the engines."""

    def __init__(self, graph: nn.Module, names: tuple[str, ...]) -> None:
        self.graph, self.names = graph, names

    def predict(self, images_BVHW: NDArray[np.uint8], covariates_BQ: NDArray[np.float32]) -> Raw:
        with torch.inference_mode():
            outputs = self.graph(torch.from_numpy(images_BVHW).float() / 255, torch.from_numpy(covariates_BQ))
        return {name: part.numpy() for name, part in zip(self.names, outputs, strict=False)}


FAULTS: Mapping[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "views swapped": lambda image, covariates: (image.flip(1), covariates),
    "not normalised": lambda image, covariates: (image * 255, covariates),
    "covariates swapped": lambda image, covariates: (image, covariates.roll(1, 0).flip(1)),
}


def the_gates_let_the_true_graph_through_and_no_faulty_one(task: Task) -> None:
    _, calibration, _ = held_out_of(task, net_of(task))
    graph = task.learning().deployed(net_of(task, num_views=2), calibration).eval()
    samples = ParitySamples(
        images_BVHW=images(),
        covariates_BQ=covariate_columns(values_of(task), task.covariates),
        labels={name: values.astype(np.float64) for name, values in truth_of(task).items()},
    )
    true = _Predictor(graph, task.answer.outputs)
    facts = require_parity(true, true, samples, task.answer.gates)
    assert all(one["departure"] <= one["limit"] for one in facts.values())
    assert len(facts) == len(task.answer.gates) > 0
    for name, way in FAULTS.items():
        if "covariates" in name and not task.covariates:
            continue
        faulty = _Predictor(_Planted(graph, way), task.answer.outputs)
        with pytest.raises(ParityError, match="no bundle was written"):
            require_parity(true, faulty, samples, task.answer.gates)


def an_evaluation_has_a_headline_errors_and_blocks(task: Task) -> None:
    held, calibration, _ = held_out_of(task, net_of(task))
    json.dumps(dict(calibration), allow_nan=False)
    assert calibration["instances"] == COUNT
    assert calibration["max_doubt"] is None or math.isfinite(calibration["max_doubt"])
    assert len(calibration["validation_value"]) == len(calibration["validation_doubt"]) == 11
    errors_N = task.answer.error(held)
    assert errors_N.shape == (COUNT,)
    assert (errors_N >= 0).all()
    kept_error = task.learning().error(held.raw, targets_of(task))
    assert kept_error.shape == (COUNT,)
    figures = task.answer.figures(held, calibration)
    assert figures.headline.value is not None
    assert math.isfinite(figures.headline.value)
    keys = [figure.key for figure in (figures.headline, *figures.more)]
    assert len(set(keys)) == len(keys)
    assert all(isinstance(block, Text | Grid | Plot) for block in task.answer.blocks(held, calibration))


def a_row_has_measurements_that_make_a_valid_sr(task: Task, tmp_path: Path) -> None:
    held, _, _ = held_out_of(task, net_of(task))
    row = {name: values[0].item() for name, values in held.predicted.items()}
    measured = task.answer.measurements(row)
    assert measured
    sentence = task.answer.sentence(row)
    assert sentence
    assert len(sentence.splitlines()) == 1
    model = Model(
        sha256="ab" * 32, task=task, name="osteoray net", version="0.1.0+0123456789ab",
        scored_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )  # fmt: skip
    scored = Scored({"sop_instance_uid": "1.2.1.1.1", "patient_key": "k", **row}, model)
    report = sr.report(scored, identity(archive(1)["1.dcm"]))
    assert complaints(["dciodvfy"], report, tmp_path / "sr.dcm") == []


CHECKS: tuple[Callable[[Task], None], ...] = (
    facts_survive_json_and_give_the_rule_back,
    labels_have_columns_of_their_own_and_one_is_required,
    covariates_have_one_width_whether_known_or_missing,
    an_answer_names_columns_that_are_free_and_that_it_reads,
    rows_are_exactly_the_columns_in_their_types,
    a_row_is_the_same_in_every_batch,
    the_graph_gives_what_an_evaluation_kept,
    the_loss_falls_and_only_the_student_learns,
    without_a_teacher_the_task_alone_is_minimised,
    the_gates_let_the_true_graph_through_and_no_faulty_one,
    an_evaluation_has_a_headline_errors_and_blocks,
)
"""All but the last, which needs a folder."""
