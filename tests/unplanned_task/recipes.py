"""A teacher, which sees the box alone, and a student, which sees the whole view; of few, short epochs."""

from __future__ import annotations

from dataclasses import replace

from engine.training.recipe import Recipe


def wear_teacher() -> Recipe:
    return Recipe(
        name="wear-teacher",
        task="ankle-wear",
        role="teacher",
        backbone="test_resnet",
        epochs=2,
        batch_size=16,
        covariate_dropout=0.3,
    )


def wear_student() -> Recipe:
    return replace(wear_teacher(), name="wear-student", role="student", distill={"kd": 1.0, "hint": 1.0})
