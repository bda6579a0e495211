"""Known faults and unfamiliar images, found by the network's own embedding.

Fitted when a bundle is written, on training images and on faults made of them here. The limits come from
sound validation images alone, at a stated share of false alarms; of few images they are widened
(``engine.evaluation.conformal.upper_limit``), and the bundle says so. In the space of standardised
embeddings:

- known faults: the log-likelihood ratio of each kind against sound images, Gaussians of one covariance within
  all kinds (linear discriminants; Lee et al. 2018, arXiv 1807.03888; covariance after Ledoit and Wolf 2004);
- novelty: squared distance from the sound mean outside the subspace in which sound images vary most, a
  quarter of the channels (the residual of ViM, Wang et al. 2022, arXiv 2203.10807).

An image that resembles a fault, but lies further from its mean than nearly all that were made, is novel as
well: a skull resembles any fault more than an upright hand. Each instance is judged alone, so its verdict
never depends on its neighbours.

Legend: N images or embeddings, V views, H, W network view, C channels, R of the subspace, F kinds of fault,
B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from PIL import Image

from engine.deploy import abstained
from engine.deploy.abstained import AbstainedError
from engine.errors import BundleError, ExportError
from engine.evaluation.conformal import ABSTAIN_COVERAGE, FEWEST, conformal_quantile, upper_limit

Floats = NDArray[np.float32]
Images = NDArray[np.uint8]
Embed = Callable[[Images], Floats]

SOUND_IMAGES, FAULTY_IMAGES, VALIDATION_IMAGES = 2000, 400, 4000
"""At most so many training images, of each fault, and of the validation split."""
_SUBSPACE_SHARE = 4
FAR = 0.9
"""Share of sound validation images that stay below ``Checks.novelty_far``, and below ``fault_far``."""
SIGNS = ("novelty", "fault")
"""What the first films of an archive are counted by (``engine.deploy.archive_alarm``)."""
_LEAST_SCALE = 1e-6
_NAMED = 0.95
"""Share of the faults made for training that are reported by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A kind of fault: how it is made of a sound image and its neighbour, and the error that reports it."""

    make: Callable[[Images, Images, np.random.Generator], Images]
    error: type[AbstainedError]
    message: str


def _turned(quarters: int) -> Callable[[Images, Images, np.random.Generator], Images]:
    def turn(image_HW: Images, _: Images, rng: np.random.Generator) -> Images:
        turned_HW = np.ascontiguousarray(np.rot90(image_HW, quarters))
        return turned_HW if turned_HW.shape == image_HW.shape else _fitted(turned_HW, image_HW.shape, rng)

    return turn


def _half(image_HW: Images, _: Images, rng: np.random.Generator) -> Images:
    """One side of the image is missing."""
    height, width = image_HW.shape
    share = rng.uniform(0.4, 0.6)
    rows, columns = round(share * height), round(share * width)
    parts = (image_HW[:rows], image_HW[-rows:], image_HW[:, :columns], image_HW[:, -columns:])
    return _fitted(parts[rng.integers(len(parts))], image_HW.shape, rng)


def _quarter(image_HW: Images, _: Images, rng: np.random.Generator) -> Images:
    """A window of about half the height and half the width."""
    height, width = image_HW.shape
    rows, columns = (round(rng.uniform(0.4, 0.6) * side) for side in (height, width))
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    return _fitted(image_HW[top : top + rows, left : left + columns], image_HW.shape, rng)


def _two(image_HW: Images, other_HW: Images, rng: np.random.Generator) -> Images:
    return _fitted(np.concatenate([image_HW, other_HW], axis=1), image_HW.shape, rng)


def _fitted(image_HW: Images, size_HW: tuple[int, ...], rng: np.random.Generator) -> Images:
    """On the grid of a view: at random stretched over all of it, or with its aspect between black bars."""
    height, width = size_HW
    scale = min(height / image_HW.shape[0], width / image_HW.shape[1])
    inner = (round(scale * image_HW.shape[0]), round(scale * image_HW.shape[1]))
    rows, columns = inner if rng.random() < 1 / 2 else (height, width)
    canvas_HW = np.zeros((height, width), np.uint8)
    top, left = (height - rows) // 2, (width - columns) // 2
    small = Image.fromarray(image_HW).resize((columns, rows), Image.Resampling.BILINEAR)
    canvas_HW[top : top + rows, left : left + columns] = np.asarray(small)
    return canvas_HW


_ROTATED = "the image resembles those of this task turned by 90 or 180 degrees"
_CROPPED = "the image resembles a part of those of this task: something may be cut off"
FAULTS: dict[str, Fault] = {
    "turned_left": Fault(make=_turned(1), error=abstained.RotatedError, message=_ROTATED),
    "upside_down": Fault(make=_turned(2), error=abstained.RotatedError, message=_ROTATED),
    "turned_right": Fault(make=_turned(3), error=abstained.RotatedError, message=_ROTATED),
    "half": Fault(make=_half, error=abstained.CroppedError, message=_CROPPED),
    "quarter": Fault(make=_quarter, error=abstained.CroppedError, message=_CROPPED),
    "two": Fault(
        make=_two,
        error=abstained.SeveralPartsError,
        message="the image resembles two of this task's side by side",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """Fitted arrays: ``means_GC`` of sound images and of each fault (G = F + 1), standardised like all else.

    A ratio above ``fault_limit`` is a fault, a residual above ``novelty_limit`` is novel. ``near_F`` are the
    largest residuals at which a fault is reported by name; beyond, the image is out of distribution. A tenth
    of sound images have a residual above ``novelty_far``, and a tenth a ratio above ``fault_far``: whole
    archives are judged by them. ``limit`` is how the limits of single images were got.
    """

    centre_C: Floats
    scale_C: Floats
    means_GC: Floats
    probes_FC: Floats
    offsets_F: Floats
    subspace_RC: Floats
    near_F: Floats
    faults: tuple[str, ...]
    fault_limit: float
    novelty_limit: float
    novelty_far: float
    fault_far: float
    limit: str
    train: int
    validation: int
    coverage: float = ABSTAIN_COVERAGE

    def facts(self) -> dict[str, Any]:
        """All but the arrays, JSON-able."""
        plain = {name: value for name, value in self._values() if not isinstance(value, np.ndarray)}
        return {**plain, "faults": list(self.faults)}

    def save(self, path: Path) -> None:
        """Write the arrays as safetensors."""
        arrays = {name: value for name, value in self._values() if isinstance(value, np.ndarray)}
        # a transposed one would be written in its own order
        contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
        safetensors.numpy.save_file(contiguous, path)

    def _values(self) -> list[tuple[str, Any]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]

    def findings(self, embedding_BC: Floats) -> list[AbstainedError | None]:
        """Why the score of each instance is withheld; None where it is not."""
        return [self._finding(embedding_C) for embedding_C in embedding_BC]

    def is_far(self, embedding_BC: Floats) -> NDArray[np.bool_]:
        """Whether each instance lies further out than FAR of the sound validation images, by SIGNS [B, 2]."""
        novelty_B, fault_B = self._signs(embedding_BC)
        return np.stack([novelty_B > self.novelty_far, fault_B > self.fault_far], axis=1)

    def _signs(self, embedding_BC: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Residual and largest fault ratio of each instance."""
        z_BC = (embedding_BC - self.centre_C) / self.scale_C
        ratios_B = (z_BC @ self.probes_FC.T - self.offsets_F).max(1)
        return _residuals(z_BC - self.means_GC[0], self.subspace_RC), ratios_B

    def _finding(self, embedding_C: Floats) -> AbstainedError | None:
        z_C = (embedding_C - self.centre_C) / self.scale_C
        ratios_F = self.probes_FC @ z_C - self.offsets_F
        likest = int(ratios_F.argmax())
        is_faulty = bool(ratios_F[likest] > self.fault_limit)
        mean_C = self.means_GC[likest + 1 if is_faulty else 0]
        limit = float(self.near_F[likest]) if is_faulty else self.novelty_limit
        if _residuals((z_C - mean_C)[None], self.subspace_RC)[0] > limit:
            return abstained.OutOfDistributionError(
                "the image is unlike nearly all that the model was validated on"
            )
        if is_faulty:
            fault = FAULTS[self.faults[likest]]
            return fault.error(fault.message)
        return None


def load_checks(path: Path, facts: Mapping[str, Any]) -> Checks:
    """The Checks that ``save`` and ``facts`` described.

    Raises:
        BundleError: they are not of this release.
    """
    try:
        unknown = set(facts["faults"]) - set(FAULTS)
        if unknown:
            raise BundleError(f"{path} knows faults that this release does not: export the run again")
        arrays: dict[str, Any] = safetensors.numpy.load_file(path)
        return Checks(**arrays, **{**facts, "faults": tuple(facts["faults"])})
    except (OSError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise BundleError(f"{path} does not hold the checks of a bundle: export the run again") from error


def made(name: str, images_NVHW: Images, *, seed: int = 0) -> Images:
    """A fault of FAULTS made of each image, alike in all its views; the next image is its neighbour."""
    views = []
    for images_NHW in images_NVHW.swapaxes(0, 1):
        rng = np.random.default_rng(seed)
        pairs = zip(images_NHW, np.roll(images_NHW, 1, axis=0), strict=True)
        views.append([FAULTS[name].make(image_HW, other_HW, rng) for image_HW, other_HW in pairs])
    return np.stack([np.stack(view) for view in views], axis=1)


def fit_checks(embed: Embed, train_NVHW: Images, validation_NVHW: Images) -> Checks:
    """Checks of the network behind ``embed``.

    At most SOUND_IMAGES, FAULTY_IMAGES of each fault and VALIDATION_IMAGES are looked at, spread evenly.

    Raises:
        ExportError: there are fewer than FEWEST training or validation images.
    """
    if min(len(train_NVHW), len(validation_NVHW)) < FEWEST:
        raise ExportError(
            f"{len(train_NVHW)} training and {len(validation_NVHW)} validation images are too few for the "
            f"checks of a bundle ({FEWEST} of each are needed): train on more, or export with "
            "--without-checks, and look at every image yourself"
        )
    # Standardise by the sound training images.
    sound_NC = embed(_spread(train_NVHW, SOUND_IMAGES)).astype(np.float64)
    centre_C, scale_C = sound_NC.mean(0), np.maximum(sound_NC.std(0), _LEAST_SCALE)
    some_NVHW = _spread(train_NVHW, FAULTY_IMAGES)
    kinds = [(sound_NC - centre_C) / scale_C]
    for place, name in enumerate(FAULTS):
        kinds.append((embed(made(name, some_NVHW, seed=place)) - centre_C) / scale_C)
    # Linear discriminants: one covariance within all kinds; the ratio of fault f to sound is linear in z.
    means_GC = np.stack([kind_NC.mean(0) for kind_NC in kinds])
    centred = [kind_NC - mean_C for kind_NC, mean_C in zip(kinds, means_GC, strict=True)]
    within_CC = shrunk_covariance(np.concatenate(centred))
    probes_FC = np.linalg.solve(within_CC, (means_GC[1:] - means_GC[0]).T).T
    # Novelty: the leading directions of the sound images; what lies outside them is the residual.
    _, vectors_CC = np.linalg.eigh(shrunk_covariance(kinds[0]))
    subspace_RC = vectors_CC.T[-(len(centre_C) // _SUBSPACE_SHARE) :]
    near_F = [np.quantile(_residuals(kind_NC, subspace_RC), _NAMED) for kind_NC in centred[1:]]
    unlimited = Checks(
        centre_C=centre_C.astype(np.float32),
        scale_C=scale_C.astype(np.float32),
        means_GC=means_GC.astype(np.float32),
        probes_FC=probes_FC.astype(np.float32),
        offsets_F=(probes_FC * (means_GC[1:] + means_GC[0]) / 2).sum(1).astype(np.float32),
        subspace_RC=subspace_RC.astype(np.float32),
        near_F=np.array(near_F, np.float32),
        faults=tuple(FAULTS),
        fault_limit=np.inf,
        novelty_limit=np.inf,
        novelty_far=np.inf,
        fault_far=np.inf,
        limit="",
        train=len(sound_NC),
        validation=0,
    )
    return _limited(unlimited, embed(_spread(validation_NVHW, VALIDATION_IMAGES)))


def shrunk_covariance(centred_NC: NDArray[np.float64]) -> NDArray[np.float64]:
    """Covariance [C, C] of centred rows, drawn towards a multiple of the identity (Ledoit and Wolf 2004)."""
    count, channels = centred_NC.shape
    sample_CC = centred_NC.T @ centred_NC / count
    target_CC = np.trace(sample_CC) / channels * np.eye(channels)
    apart = float(((sample_CC - target_CC) ** 2).sum())
    noise = float(((centred_NC**2).sum(1) ** 2).sum() / count**2 - (sample_CC**2).sum() / count)
    share = min(max(noise / apart, 0.0), 1.0) if apart > 0 else 1.0
    shrunk_CC: NDArray[np.float64] = (1 - share) * sample_CC + share * target_CC
    return shrunk_CC


def _limited(checks: Checks, sound_NC: Floats) -> Checks:
    """The checks with limits that ABSTAIN_COVERAGE of sound images stay below, each alone."""
    novelty_N, ratios_N = checks._signs(sound_NC)
    fault, novelty = upper_limit(ratios_N), upper_limit(novelty_N, is_positive=True)
    novelty_far, fault_far = (conformal_quantile(values_N, FAR) for values_N in (novelty_N, ratios_N))
    if fault is None or novelty is None or novelty_far is None or fault_far is None:
        raise ExportError(f"{len(sound_NC)} validation images are too few for a limit")
    return replace(
        checks,
        fault_limit=fault.value,
        novelty_limit=novelty.value,
        novelty_far=novelty_far,
        fault_far=fault_far,
        limit=novelty.kind,
        validation=len(sound_NC),
    )


def _residuals(apart_NC: NDArray[Any], subspace_RC: NDArray[Any]) -> NDArray[np.float64]:
    """Squared lengths outside the subspace."""
    outside_N: NDArray[np.float64] = (apart_NC**2).sum(1) - ((apart_NC @ subspace_RC.T) ** 2).sum(1)
    return outside_N


def _spread(images_NVHW: Images, count: int) -> Images:
    """At most ``count`` images, evenly over all."""
    places = np.linspace(0, len(images_NVHW) - 1, min(count, len(images_NVHW))).round().astype(np.int64)
    return images_NVHW[places]
