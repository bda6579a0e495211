"""The training loop on a made set, without Ray: it learns, resumes bit for bit, refuses to go astray."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from engine.distillation.terms import TERMS
from engine.errors import TrainingError
from engine.imaging.augment import Augmentation
from engine.models.batch import Batch
from engine.models.network import Network, Outputs, frozen, load_model, save_weights
from engine.tasks import task_named
from engine.training.checkpoint import State, load_state, new_state, save_state
from engine.training.dataset import TrainingSet
from engine.training.forward import outputs
from engine.training.learning import Weights
from engine.training.loop import Log, Teacher, World, epochs, learning_rate, validation_errors
from engine.training.recipe import Recipe, changed
from engine.training.run_folder import append_metrics, epochs_logged, forget_after, read_metrics, read_run
from tests.fixtures.training_fixture import BACKBONE, LABEL, disc_set, net_facts, predicted, tiny_recipe

torch.set_num_threads(1)

LEARNING = task_named("hand-age").learning()
CPU = torch.device("cpu")
GENTLE = Augmentation(rotation_deg=10, scale=0, shift=0.02, gamma=0.1, contrast=0.1)
ALL_TERMS = {name: 0.2 if name == "kd" else 1.0 for name in TERMS}


@pytest.fixture(scope="module")
def discs() -> TrainingSet:
    return disc_set(120)


def teacher_net() -> Teacher:
    torch.manual_seed(9)
    return Teacher(net=frozen(Network(net_facts(backbone=BACKBONE))), precision="f32")


def started(recipe: Recipe, teacher: Teacher | None = None) -> State:
    model = net_facts(backbone=recipe.network.backbone)
    return new_state(recipe, LEARNING.network, model, teacher.net.channels if teacher else (), CPU)


def trained(recipe: Recipe, data: TrainingSet, state: State, teacher: Teacher | None = None) -> list[Log]:
    return list(epochs(recipe, LEARNING, data, state, world=World(), teacher=teacher))


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def assert_same(first: nn.Module, second: nn.Module) -> None:
    theirs = second.state_dict()
    assert [name for name, value in first.state_dict().items() if not torch.equal(value, theirs[name])] == []


@pytest.mark.slow
def test_training_learns_the_radius_of_a_disc(discs: TrainingSet) -> None:
    recipe = tiny_recipe(epochs=12, learning_rate=3e-3, ema_decay=0.9, augmentation=GENTLE)
    state = started(recipe)
    before = weights(state.trainee)
    logs = trained(recipe, discs, state)
    assert [log["epoch"] for log in logs] == list(range(1, 13))
    assert logs[-1]["step"] == state.step == 12 * (84 // 16)
    assert logs[-1]["train/loss"] < 0.5 * logs[0]["train/loss"]
    test = discs.index_of("test")
    guess = np.abs(discs.truth[LABEL][test] - discs.truth[LABEL][discs.index_of("train")].mean()).mean()
    months_B, sd_B = predicted(state.ema, discs, test)
    assert np.abs(months_B - discs.truth[LABEL][test]).mean() < 0.5 * guess
    assert (sd_B > 0).all()
    still = [name for name, value in state.trainee.named_parameters() if torch.equal(before[name], value)]
    assert still == []


def test_a_student_follows_a_teacher_that_does_not_move(discs: TrainingSet, tmp_path: Path) -> None:
    teacher = teacher_net()
    before = weights(teacher.net)
    recipe = tiny_recipe(role="student", epochs=1, distill=ALL_TERMS, augmentation=GENTLE)
    state = started(recipe, teacher)
    (log,) = trained(recipe, discs, state, teacher)
    assert not teacher.net.training
    assert all(torch.equal(before[name], value) for name, value in teacher.net.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.net.parameters())
    weighted = sum(log[f"term/{name}/weighted"] for name in ALL_TERMS)
    assert log["term/kd/weighted"] == pytest.approx(0.2 * log["term/kd/raw"])
    assert log["train/distill"] == pytest.approx(weighted, rel=1e-4)
    assert log["train/loss"] == pytest.approx(log["train/task"] + weighted, rel=1e-4)
    # The adapters learn, are kept in the checkpoint, and are no part of the network that is deployed.
    for parameter in state.trainee.adapters.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0
    save_state(state, tmp_path)
    save_weights(state.ema, tmp_path / "model.safetensors")
    kept = safetensors.torch.load_file(tmp_path / "trainee.safetensors")
    assert any(name.startswith("adapters.") for name in kept)
    assert not any("adapter" in name for name in safetensors.torch.load_file(tmp_path / "model.safetensors"))
    assert_same(
        load_model(Network, net_facts(backbone=BACKBONE).facts(), tmp_path / "model.safetensors"), state.ema
    )


def test_distillation_pulls_the_student_towards_its_teacher(discs: TrainingSet) -> None:
    teacher, logs = teacher_net(), {}
    for name, distill in {"alone": {}, "taught": {"bin_kl": 20.0}}.items():
        recipe = tiny_recipe(role="student", epochs=2, distill=distill, ema_decay=0.5, augmentation=GENTLE)
        state = started(recipe, teacher)
        trained(recipe, discs, state, teacher)
        test = discs.index_of("test")
        gap = predicted(state.ema, discs, test)[0] - predicted(teacher.net, discs, test)[0]
        logs[name] = float(np.abs(gap).mean())
    assert logs["taught"] < logs["alone"]


@pytest.mark.parametrize("distill", [{}, ALL_TERMS], ids=["teacher", "student"])
@pytest.mark.parametrize("backbone", [BACKBONE, "mobilenetv3_small_100"])
def test_a_resumed_run_ends_bit_for_bit_as_one_that_was_not_stopped(
    discs: TrainingSet, tmp_path: Path, distill: dict[str, float], backbone: str
) -> None:
    recipe = tiny_recipe(epochs=3, distill=distill, augmentation=GENTLE, backbone=backbone)
    teacher = teacher_net() if distill else None
    whole = started(recipe, teacher)
    whole_logs = trained(recipe, discs, whole, teacher)

    stopped = started(recipe, teacher)
    next(epochs(recipe, LEARNING, discs, stopped, world=World(), teacher=teacher))
    save_state(stopped, tmp_path)
    torch.manual_seed(77)  # whatever the next process drew before
    resumed = started(recipe, teacher)
    load_state(resumed, tmp_path)
    assert (resumed.epoch, resumed.step) == (1, stopped.step)
    resumed_logs = trained(recipe, discs, resumed, teacher)

    assert_same(resumed.trainee, whole.trainee)
    assert_same(resumed.ema, whole.ema)
    without_time = [{k: v for k, v in log.items() if k != "seconds"} for log in whole_logs[1:]]
    assert [{k: v for k, v in log.items() if k != "seconds"} for log in resumed_logs] == without_time


def test_the_same_seed_gives_the_same_weights_and_another_does_not(discs: TrainingSet) -> None:
    states = []
    for seed in (1, 1, 2):
        states.append(started(tiny_recipe(epochs=1, seed=seed)))
        trained(tiny_recipe(epochs=1, seed=seed), discs, states[-1])
    assert_same(states[0].trainee, states[1].trainee)
    assert not torch.equal(states[0].trainee.net.classify.weight, states[2].trainee.net.classify.weight)


def test_a_network_that_is_only_told_more_keeps_all_else_as_it_was(
    discs: TrainingSet, tmp_path: Path
) -> None:
    before = Network(net_facts(backbone=BACKBONE))
    save_weights(before, tmp_path / "before.safetensors")
    recipe = tiny_recipe(learns="covariates", weights=str(tmp_path / "before.safetensors"))
    state = started(recipe)
    trained(recipe, discs, state)
    kept, changed = before.state_dict(), []
    for name, value in state.trainee.net.state_dict().items():
        if not torch.equal(value, kept[name]):
            changed.append(name)
    assert changed == ["covariate_scale_shift.weight", "covariate_scale_shift.bias"]


def test_an_epoch_shows_a_sample_at_most_once_and_each_epoch_in_another_order(discs: TrainingSet) -> None:
    seen: list[list[float]] = []

    def objective(
        student: Outputs, teacher: Outputs | None, batch: Batch, weights: Weights
    ) -> dict[str, Tensor]:
        seen.append(batch.truth["bin"].tolist())
        return LEARNING.objective(student, teacher, batch, weights)

    recipe, watched = tiny_recipe(epochs=2), replace(LEARNING, objective=objective)
    list(epochs(recipe, watched, discs, started(recipe), world=World(), teacher=None))
    steps = 84 // 16
    first, second = (sum(seen[start : start + steps], []) for start in (0, steps))
    train = set(discs.truth[LABEL][discs.index_of("train")].tolist())
    for shown in (first, second):
        assert len(shown) == len(set(shown)) == steps * 16
        assert set(shown) <= train
    assert first != second


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    recipe = tiny_recipe(epochs=1)
    save_state(started(recipe), tmp_path)
    with pytest.raises(TrainingError, match="does not fit this recipe"):
        load_state(started(changed(recipe, backbone="resnet10t")), tmp_path)
    with pytest.raises(TrainingError, match="does not fit this recipe"):
        load_state(started(recipe), tmp_path / "absent")


class _Spoiled(nn.Module):
    """The network, with ``spoil`` done to what it returns or to its gradients."""

    def __init__(self, module: nn.Module, spoil: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self.spoil = module, spoil

    def forward(self, x_BVHW: Tensor, covariates_BQ: Tensor) -> object:
        outputs = self.module(x_BVHW, covariates_BQ)
        return replace(outputs, logits_BK=self.spoil(outputs.logits_BK))


def _overflowing(logits_BK: Tensor) -> Tensor:
    return logits_BK * math.nan


def _overflowing_gradient(logits_BK: Tensor) -> Tensor:
    # Its value is that of the logits, its derivative at 0 is not finite.
    flat_BK = logits_BK - logits_BK.detach()
    return logits_BK.detach() + flat_BK.abs().sqrt()


@pytest.mark.parametrize("spoil", [_overflowing, _overflowing_gradient])
def test_what_is_not_finite_stops_the_training_before_the_weights_move(
    discs: TrainingSet, spoil: Callable[[Tensor], Tensor]
) -> None:
    recipe = tiny_recipe(epochs=1)
    state = started(recipe)
    before = {name: value.detach().clone() for name, value in state.trainee.named_parameters()}
    world = World(wrap=lambda module: _Spoiled(module, spoil))
    with pytest.raises(TrainingError, match="not finite at step 0"):
        next(epochs(recipe, LEARNING, discs, state, world=world, teacher=None))
    assert all(torch.equal(before[name], value) for name, value in state.trainee.named_parameters())


def test_bf16_training_keeps_weights_and_losses_in_float32(discs: TrainingSet) -> None:
    recipe = tiny_recipe(epochs=1, precision="bf16")
    state = started(recipe)
    (log,) = trained(recipe, discs, state)
    assert math.isfinite(log["train/loss"])
    assert {parameter.dtype for parameter in state.trainee.parameters()} == {torch.float32}


def test_the_schedule_by_hand() -> None:
    recipe = tiny_recipe(learning_rate=0.1, warmup=0.2)
    rates = [learning_rate(recipe, step, 10) for step in range(11)]
    assert rates[:2] == pytest.approx([0.05, 0.1])  # two steps of warm-up
    assert rates[2] == pytest.approx(0.1)  # the cosine begins at the top
    assert rates[6] == pytest.approx(0.05)  # half-way
    assert rates[4] == pytest.approx(0.05 * (1 + math.cos(math.pi / 4)))
    assert rates[10] == pytest.approx(0)
    assert learning_rate(changed(recipe, warmup=0.0), 0, 10) == pytest.approx(0.1)


def test_weights_decay_but_norms_and_biases_do_not() -> None:
    state = started(tiny_recipe(weight_decay=0.05))
    decay_by_id = {
        id(parameter): group["weight_decay"]
        for group in state.optimizer.param_groups
        for parameter in group["params"]
    }
    named = dict(state.trainee.net.named_parameters())
    assert set(decay_by_id) == {id(parameter) for parameter in named.values()}
    assert decay_by_id[id(named["classify.weight"])] == 0.05
    assert decay_by_id[id(named["classify.bias"])] == decay_by_id[id(named["norm.weight"])] == 0


def test_the_average_follows_quickly_at_first(discs: TrainingSet) -> None:
    # One step: decay min(0.998, 2 / 11), so 9/11 of the way; rate at its top, one step of warm-up.
    recipe = tiny_recipe(epochs=1, batch_size=84, ema_decay=0.998, warmup=0.0)
    state = started(recipe)
    first = state.ema.classify.weight.clone()
    trained(recipe, discs, state)
    assert state.step == 1
    expected = first + (state.trainee.net.classify.weight - first) * 9 / 11
    torch.testing.assert_close(state.ema.classify.weight, expected.detach(), rtol=1e-5, atol=1e-7)


def test_predictions_do_not_depend_on_the_batch(discs: TrainingSet) -> None:
    net = teacher_net().net
    index = discs.index_of("test")
    alone, together = predicted(net, discs, index, batch_size=1), predicted(net, discs, index)
    for one, all_at_once in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, all_at_once, rtol=0, atol=1e-3)
    assert outputs(net, discs.images_NVHW[:0], discs.covariates_NQ[:0], LEARNING.kept) == {}
    assert len(validation_errors(LEARNING, net, discs, index[:0])) == 0


def test_metrics_of_epochs_to_be_repeated_are_dropped(tmp_path: Path) -> None:
    assert (epochs_logged(tmp_path), read_metrics(tmp_path)) == (0, [])
    forget_after(tmp_path, 0)
    for epoch in (1, 2, 3):
        append_metrics(tmp_path, {"epoch": epoch, "step": 5 * epoch, "train/loss": 1 / epoch})
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"epoch": 4, "st')  # a kill in the middle of a line
    assert epochs_logged(tmp_path) == 3
    forget_after(tmp_path, 2)
    assert [log["epoch"] for log in read_metrics(tmp_path)] == [1, 2]
    append_metrics(tmp_path, {"epoch": 3, "step": 15, "train/loss": 0.1})
    assert read_metrics(tmp_path)[-1] == {"epoch": 3, "step": 15, "train/loss": 0.1}
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_run_that_has_not_finished_gives_no_facts(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"status": "running"}')
    with pytest.raises(TrainingError, match="has not finished"):
        read_run(tmp_path)


def test_a_ramp_weighs_a_term_by_the_share_of_steps_done(discs: TrainingSet) -> None:
    teacher = teacher_net()
    recipe = tiny_recipe(
        role="student", epochs=4, distill={"kd": 2.0, "bin_kl": 3.0}, ramps={"kd": 0.5}, augmentation=GENTLE
    )
    logs = trained(recipe, discs, started(recipe, teacher), teacher)
    shares = [log["term/kd/weighted"] / log["term/kd/raw"] / 2.0 for log in logs]
    assert 0.0 < shares[0] < 0.5 < shares[1] < 1.0
    assert shares[2:] == pytest.approx([1.0, 1.0])
    assert all(log["term/bin_kl/weighted"] == pytest.approx(3 * log["term/bin_kl/raw"]) for log in logs)
