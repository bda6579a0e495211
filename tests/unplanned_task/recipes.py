"""A teacher, which sees the box alone, and a student, which sees the whole view; of few, short epochs."""

from __future__ import annotations

from dataclasses import replace

from engine.training.recipe import Architecture, Inputs, Optimiser, Recipe, Schedule


def wear_teacher() -> Recipe:
    return Recipe(
        name="wear-teacher",
        task="ankle-wear",
        role="teacher",
        network=Architecture(backbone="test_resnet"),
        schedule=Schedule(epochs=2),
        optimiser=Optimiser(batch_size=16),
        inputs=Inputs(covariate_dropout=0.3),
        objective={"smoothing": 0.1},
    )


def wear_student() -> Recipe:
    return replace(wear_teacher(), name="wear-student", role="student", distill={"kd": 1.0, "hint": 1.0})
