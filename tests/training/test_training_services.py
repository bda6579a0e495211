"""Services of the training loop: accumulation, early stopping, compilation; each off unless a recipe asks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.errors import MissingDependencyError, UsageError
from engine.imaging.augment import Augmentation
from engine.models.network import Network, compiled
from engine.tasks import task_named
from engine.training.checkpoint import State, load_state, new_state, save_state
from engine.training.dataset import TrainingSet
from engine.training.loop import Log, World, epochs
from engine.training.recipe import Recipe, with_changes
from tests.fixtures.training_fixture import BACKBONE, disc_set, net_facts, tiny_recipe

torch.set_num_threads(1)

LEARNING = task_named("hand-age").learning()
GENTLE = Augmentation(rotation_deg=10, scale=0, shift=0.02, gamma=0.1, contrast=0.1)
ERRORS_MONTHS = [9.0, 5.0, 6.0, 7.0, 1.0]
"""Of the epochs in turn: with a patience of 2 the last is never reached."""


@pytest.fixture(scope="module")
def discs() -> TrainingSet:
    return disc_set(40)


def started(recipe: Recipe) -> State:
    return new_state(recipe, LEARNING.network, net_facts(backbone=BACKBONE), (), torch.device("cpu"))


def running(recipe: Recipe, data: TrainingSet, state: State, world: World | None = None) -> Iterator[Log]:
    return epochs(recipe, LEARNING, data, state, world=world or World(), teacher=None)


class _StillNorms(nn.Module):
    """The network with its batch norms in eval mode: a sample then does not see its neighbours."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x_BVHW: Tensor, covariates_BQ: Tensor) -> object:
        for module in self.module.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self.module(x_BVHW, covariates_BQ)


@pytest.mark.parametrize("parts", [2, 3])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(discs: TrainingSet, parts: int) -> None:
    gradients, logs = [], []
    for accumulate in (1, parts):
        recipe = tiny_recipe(epochs=1, batch_size=28, accumulate=accumulate, augmentation=GENTLE)
        state = started(recipe)
        logs += running(recipe, discs, state, World(wrap=_StillNorms))
        assert state.step == 1
        gradients.append([parameter.grad for parameter in state.trainee.parameters()])
    assert logs[0]["train/loss"] == pytest.approx(logs[1]["train/loss"], rel=1e-5)
    for whole, summed in zip(*gradients, strict=True):
        assert whole is not None
        assert summed is not None
        torch.testing.assert_close(summed, whole, rtol=1e-3, atol=1e-5 * whole.abs().max().item() + 1e-6)


@pytest.fixture
def given_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The validation error of each epoch is that of ERRORS_MONTHS."""
    counts = iter(ERRORS_MONTHS)
    monkeypatch.setattr(
        "engine.training.loop._validation_error", lambda learning, ema, data, world: next(counts)
    )


def test_training_ends_when_the_error_no_longer_falls_and_leaves_its_best(
    discs: TrainingSet, given_errors: None
) -> None:
    recipe = tiny_recipe(epochs=5, patience=2, augmentation=GENTLE)
    state, averages = started(recipe), []
    for _ in running(recipe, discs, state):
        averages.append(copy.deepcopy(state.ema.state_dict()))
    assert (len(averages), state.best_epoch, state.best_error) == (4, 2, 5.0)
    left = state.chosen.state_dict()
    assert all(torch.equal(left[name], value) for name, value in averages[1].items())
    assert not torch.equal(left["classify.weight"], averages[3]["classify.weight"])


def test_without_patience_all_epochs_are_done_and_the_last_average_is_left(
    discs: TrainingSet, given_errors: None
) -> None:
    recipe = tiny_recipe(epochs=5)
    state = started(recipe)
    assert len(list(running(recipe, discs, state))) == 5
    assert state.best is None
    assert state.chosen is state.ema


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_resumed_run_remembers_its_best_epoch(
    discs: TrainingSet, given_errors: None, tmp_path: Path, stop_after: int
) -> None:
    recipe = tiny_recipe(epochs=5, patience=2, augmentation=GENTLE)
    state = started(recipe)
    logs = running(recipe, discs, state)
    for _ in range(stop_after):
        next(logs)
    save_state(state, tmp_path)
    resumed = started(recipe)
    load_state(resumed, tmp_path)
    rest = list(running(recipe, discs, resumed))
    assert (len(rest), resumed.best_epoch) == (4 - stop_after, 2)
    assert list(running(recipe, discs, resumed)) == []  # it has ended, and does not begin again
    logs.close()  # type: ignore[attr-defined]


def test_a_compiled_trunk_keeps_the_names_and_the_answers() -> None:
    torch.manual_seed(1)
    net = Network(net_facts(backbone=BACKBONE)).eval()
    names, inputs = list(net.state_dict()), (torch.rand(2, 1, 48, 48), torch.ones(2, 1))
    with torch.no_grad():
        plain = net(*inputs).logits_BK
        compiled(net, backend="eager")
        torch.testing.assert_close(net(*inputs).logits_BK, plain)
    assert list(net.state_dict()) == names


def test_to_compile_without_a_compiler_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingDependencyError, match="install g\\+\\+, or set compile=false"):
        compiled(Network(net_facts(backbone=BACKBONE)))


def test_the_fields_are_checked_like_all_others() -> None:
    new = with_changes(tiny_recipe(), ["compile=true", "accumulate=4", "patience=3"])
    assert (new.compute.compile, new.optimiser.accumulate, new.schedule.patience) == (True, 4, 3)
    assert not with_changes(new, ["compile=False"]).compute.compile
    for change, message in (
        ("compile=perhaps", "compile takes a value of type bool"),
        ("accumulate=0", "accumulate must be"),
        ("accumulate=9", "leaves less than two samples a part"),
        ("patience=-1", "patience must be"),
    ):
        with pytest.raises(UsageError, match=message):
            with_changes(tiny_recipe(batch_size=16), [change])
