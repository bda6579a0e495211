"""A student in training, and the weighted sum of its distillation terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from engine.distillation.terms import TERMS
from engine.models.batch import Batch
from engine.models.network import Network, Outputs


class Trainee(nn.Module):
    """The network in training plus the adapters phi of the hint term, which are never deployed."""

    def __init__(self, net: Network, teacher_channels: tuple[int, ...] = ()) -> None:
        """Adapters are made only where ``teacher_channels`` are given."""
        super().__init__()
        self.net = net
        pairs = zip(net.channels, teacher_channels, strict=True) if teacher_channels else ()
        self.adapters = nn.ModuleList(nn.Conv2d(own, other, 1) for own, other in pairs)

    def forward(self, x_BVHW: Tensor, covariates_BQ: Tensor) -> Outputs:
        """Outputs of the network, with adapted features."""
        outputs: Outputs = self.net(x_BVHW, covariates_BQ)
        maps = zip(self.adapters, outputs.features, strict=True) if len(self.adapters) else ()
        return replace(outputs, adapted=tuple(adapt(f) for adapt, f in maps))


def with_terms(
    parts: Mapping[str, Tensor],
    student: Outputs,
    teacher: Outputs | None,
    batch: Batch,
    weights: Mapping[str, float],
) -> dict[str, Tensor]:
    """The parts of a task's own loss, its sum ``task`` among them, with ``loss``: what is minimised.

    With a teacher also each term as ``term/NAME/raw`` and ``term/NAME/weighted``, and ``distill``, the sum of
    the weighted.
    """
    parts = dict(parts)
    if teacher is None or not weights:
        return {**parts, "loss": parts["task"]}
    total = student.logits_BK.new_zeros(())
    for name, weight in weights.items():
        raw = TERMS[name].loss(student, teacher, batch)
        parts[f"term/{name}/raw"], parts[f"term/{name}/weighted"] = raw, weight * raw
        total = total + weight * raw
    return {**parts, "distill": total, "loss": parts["task"] + total}
