"""The contract of every distillation term, and a value by hand for each."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from engine.distillation.terms import TERMS
from engine.distillation.weighted_terms import Trainee, with_terms
from engine.errors import UnknownNameError
from engine.models.batch import Batch
from engine.models.network import Network, Outputs
from engine.models.ordered_bins import expectation
from tests.fixtures.training_fixture import BACKBONE, net_facts, tiny_recipe

torch.set_num_threads(1)

BATCH, BINS, CHANNELS = 4, 12, (3, 5)

Case = tuple[Outputs, Outputs, Batch, float]


def outputs(
    dense_BKhw: Tensor, features: tuple[Tensor, ...] = (), adapted: tuple[Tensor, ...] = ()
) -> Outputs:
    return Outputs(dense_BKhw.float().mean((2, 3)), dense_BKhw, features, adapted)


def from_logits(logits_BK: Tensor) -> Outputs:
    return outputs(logits_BK[:, :, None, None])


def truth(*months: float) -> Batch:
    count = len(months)
    return Batch(torch.zeros(count, 1, 2, 2), torch.zeros(count, 1), {"bin": torch.tensor(months)})


def drawn(seed: int, *, scale: float = 2.0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Leaves of one network: dense logits and the maps of two taps, with gradients."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((BATCH, BINS, 4, 4), (BATCH, CHANNELS[0], 8, 8), (BATCH, CHANNELS[1], 4, 4))
    leaves = (torch.randn(shape, generator=generator) * scale for shape in shapes)
    return tuple(leaf.to(dtype).requires_grad_() for leaf in leaves)


def pair(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> tuple[Outputs, Outputs, Batch]:
    """Both outputs, and the truth where the teacher is always right."""
    taught = outputs(teacher[0], features=teacher[1:])
    learning = outputs(student[0], features=student[1:], adapted=student[1:])
    months_B = expectation(taught.logits_BK).detach()
    return learning, taught, Batch(torch.zeros(BATCH, 1, 2, 2), torch.zeros(BATCH, 1), {"bin": months_B})


def gradients(value: Tensor, leaves: tuple[Tensor, ...]) -> list[Tensor]:
    found: tuple[Tensor | None, ...] = torch.autograd.grad(value, leaves, allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


@pytest.mark.parametrize("name", TERMS)
def test_a_term_is_least_where_the_student_is_the_teacher(name: str) -> None:
    teacher = drawn(1)
    student = tuple(leaf.detach().clone().requires_grad_() for leaf in teacher)
    value = TERMS[name].loss(*pair(student, teacher))
    assert value.shape == ()
    assert abs(value.item()) < 1e-6
    assert all(gradient.abs().max() < 1e-6 for gradient in gradients(value, student))


@pytest.mark.parametrize("name", TERMS)
def test_away_from_the_teacher_a_term_pulls_the_student(name: str) -> None:
    student = drawn(2)
    value = TERMS[name].loss(*pair(student, drawn(1)))
    assert value.item() > 1e-3
    found = torch.autograd.grad(value, student, allow_unused=True, materialize_grads=True)
    assert max(gradient.abs().max().item() for gradient in found) > 1e-5
    moved = tuple((leaf - 1e-2 * step).detach() for leaf, step in zip(student, found, strict=True))
    assert TERMS[name].loss(*pair(moved, drawn(1))).item() < value.item()


@pytest.mark.parametrize("name", TERMS)
def test_no_gradient_flows_into_the_teacher(name: str) -> None:
    teacher = drawn(1)
    value = TERMS[name].loss(*pair(drawn(2), teacher))
    assert gradients(value, teacher) == []


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize(
    ("scale", "dtype"), [(2.0, torch.bfloat16), (1e4, torch.float32), (1e4, torch.bfloat16)]
)
def test_terms_stay_finite(name: str, scale: float, dtype: torch.dtype) -> None:
    student = drawn(2, scale=scale, dtype=dtype)
    value = TERMS[name].loss(*pair(student, drawn(1, scale=scale, dtype=dtype)))
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert all(torch.isfinite(gradient).all() for gradient in gradients(value, student))


def kd_by_hand() -> Case:
    # Divided by T = 4 the teacher says 3/4, 1/4 and the student 1/2, 1/2.
    student, teacher = torch.zeros(1, 2), torch.tensor([[4 * math.log(3), 0.0]])
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    return from_logits(student), from_logits(teacher), truth(1.0), 16 * divergence


def kd_std_by_hand() -> Case:
    # Standardised, the teacher's 3, 1 is 1, -1 and the student's 0, 8 is -1, 1; both divided by T = 2.
    p = 1 / (1 + math.exp(-1))
    divergence = p * math.log(p / (1 - p)) + (1 - p) * math.log((1 - p) / p)
    return (
        from_logits(torch.tensor([[0.0, 8.0]])), from_logits(torch.tensor([[3.0, 1.0]])), truth(1.0),
        4 * divergence,
    )  # fmt: skip


def dkd_by_hand() -> Case:
    # Divided by T = 4 the teacher says 1/2 for the target (month 2), 1/4 and 1/4 for the rest; the student
    # 1/4, and 1/4 and 1/2.
    teacher = 4 * torch.tensor([[0.0, math.log(2), 0.0]])
    student = 4 * torch.tensor([[0.0, 0.0, math.log(2)]])
    split = 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)
    rest = 0.5 * math.log(0.5 / (1 / 3)) + 0.5 * math.log(0.5 / (2 / 3))
    return from_logits(student), from_logits(teacher), truth(2.2), 16 * (split + 8 * rest)


def dist_by_hand() -> Case:
    # Rows 3/4, 1/4 and 1/4, 3/4 against the same rows swapped: correlation -1 over bins and over the batch.
    rows = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]])
    return from_logits(rows), from_logits(rows.flip(0)), truth(1.0, 1.0), 4.0


def emd2_by_hand() -> Case:
    # All mass in bin 1 against bin 3 of 4: the cumulative distributions differ by 1 in bins 1 and 2.
    certain = 1e4 * torch.eye(4)
    return from_logits(certain[:1]), from_logits(certain[2:3]), truth(1.0), 2 / 4


def bin_kl_by_hand() -> Case:
    # 1/4, 1/4, 1/2 against thirds, and a second sample where both agree.
    student, teacher = torch.zeros(2, 3), torch.tensor([[0.0, 0.0, math.log(2)], [5.0, 5.0, 5.0]])
    divergence = 2 * 0.25 * math.log(0.75) + 0.5 * math.log(1.5)
    return from_logits(student), from_logits(teacher), truth(1.0, 1.0), divergence / 2


def reg_by_hand() -> Case:
    # Truth 7: teacher 8, student 10: 2 - 1/2. Truth 11: the student is nearer: nothing. Truth 9: teacher 10,
    # student between 10 and 11: (1/2)^2 / 2.
    certain = 1e4 * torch.eye(12)
    student = torch.stack([certain[9], certain[9], certain[9] + certain[10]])
    teacher = torch.stack([certain[7], certain[4], certain[9]])
    return from_logits(student), from_logits(teacher), truth(7.0, 11.0, 9.0), (1.5 + 0 + 0.125) / 3


def hint_by_hand() -> Case:
    # First tap: the student's 2 x 2 map is pooled to 1, -1; the teacher's is -1, 1 once standardised: 2^2.
    # Second tap: the same but for scale and shift: nothing.
    first, second = torch.tensor([[[[2.0, 0.0], [0.0, -2.0]]]]), torch.tensor([[[[0.0, 4.0]]]])
    taught = (torch.tensor([[[[10.0, 50.0]]]]), torch.tensor([[[[7.0, 8.0]]]]))
    dense = torch.zeros(1, 2, 1, 1)
    return outputs(dense, adapted=(first, second)), outputs(dense, features=taught), truth(1.0), 4 / 2


def at_by_hand() -> Case:
    # Mean squares over channels 3, 4, of unit length 0.6, 0.8, against 4, 3: 0.2^2 twice. The second tap
    # agrees but for its scale.
    def taps(first: tuple[float, float], scale: float) -> tuple[Tensor, ...]:
        squares = torch.tensor(first)[None, None, None].sqrt()
        return squares.repeat(1, 2, 1, 1), scale * torch.ones(1, 3, 1, 2)

    dense = torch.zeros(1, 2, 1, 1)
    student, teacher = (outputs(dense, features=taps(*case)) for case in (((3, 4), 1.0), ((4, 3), 9.0)))
    return student, teacher, truth(1.0), 0.08 / 2


def rkd_by_hand() -> Case:
    # Student: a right triangle with sides 3, 4, 5 (mean 4); teacher: three on a line at 0, 1, 2 (mean 4/3).
    # Distances over their mean: 3/4, 1, 5/4 against 3/4, 3/4, 3/2 for the pairs (0,1), (0,2), (1,2), each
    # twice among nine entries; on the teacher's line 0 lies in the middle.
    def embeddings(*points: tuple[float, float]) -> Outputs:
        return outputs(torch.zeros(3, 2, 1, 1), features=(torch.tensor(points)[:, :, None, None],))

    student = embeddings((0, 0), (3, 0), (0, 4))
    teacher = embeddings((0, 0), (-1, 0), (1, 0))
    distances = 2 * (0 + 0.25**2 / 2 + 0.25**2 / 2) / 9
    # Cosines at 0, 1 and 2, where the pairs are (1,2), (0,2) and (0,1): 0, 3/5, 4/5 against -1, 1, 1.
    angles = 2 * (1.0 / 2 + 0.4**2 / 2 + 0.2**2 / 2) / 27
    return student, teacher, truth(1.0, 1.0, 1.0), distances + 2 * angles


def cat_by_hand() -> Case:
    # Bin 1: 3, 4, 0, 0 against 4, 3, 0, 0, of unit length 0.6, 0.8 and 0.8, 0.6. Bin 2 agrees but for scale.
    def maps(first: tuple[float, ...], scale: float) -> Tensor:
        return torch.stack([torch.tensor(first).reshape(2, 2), scale * torch.ones(2, 2)])[None]

    return outputs(maps((3, 4, 0, 0), 1)), outputs(maps((4, 3, 0, 0), 5)), truth(1.0), 0.08 / 2


def gradcam_by_hand() -> Case:
    # Bin 1 is 0 everywhere, bin 2 has mean log 3: attention is bin 2 over 4. Maps 3, 1 and 1, 3 have cosine
    # 6/10. The second student sees nothing anywhere: left out.
    def maps(*rows: tuple[float, float]) -> Tensor:
        z2 = torch.tensor(rows) * math.log(3) / 2
        return torch.stack([torch.zeros_like(z2), z2], 1)[:, :, None]

    return outputs(maps((3, 1), (0, 0))), outputs(maps((1, 3), (1, 3))), truth(1.0, 1.0), 0.4


def spatial_by_hand() -> Case:
    # T = 3: the teacher's places say 1/4, 3/4 and 1/3, 2/3, the student's 1/2, 1/2. Its attention is that of
    # bin 2, in parts of log 3 and log 2. A second teacher sees nothing anywhere: left out.
    z2 = torch.tensor([[math.log(3), math.log(2)], [0, 0]]) * 3
    teacher = outputs(torch.stack([torch.zeros_like(z2), z2], 1)[:, :, None])
    at_first = math.log(1 / 2) / 4 + 3 * math.log(3 / 2) / 4
    at_second = math.log(2 / 3) / 3 + 2 * math.log(4 / 3) / 3
    expected = 9 * (math.log(3) * at_first + math.log(2) * at_second) / math.log(6)
    return outputs(torch.zeros(2, 2, 1, 2)), teacher, truth(1.0, 1.0), expected


BY_HAND: dict[str, Callable[[], Case]] = {
    "kd": kd_by_hand,
    "kd_std": kd_std_by_hand,
    "dkd": dkd_by_hand,
    "dist": dist_by_hand,
    "emd2": emd2_by_hand,
    "at": at_by_hand,
    "rkd": rkd_by_hand,
    "cat": cat_by_hand,
    "bin_kl": bin_kl_by_hand,
    "reg": reg_by_hand,
    "hint": hint_by_hand,
    "gradcam": gradcam_by_hand,
    "spatial": spatial_by_hand,
}


def test_every_term_has_a_case_by_hand() -> None:
    assert set(BY_HAND) == set(TERMS)


@pytest.mark.parametrize("name", BY_HAND)
def test_a_term_by_hand(name: str) -> None:
    student, teacher, batch, expected = BY_HAND[name]()
    assert TERMS[name].loss(student, teacher, batch).item() == pytest.approx(expected, rel=1e-4)


def test_maps_that_are_all_dead_give_nothing() -> None:
    dead = outputs(torch.zeros(2, 3, 2, 2, requires_grad=True))
    value = TERMS["gradcam"].loss(dead, dead, truth(1.0, 1.0))
    assert value.item() == 0
    assert torch.isfinite(torch.autograd.grad(value, dead.dense_BKhw)[0]).all()


def test_distillation_logs_terms_raw_and_weighted() -> None:
    student, teacher, batch = pair(drawn(2), drawn(1))
    own = {"task": torch.tensor(3.0)}
    parts = with_terms(own, student, teacher, batch, {"kd": 0.5, "reg": 2.0})
    kd, reg = (
        TERMS["kd"].loss(student, teacher, batch).item(),
        TERMS["reg"].loss(student, teacher, batch).item(),
    )
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(
        {
            "term/kd/raw": kd,
            "term/kd/weighted": 0.5 * kd,
            "term/reg/raw": reg,
            "term/reg/weighted": 2 * reg,
            "distill": 0.5 * kd + 2 * reg,
            "task": 3.0,
            "loss": 3.0 + 0.5 * kd + 2 * reg,
        }
    )


def test_an_unknown_term_in_a_recipe_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown distillation term 'gradcm': did you mean 'gradcam'"):
        tiny_recipe(distill={"gradcm": 1.0})


def test_adapters_bring_the_student_to_the_teachers_channels() -> None:
    net = Network(net_facts(backbone=BACKBONE))
    x_BVHW, sex_BQ = torch.rand(2, 1, 64, 64), torch.zeros(2, 1)
    adapted = Trainee(net, (7, 9))(x_BVHW, sex_BQ).adapted
    assert [tuple(f.shape[:2]) for f in adapted] == [(2, 7), (2, 9)]
    assert Trainee(net)(x_BVHW, sex_BQ).adapted == ()
