"""Distillation terms: each a function of student and teacher outputs; the tables TERMS and NEEDS.

A term takes (student, teacher, batch) and gives a scalar that is smallest when the student equals the
teacher; no gradient flows into the teacher. All compute in float32 whatever the precision of the trunk.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from engine.distillation.terms.feature import at, hint, rkd
from engine.distillation.terms.maps import cat, gradcam
from engine.distillation.terms.response import age_kl, dist, dkd, emd2, kd, kd_std, reg
from engine.models.batch import Batch
from engine.models.network import Outputs

Term = Callable[[Outputs, Outputs, Batch], Tensor]

TERMS: dict[str, Term] = {
    "kd": kd,
    "kd_std": kd_std,
    "dkd": dkd,
    "dist": dist,
    "age_kl": age_kl,
    "emd2": emd2,
    "reg": reg,
    "hint": hint,
    "at": at,
    "rkd": rkd,
    "gradcam": gradcam,
    "cat": cat,
}

NEEDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("kd", "kd_std", "dkd", "dist", "age_kl", "emd2", "reg"), ("logits",)),
    **dict.fromkeys(("hint", "at"), ("features",)),
    "rkd": ("embedding",),
    "gradcam": ("attention", "dense"),
    "cat": ("dense",),
}
"""What a term reads of its teacher, as `osteoray teach --outputs` names it; any one of several is enough."""
