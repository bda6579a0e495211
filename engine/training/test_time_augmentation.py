"""Test-time augmentation: several passes of one image, each moved and exposed a little differently.

The first pass is the image as it is. The further ones are drawn once, and are the same for all images: what a
network gives for an image depends neither on its neighbours nor on its place.
Legend: B batch, V views, H, W view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from engine.imaging.augment import Augmentation, augmented, draw

RANGES = Augmentation(rotation_deg=7.5, scale=0.075, shift=0.04, gamma=0.15, contrast=0.1)
"""Half of what a training shows by default: a network has seen more than this."""
_SEED = 0


def views_of(passes: int) -> Iterator[Callable[[Tensor], Tensor]]:
    """What each pass makes of images [B, V, H, W] in [0, 1]; their shape stays."""
    yield lambda x_BVHW: x_BVHW
    draws = draw(passes - 1, RANGES, seed=_SEED, epoch=0)
    for number in range(passes - 1):
        yield lambda x_BVHW, n=number: augmented(  # type: ignore[misc]
            x_BVHW, draws.at(torch.full((len(x_BVHW),), n))
        )
