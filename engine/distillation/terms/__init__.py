"""TERMS: one line for each distillation term.

A term takes (student, teacher, batch) and gives a scalar that is smallest when the student equals the
teacher; no gradient flows into the teacher. All compute in float32 whatever the precision of the trunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from engine.distillation.terms.feature import at, hint, rkd
from engine.distillation.terms.maps import cat, gradcam, spatial
from engine.distillation.terms.response import bin_kl, dist, dkd, emd2, kd, kd_std, reg
from engine.models.batch import Batch
from engine.models.network import Outputs


@dataclass(frozen=True, slots=True)
class Term:
    """A term, and what it needs.

    ``needs`` is what it reads of its teacher, as `osteoray record-teacher --outputs` names it; any one of
    several is enough. ``adapts`` says whether the student needs adapters to the teacher's channels.
    """

    loss: Callable[[Outputs, Outputs, Batch], Tensor]
    needs: tuple[str, ...] = ("logits",)
    adapts: bool = False


TERMS: dict[str, Term] = {
    "kd": Term(kd),
    "kd_std": Term(kd_std),
    "dkd": Term(dkd),
    "dist": Term(dist),
    "bin_kl": Term(bin_kl),
    "emd2": Term(emd2),
    "reg": Term(reg),
    "hint": Term(hint, ("features",), adapts=True),
    "at": Term(at, ("features",)),
    "rkd": Term(rkd, ("embedding",)),
    "gradcam": Term(gradcam, ("attention", "dense")),
    "cat": Term(cat, ("dense",)),
    "spatial": Term(spatial, ("dense",)),
}
