"""Recipes by name: each a function that returns a complete, typed configuration of a training.

Variants call a base recipe and change fields; nothing else configures a training.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from engine.errors import UnknownNameError
from engine.imaging.augment import Augmentation
from engine.training.recipe import Architecture, Compute, Inputs, Optimiser, Recipe, Schedule, changed

DISTILL = {"bin_kl": 10.0, "reg": 1.0, "kd": 1.0, "hint": 5.0, "gradcam": 2.0}
"""The task loss is in months, its gradient large; these bring the terms to the same order. Not tuned."""
MILD = Augmentation(rotation_deg=10.0, scale=0.1, shift=0.05, gamma=0.2, contrast=0.1)
"""For small networks from scratch, which full augmentation slows more than it helps in few epochs."""

AS_IT_IS = Augmentation(rotation_deg=0.0, scale=0.0, shift=0.0, gamma=0.0, contrast=0.0)


def hand_teacher() -> Recipe:
    """A residual network from scratch; no weights to fetch."""
    return Recipe(
        name="hand-teacher",
        task="hand-age",
        role="teacher",
        network=Architecture(backbone="resnet18"),
        schedule=Schedule(epochs=14),
        compute=Compute(precision="bf16"),
    )


def hand_teacher_pretrained() -> Recipe:
    """EfficientNet-lite0 from ImageNet; give the file with ``--set weights=PATH`` (benchmarks/README.md)."""
    return Recipe(
        name="hand-teacher-pretrained",
        task="hand-age",
        role="teacher",
        network=Architecture(backbone="tf_efficientnet_lite0"),
        schedule=Schedule(epochs=6),
        optimiser=Optimiser(learning_rate=1e-3, weight_decay=0.02),
    )


def hand_student() -> Recipe:
    """About a million parameters, distilled with all five terms."""
    return Recipe(
        name="hand-student",
        task="hand-age",
        role="student",
        network=Architecture(backbone="mobilenetv3_small_100"),
        schedule=Schedule(epochs=40),
        optimiser=Optimiser(learning_rate=2e-3, weight_decay=0.02),
        augmentation=MILD,
        distill=dict(DISTILL),
    )


def hand_cut_student() -> Recipe:
    """The first four stages of the teacher's own trunk, 0.7 million parameters, distilled.

    It starts from the teacher's weights: ``--set weights=TEACHER/model.safetensors``. The student without a
    teacher starts as the teacher did, from ImageNet: ``--set distill=none --set weights=PATH``.
    """
    return changed(
        hand_teacher_pretrained(),
        name="hand-cut-student",
        role="student",
        stages=4,
        epochs=16,
        distill={"bin_kl": 20.0, "reg": 1.0, "hint": 10.0, "gradcam": 2.0},
    )


def hand_region() -> Recipe:
    """One view of a hand, or several joined ones: the teacher side of `osteoray study hand-age`.

    Augmentation moves and scales every view by up to 8 and 15 %: that is the jitter of boxes, too.
    """
    return changed(hand_teacher(), name="hand-region", backbone="resnet18")


def hand_regression() -> Recipe:
    """The control of the distribution head: one output and the absolute error."""
    return changed(hand_region(), name="hand-regression", head="regression", objective={"kl": 0.0})


def hand_region_student() -> Recipe:
    """One pass over the whole image, taught by the recorded outputs of a network of several views.

    Only terms on logits and embedding: the teacher's maps are of other pixels than the student's.
    """
    return changed(
        hand_student(),
        name="hand-region-student",
        distill={"bin_kl": 10.0, "reg": 1.0, "kd": 1.0, "rkd": 5.0},
    )


KNEE = Augmentation(rotation_deg=15.0, scale=0.1, shift=0.05, gamma=0.3, contrast=0.2)


def knee_teacher() -> Recipe:
    """Knee, sex and age; learns from pseudo-labels, made of the paired hands (`osteoray pseudo-label`).

    Start from a hand model with ``--set weights=HAND_RUN/model.safetensors``; five folds with
    ``--set folds=5 --set fold=0``; where experts read the films, ``--set labels=both``.
    """
    return Recipe(
        name="knee-teacher",
        task="knee-age",
        role="teacher",
        network=Architecture(backbone="resnet18"),
        schedule=Schedule(epochs=30),
        inputs=Inputs(labels="pseudo", covariate_dropout=0.3),
        compute=Compute(precision="bf16"),
        objective={"delta": 6.0},
        augmentation=KNEE,
    )


def knee_image_sex() -> Recipe:
    """The control without the chronological age."""
    return changed(knee_teacher(), name="knee-image-sex", covariates=("sex",), covariate_dropout=0.0)


def knee_with_age() -> Recipe:
    """The network of knee-image-sex with the chronological age as a further covariate.

    Only the layer that takes the covariates learns, on films as they are: a network that learns both at once
    leans on the age. Give the run with ``--set weights=RUN/model.safetensors``; ``--set covariates=sex`` is
    the control.
    """
    return changed(
        knee_teacher(),
        name="knee-with-age",
        learns="covariates",
        epochs=16,
        batch_size=16,
        learning_rate=2e-3,
        augmentation=AS_IT_IS,
    )


def knee_no_image() -> Recipe:
    """The control that sees no image: what sex and chronological age know alone."""
    return changed(knee_teacher(), name="knee-no-image", hide_image=True, covariate_dropout=0.0)


def knee_student() -> Recipe:
    """Distilled from the folds: `osteoray record-teacher` their runs, then `train --teacher` the cache."""
    return changed(
        knee_teacher(),
        name="knee-student",
        role="student",
        backbone="mobilenetv3_small_100",
        epochs=60,
        learning_rate=2e-3,
        weight_decay=0.02,
        augmentation=MILD,
        distill={"bin_kl": 10.0, "reg": 1.0, "kd": 1.0},
    )


def demo_teacher() -> Recipe:
    """Small enough for the demo's few minutes."""
    return changed(
        hand_teacher(), name="demo-teacher", backbone="resnet10t", epochs=14, batch_size=16, augmentation=MILD
    )


def demo_student() -> Recipe:
    """The demo's student."""
    return changed(hand_student(), name="demo-student", epochs=20, batch_size=16)


HEAD = Augmentation(rotation_deg=12.0, scale=0.15, shift=0.08, gamma=0.25, contrast=0.2)
"""Of a crop these are the jitter of the reader's box, too."""


def sos_teacher() -> Recipe:
    """Sees the manual crop: data of ``osteoray ingest --crop labels.csv --region sos --size 160x160``."""
    return Recipe(
        name="sos-teacher",
        task="sos-stage",
        role="teacher",
        network=Architecture(backbone="resnet10t"),
        schedule=Schedule(epochs=40),
        optimiser=Optimiser(batch_size=16),
        augmentation=HEAD,
    )


def sos_student() -> Recipe:
    """Sees the whole film; taught by the recorded outputs (logits, dense) of the network of the crop."""
    return Recipe(
        name="sos-student",
        task="sos-stage",
        role="student",
        network=Architecture(backbone="tf_efficientnet_lite0", stages=4),
        schedule=Schedule(epochs=40),
        optimiser=Optimiser(batch_size=16, learning_rate=2e-3, weight_decay=0.02),
        augmentation=HEAD,
        objective={"outside": 0.5},
        distill={"kd": 0.5, "spatial": 0.5, "gradcam": 1.0},
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe().name: recipe
    for recipe in (
        hand_teacher,
        hand_teacher_pretrained,
        hand_student,
        hand_cut_student,
        hand_region,
        hand_regression,
        hand_region_student,
        knee_teacher,
        knee_image_sex,
        knee_with_age,
        knee_no_image,
        knee_student,
        sos_teacher,
        sos_student,
        demo_teacher,
        demo_student,
    )
}


def recipe_named(name: str) -> Recipe:
    """The recipe called ``name``: of RECIPES, or of an installed package (its entry point).

    Raises:
        UnknownNameError: there is none.
    """
    if name in RECIPES:
        return RECIPES[name]()
    for entry in entry_points(group="osteoray.recipes", name=name):
        recipe: Recipe = entry.load()()
        return recipe
    raise UnknownNameError("recipe", name, RECIPES)
