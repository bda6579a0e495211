"""Test-time augmentation: several looks at one image, each moved and exposed a little otherwise.

The first look is the image as it is. The further ones are drawn once, and are the same for all images: what a
network says of an image depends neither on its neighbours nor on its place.
Legend: B batch, V views, H, W view.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from engine.imaging.augment import Augmentation, augmented, draw

RANGES = Augmentation(rotation_deg=7.5, scale=0.075, shift=0.04, gamma=0.15, contrast=0.1)
"""Half of what a training shows by default: a network has seen more than this."""
_SEED = 0


def looks_at(x_BVHW: Tensor, count: int) -> Iterator[Tensor]:
    """``count`` looks at images in [0, 1], of their shape."""
    yield x_BVHW
    draws = draw(count - 1, RANGES, seed=_SEED, epoch=0)
    for look in range(count - 1):
        yield augmented(x_BVHW, draws.at(torch.full((len(x_BVHW),), look)))
