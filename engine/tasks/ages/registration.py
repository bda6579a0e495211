"""One frame for all images of an archive, and the way of each to it: what is read off it goes for all.

Images are laid over each other by affine maps that maximise the enhanced correlation coefficient (ECC,
Evangelidis and Psarakis, doi 10.1109/TPAMI.2008.113) with their own mean, which grows sharper in turns. No
label is needed, and no network. Seen is local contrast, so that exposure and bright plates hardly count.

Legend: H, W view; S side of the frame in pixels; N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.imaging.geometry import Geometry, resized

SIDE = 64
LEARNT_FROM = 256
"""So many images, from all over an archive, make the mean."""

Plane = NDArray[np.float32]
Matrix = NDArray[np.float64]

_TURNS = 4
_GOOD, _LEAST = 0.85, 0.6
"""Correlation at which no further start is tried, and below which a place is not believed."""
_DOUBTFUL_SHARE = 0.2
_STRETCH = 2.0
_COARSE_PX, _PEAK_PX = 3.0, 2.0
_CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-4)
_FINE, _COARSE, _SPREAD, _LAST = 1 / 256, 10 / 256, 20 / 256, 1.5 / 256
"""Widths of the blurs that make local contrast, as shares of the image's side."""


@dataclass(frozen=True, slots=True)
class Placed:
    """An image in the frame: ``from_frame_33`` takes its pixels to those of the image shrunk to [S, S]."""

    from_frame_33: Matrix
    correlation: float

    @property
    def is_plausible(self) -> bool:
        """Whether a hand stays a hand under the map."""
        stretches = np.linalg.svd(self.from_frame_33[:2, :2], compute_uv=False)
        return bool(stretches[0] <= _STRETCH and stretches[-1] >= 1 / _STRETCH)

    @property
    def is_sure(self) -> bool:
        """Whether the image looks as the frame does."""
        return self.correlation >= _LEAST and self.is_plausible

    def view(self, view: Geometry) -> Geometry:
        """From original pixels to the frame, for an image whose own view is ``view``."""
        to_frame = Geometry(
            np.asarray(np.linalg.inv(self.from_frame_33), np.float64), (SIDE, SIDE), (SIDE, SIDE)
        )
        return view.then(resized(view.network_HW, (SIDE, SIDE))).then(to_frame)

    def carried(self, map_hw: Plane) -> Plane:
        """A map over the image, [S, S] >= 0 in the frame; zero where it does not reach."""
        small_SS = cv2.resize(map_hw.clip(0), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        return _carried(np.asarray(small_SS, np.float32), self.from_frame_33)


def common_frame(images_NHW: Sequence[NDArray[np.uint8]]) -> Plane:
    """The mean [S, S] of the images' local contrast, once they lie over each other."""
    contrasts = [_contrast(image_HW) for image_HW in images_NHW]
    mean_SS = _mean(contrasts)
    placed = [_place(mean_SS, contrast_SS, _STARTS[:1]) for contrast_SS in contrasts]
    for turn in range(_TURNS):
        correlations_N = np.array([one.correlation for one in placed])
        sure_N = correlations_N >= np.quantile(correlations_N, _DOUBTFUL_SHARE)
        over = [
            _carried(contrast_SS, one.from_frame_33)
            for contrast_SS, one, is_sure in zip(contrasts, placed, sure_N, strict=True)
            if is_sure
        ]
        mean_SS = _mean(over)
        if turn < _TURNS - 1:
            placed = [
                _place(mean_SS, contrast_SS, (one.from_frame_33, *_STARTS))
                for contrast_SS, one in zip(contrasts, placed, strict=True)
            ]
    return mean_SS


def smoothed(map_SS: Plane) -> Plane:
    """A map over the frame without its peaks, so that a share of its maximum holds for many networks."""
    return _blurred(map_SS, _PEAK_PX)


def place(frame_SS: Plane, image_HW: NDArray[np.uint8]) -> Placed:
    """Where an image lies in a frame."""
    return _place(frame_SS, _contrast(image_HW), _STARTS)


def _place(frame_SS: Plane, contrast_SS: Plane, starts: Sequence[Matrix]) -> Placed:
    """The best place that is reached from some starts, in their order until one is good.

    From each the image is first turned and moved, seen coarsely, and then fitted.
    """
    best, coarse_SS = Placed(np.eye(3), -1.0), _blurred(frame_SS, _COARSE_PX)
    for start_33 in starts:
        if best.correlation >= _GOOD:
            break
        seen_SS, way_33 = contrast_SS, start_33
        if is_mirrored := bool(np.linalg.det(start_33) < 0):
            seen_SS, way_33 = np.ascontiguousarray(contrast_SS[:, ::-1]), _FLIP_33 @ start_33
        with suppress(cv2.error):  # it went out of the picture, or there is no contrast at all
            rough = _fitted(coarse_SS, _blurred(seen_SS, _COARSE_PX), way_33, cv2.MOTION_EUCLIDEAN)
            fine = _fitted(frame_SS, seen_SS, rough.from_frame_33, cv2.MOTION_AFFINE)
            if fine.is_plausible and fine.correlation > best.correlation:
                best = Placed(_FLIP_33 @ fine.from_frame_33, fine.correlation) if is_mirrored else fine
    return best


def _fitted(frame_SS: Plane, contrast_SS: Plane, start_33: Matrix, motion: int) -> Placed:
    warp_23 = start_33[:2].astype(np.float32)
    correlation, found_23 = cv2.findTransformECC(frame_SS, contrast_SS, warp_23, motion, _CRITERIA)
    return Placed(np.vstack([found_23, [0.0, 0.0, 1.0]]), float(correlation))


def _contrast(image_HW: NDArray[np.uint8]) -> Plane:
    """What is brighter than its surroundings, in units of their spread, [S, S]."""
    side = max(image_HW.shape)
    fine_HW = _blurred(image_HW.astype(np.float32), _FINE * side)
    above_HW = fine_HW - _blurred(fine_HW, _COARSE * side)
    spread_HW = np.sqrt(_blurred(above_HW**2, _SPREAD * side))
    contrast_HW = _blurred(above_HW / (spread_HW + 4), _LAST * side)
    return np.asarray(cv2.resize(contrast_HW, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.float32)


def _mean(planes: Sequence[Plane]) -> Plane:
    return np.asarray(np.stack(planes).mean(0), np.float32)


def _blurred(image_HW: Plane, width_px: float) -> Plane:
    return np.asarray(cv2.GaussianBlur(image_HW, (0, 0), width_px), np.float32)


def _carried(small_SS: NDArray[np.float32], from_frame_33: Matrix) -> Plane:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(small_SS, from_frame_33[:2], (SIDE, SIDE), flags=flags), np.float32)


def _turned(degrees: float) -> Matrix:
    middle = (SIDE - 1) / 2
    turned_33: Matrix = np.vstack([cv2.getRotationMatrix2D((middle, middle), degrees, 1.0), [0.0, 0.0, 1.0]])
    return turned_33


_FLIP_33 = np.array([[-1.0, 0.0, SIDE - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
_UPRIGHT = (np.eye(3), _turned(-20), _turned(20))
_STARTS = (*_UPRIGHT, *(_FLIP_33 @ start_33 for start_33 in _UPRIGHT))
