"""A teacher whose outputs were recorded, in the place of a live one: looked up, and moved with the image.

The teacher saw each image once, as it is; the student sees it augmented, perhaps on another view. What has no
place (logits, embedding) is taken as it was. What lies on the image is sampled by one Warp: teacher's view
<- original <- student's view <- what augmentation shows; zero where the teacher saw nothing.
Legend: B batch, N samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.distillation.teacher_cache import TeacherCache
from engine.distillation.terms import TERMS
from engine.errors import TeacherCacheError
from engine.imaging.warp import Warp
from engine.models.network import Outputs

_LEVELS = 255.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTeacher:
    """The cache, the place in it of each of N samples, the warp from the teacher's view to the student's."""

    cache: TeacherCache
    places_N: NDArray[np.int64]
    warp_N: Warp
    names: tuple[str, ...]
    """Of the outputs that are looked up."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each tap."""
        return self.cache.channels

    def outputs(self, index_B: NDArray[np.int64], moved: Warp, device: torch.device) -> Outputs:
        """What the teacher says of some samples, shown as ``moved`` moves them."""
        places_B = self.places_N[index_B]
        warp = self.warp_N.at(torch.from_numpy(index_B)).then(moved)
        finer = warp.shrinks  # a teacher that saw a part of the image keeps the detail of its maps

        def read(column: str) -> Tensor:
            return torch.from_numpy(self.cache.read(column, places_B)).to(device).float()

        names = self.names
        taps = range(len(self.channels)) if "features" in names else ()
        has_map = "attention" in names
        return Outputs(
            read("logits"),
            warp.maps(read("dense"), finer) if "dense" in names else None,
            tuple(warp.maps(read(f"features_{tap}"), finer) for tap in taps),
            attention_Bhw=warp.maps(read("attention")[:, None] / _LEVELS, finer)[:, 0] if has_map else None,
            pooled_BC=read("embedding") if "embedding" in names else None,
        )


def needed(cache: TeacherCache, terms: Iterable[str]) -> tuple[str, ...]:
    """The recorded outputs that some terms read, logits first.

    Raises:
        TeacherCacheError: a term needs another one; says which to record.
    """
    names = ["logits"]
    for term in terms:
        needs = TERMS[term].needs
        held = [name for name in needs if name in cache.outputs]
        if not held:
            raise TeacherCacheError(
                f"the term {term} needs {' or '.join(needs)}, which {cache.folder} does not hold: "
                f"record it with `osteoray record-teacher --outputs {','.join([*cache.outputs, needs[0]])}`"
            )
        names.append(held[0])
    return tuple(dict.fromkeys(names))
