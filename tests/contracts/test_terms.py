"""Distillation terms against other implementations of the same loss: torchdistill, torchmetrics, torch.

torchdistill takes the outputs of modules by path; ``io`` puts plain tensors there. Where a constant differs
that the paper leaves open, the oracle says which.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchdistill.losses import mid_level
from torchmetrics.functional import kl_divergence

from engine.distillation.terms import TERMS
from engine.distillation.terms.feature import RKD_ANGLE
from engine.distillation.terms.response import (
    DKD_ALPHA,
    DKD_BETA,
    DKD_TEMPERATURE,
    KD_TEMPERATURE,
    STANDARDISED_TEMPERATURE,
)
from engine.models.batch import Batch
from engine.models.network import Outputs

torch.set_num_threads(1)

BATCH, BINS = 6, 12
Answers = tuple[Outputs, Outputs, Batch]


def answers(seed: int) -> Answers:
    """A student and a teacher of random outputs; the first tap is the finer one."""
    generator = torch.Generator().manual_seed(seed)

    def outputs() -> Outputs:
        dense = torch.randn(BATCH, BINS, 4, 4, generator=generator) * 3
        maps = tuple(torch.randn(BATCH, 5, side, side, generator=generator) for side in (8, 4))
        return Outputs(dense.mean((2, 3)), dense, maps, maps)

    months_B = torch.randint(1, BINS + 1, (BATCH,), generator=generator).float()
    return outputs(), outputs(), Batch(torch.zeros(BATCH, 1, 2, 2), torch.zeros(BATCH, 1), {"bin": months_B})


def io(**modules: Tensor) -> dict[str, dict[str, Tensor]]:
    """What torchdistill hands to a loss: by module path, its output."""
    return {path: {"output": tensor} for path, tensor in modules.items()}


def kd(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """Without a hard loss theirs leaves out T^2."""
    loss = mid_level.KDLoss("z", "output", "z", "output", temperature=KD_TEMPERATURE, alpha=0.0)
    found: Tensor = loss(io(z=student.logits_BK), io(z=teacher.logits_BK))
    return found * KD_TEMPERATURE**2


def kd_std(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """Theirs divides by the sample standard deviation, n - 1; ours by that of n: a temperature apart."""
    correction = (BINS / (BINS - 1)) ** 0.5
    temperature = STANDARDISED_TEMPERATURE / correction
    loss = mid_level.LogitStdKDLoss("z", "output", "z", "output", temperature=temperature, alpha=0.0)
    found: Tensor = loss(io(z=student.logits_BK), io(z=teacher.logits_BK))
    return found * STANDARDISED_TEMPERATURE**2


def dist(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    loss = mid_level.DISTLoss("z", "output", "z", "output", beta=1.0, gamma=1.0, tau=1.0)
    found: Tensor = loss(io(z=student.logits_BK), io(z=teacher.logits_BK))
    return found


def at(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """Theirs is the mean over cells and the sum over taps; ours the sum over cells and the mean over taps."""
    total = torch.zeros(())
    for own, other in zip(student.features, teacher.features, strict=True):
        place = {"path": "f", "io": "output"}
        loss = mid_level.ATLoss({"tap": {"student": place, "teacher": place}}, mode="code")
        total = total + loss(io(f=own), io(f=other)) * own[0, 0].numel()
    return total / len(student.features)


def rkd(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    loss = mid_level.RKDLoss("e", "e", dist_factor=1.0, angle_factor=RKD_ANGLE, reduction="mean")
    found: Tensor = loss(io(e=student.embedding_BC), io(e=teacher.embedding_BC))
    return found


def bin_kl(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    return kl_divergence(teacher.logits_BK.softmax(1), student.logits_BK.softmax(1))


ORACLES: dict[str, Callable[[Outputs, Outputs, Batch], Tensor]] = {
    "kd": kd, "kd_std": kd_std, "dist": dist, "at": at, "rkd": rkd, "bin_kl": bin_kl,
}  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ORACLES)
def test_a_term_is_what_others_compute(name: str, seed: int) -> None:
    case = answers(seed)
    assert TERMS[name].loss(*case).item() == pytest.approx(ORACLES[name](*case).item(), rel=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_hint_is_the_mean_squared_error_of_maps_without_mean_and_scale(seed: int) -> None:
    """A batch norm in training mode standardises as ours does; torch's own is the oracle."""
    student, teacher, batch = answers(seed)
    taps = zip(student.adapted, teacher.features, strict=True)
    normed = [[F.batch_norm(maps, None, None, training=True) for maps in tap] for tap in taps]
    expected = torch.stack([F.mse_loss(own, other) for own, other in normed]).mean()
    torch.testing.assert_close(TERMS["hint"].loss(student, teacher, batch), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_dkd_with_the_weight_of_the_rest_is_kd(seed: int) -> None:
    """The identity of the paper: alpha = 1 and beta = 1 - p_t(target) for each sample give plain kd."""
    student, teacher, batch = answers(seed)
    decoupled, plain = 0.0, TERMS["kd"].loss(student, teacher, batch).item()
    p_BK = (teacher.logits_BK / DKD_TEMPERATURE).softmax(1)
    for row in range(BATCH):
        one = [Outputs(o.logits_BK[row : row + 1], None, ()) for o in (student, teacher)]
        alone = Batch(batch.x_BVHW[:1], batch.covariates_BQ[:1], {"bin": batch.truth["bin"][row : row + 1]})
        target = int(alone.truth["bin"].item()) - 1
        whole = TERMS["dkd"].loss(*one, alone).item()
        split = _binary(*one, target)
        decoupled += (
            DKD_ALPHA * split + (1 - p_BK[row, target].item()) * (whole - DKD_ALPHA * split) / DKD_BETA
        )
    assert decoupled / BATCH == pytest.approx(plain, rel=1e-4)


def _binary(student: Outputs, teacher: Outputs, target: int) -> float:
    """T^2 KL of target against rest, by hand."""
    shares: list[Any] = []
    for outputs in (teacher, student):
        p = (outputs.logits_BK[0] / DKD_TEMPERATURE).softmax(0)[target]
        shares.append(torch.stack([p, 1 - p]))
    return float(DKD_TEMPERATURE**2 * (shares[0] * (shares[0] / shares[1]).log()).sum())
