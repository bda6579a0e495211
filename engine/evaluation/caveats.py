"""What a reader of scores must know first, in plain sentences: of a bundle, and of a scored archive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.evaluation.conformal import MEASURED

_SAYS_SOMETHING = 20
"""Judged films from which on a share is more than chance."""


def of_bundle(facts: Mapping[str, Any]) -> list[str]:
    """What to know of a bundle with these facts before its scores are read; nothing of a whole one."""
    task, checks = facts["task"]["name"], facts.get("checks")
    if not checks:
        return [
            f"The {task} model has no checks: it scores whatever it is shown, also images of something else."
        ]
    said = []
    if checks["limit"] != "conformal":
        said.append(
            f"The checks of the {task} model were fitted on {checks['validation']} images only, so their "
            f"limits are estimated, not measured (that takes {MEASURED})."
        )
    if (facts.get("calibration") or {}).get("max_doubt") is None:
        said.append(f"The {task} model has no limit of doubt: it also gives the scores that it is unsure of.")
    return said


def of_scores(manifest: Mapping[str, Any]) -> list[str]:
    """What to know of a score folder with this manifest before its rows are read."""
    archive = manifest.get("archive") or {}
    foreign = {task: one for task, one in archive.get("tasks", {}).items() if one["is_foreign"]}
    told = [_foreign(task, one, is_accepted=archive["accepted"]) for task, one in foreign.items()]
    for task, counts in (manifest.get("counts") or {}).get("tasks", {}).items():
        withheld, judged = counts.get("abstained", 0), counts.get("abstained", 0) + counts.get("scored", 0)
        if task not in foreign and judged >= _SAYS_SOMETHING and withheld > judged / 2:
            told.append(
                f"The {task} scores of {withheld} of {judged} films are withheld: this archive may not be "
                "like the training images. The reasons stand in the report."
            )
    return [*told, *(sentence for facts in manifest.get("models", []) for sentence in of_bundle(facts))]


def is_withheld(manifest: Mapping[str, Any]) -> bool:
    """Whether a run gave no score of some task, since its archive is foreign to the model."""
    archive = manifest.get("archive") or {"accepted": True}
    return not archive["accepted"] and any(one["is_foreign"] for one in archive["tasks"].values())


def _foreign(task: str, found: Mapping[str, Any], *, is_accepted: bool) -> str:
    end = (
        "The scores stand because of --accept-foreign."
        if is_accepted
        else "All its scores are withheld. Where labels show that the model is right here, score into "
        "another --out with --accept-foreign."
    )
    return (
        f"This archive is not like the training images of the {task} model: of its first {found['judged']} "
        f"films {found['far']} lie further out than nine tenths of the validation images do. {end}"
    )
