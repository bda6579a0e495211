"""What tasks of skeletal age share: labels, answer, learning, figures, calibration, regions, pseudo-labels.

``answer`` says what is predicted and how it is reported, ``inputs`` what goes in, ``learning`` how it is
learnt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.training.learning import Learning


def learning_of_ages() -> Learning:
    """How ages are learnt. Brings torch, which importing a task does not."""
    from engine.tasks.ages.learning import AGE_LEARNING

    return AGE_LEARNING
