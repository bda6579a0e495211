"""The one loop of forward passes over images in memory, and what further passes make of an image.

Legend: N images, B images of one pass, V views, H, W view, Q covariate columns.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.imaging.augment import Augmentation, augmented, draw
from engine.models.network import Network, Outputs

BATCH = 128
RANGES = Augmentation(rotation_deg=7.5, scale=0.075, shift=0.04, gamma=0.15, contrast=0.1)
"""Half of what a training shows by default: a network has seen more than this."""
_SEED = 0

Keep = Callable[[Outputs], Mapping[str, Tensor]]


def outputs(
    net: Network,
    images_NVHW: NDArray[np.uint8],
    covariates_NQ: NDArray[np.float32],
    keep: Keep,
    *,
    batch_size: int = BATCH,
    see: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, NDArray[Any]]:
    """What ``keep`` takes of each forward pass, in float32 and eval mode, [N, ...] by name.

    ``see`` changes the images [B, V, H, W] in [0, 1] of a pass, as test-time augmentation does. Nothing at
    all where N is 0.
    """
    device = next(net.parameters()).device
    net.eval()
    kept: defaultdict[str, list[NDArray[Any]]] = defaultdict(list)
    with torch.inference_mode():
        for start in range(0, len(images_NVHW), batch_size):
            part = slice(start, start + batch_size)
            x_BVHW = torch.from_numpy(np.ascontiguousarray(images_NVHW[part])).to(device).float() / 255
            covariates_BQ = torch.from_numpy(covariates_NQ[part]).to(device)
            for name, values in keep(net(see(x_BVHW) if see else x_BVHW, covariates_BQ)).items():
                kept[name].append(values.cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in kept.items()}


def views_of(passes: int) -> Iterator[Callable[[Tensor], Tensor]]:
    """Test-time augmentation: what each pass makes of images [B, V, H, W] in [0, 1]; their shape stays.

    The first is the image as it is. The further ones are drawn once, and are the same for all images: what a
    network gives for an image depends neither on its neighbours nor on its place.
    """
    yield lambda x_BVHW: x_BVHW
    draws = draw(passes - 1, RANGES, seed=_SEED, epoch=0)
    for number in range(passes - 1):
        yield lambda x_BVHW, n=number: augmented(  # type: ignore[misc]
            x_BVHW, draws.at(torch.full((len(x_BVHW),), n))
        )


def per_second(work: Callable[[], object], seconds: float = 3.0) -> float:
    """How often a second some work is done, after a warm-up."""
    work()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        work()
        count += 1
    return count / (time.perf_counter() - started)
