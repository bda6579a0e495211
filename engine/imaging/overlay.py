"""An attention map laid over the image that it belongs to, in colour."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_OPACITY = 0.75
# weak attention violet, then red, strongest yellow: told apart on grey, with colour-vision deficiencies too
_STOPS = (0.0, 0.35, 0.7, 1.0)
_RAMP_S3 = np.array([[70, 30, 130], [190, 45, 95], [240, 125, 40], [255, 225, 90]], np.float64)


def enlarged(attention_hw: NDArray[np.uint8], size_HW: tuple[int, int]) -> NDArray[np.uint8]:
    """The map on another grid over the same square, bilinearly; as it is where the grid is its own."""
    if attention_hw.shape == size_HW:
        return attention_hw
    height, width = size_HW
    return np.asarray(Image.fromarray(attention_hw).resize((width, height), Image.Resampling.BILINEAR))


def overlay(image_HW: NDArray[np.uint8], attention_hw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The grey image with the map laid over it in colour, uint8 [H, W, 3]; no attention leaves it grey.

    The map covers the same square as the image on a coarser grid, and is enlarged bilinearly.
    """
    height, width = image_HW.shape
    strength_HW = enlarged(attention_hw, (height, width)).astype(np.float64) / 255
    colour_HW3 = np.stack([np.interp(strength_HW, _STOPS, channel_S) for channel_S in _RAMP_S3.T], axis=-1)
    opacity_HW1 = _OPACITY * strength_HW[..., None]
    mixed_HW3 = (1 - opacity_HW1) * image_HW[..., None] + opacity_HW1 * colour_HW3
    shown_HW3: NDArray[np.uint8] = np.rint(mixed_HW3).astype(np.uint8)
    return shown_HW3
