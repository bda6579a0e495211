"""A tiny made training set: a bright disc grows with age. In memory, or as an ingest folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import books, sources
from engine.dicom.write import Facts, uid_from, write_instance
from engine.instance import InputRule
from engine.labels import Labels
from engine.manifest import sha256_of_facts
from engine.recipe import Recipe
from engine.samples import TrainingSet
from engine.shard import ReadSpec, read_shard
from engine.task import Task
from engine.tasks import task_named

SIZE = 48
LABEL = "bone_age_months"
BACKBONE = "test_resnet"
"""The smallest of timm's residual networks: under half a million parameters with our head."""


def tiny_recipe(**changes: Any) -> Recipe:
    base = Recipe(
        name="tiny", task="hand-age", role="teacher", backbone=BACKBONE, epochs=2, batch_size=16, warmup=0.2
    )
    return replace(base, **changes)


def disc(months: float, size: int = SIZE) -> NDArray[np.uint8]:
    """A bright disc on dark grey; its radius goes from 1/8 to 3/8 of the side over 1..240 months."""
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    radius = size * (0.125 + 0.25 * months / 240)
    image: NDArray[np.uint8] = np.where(np.hypot(rows, columns) < radius, 230, 20).astype(np.uint8)
    return image


def disc_set(count: int, *, seed: int = 0) -> TrainingSet:
    """Discs of random ages in memory: of ten patients in a row seven are train, one val, two test."""
    months_N = np.random.default_rng(seed).uniform(6, 234, count).astype(np.float32)
    sexes = np.array(["M", "F"])[np.arange(count) % 2]
    splits = np.array([*["train"] * 7, "val", "test", "test"])[np.arange(count) % 10]
    return TrainingSet(
        images_NVHW=np.stack([disc(months) for months in months_N])[:, None],
        to_network_N33=np.broadcast_to(np.eye(3), (count, 3, 3)),
        months_N=months_N,
        covariates_NQ=np.where(sexes == "M", 1, -1).astype(np.float32)[:, None],
        patients_N=np.array([f"{index:032x}" for index in range(count)]),
        uids_N=np.array([f"2.25.{index + 1}" for index in range(count)]),
        patient_sex_N=sexes,
        age_N=np.full(count, np.nan, np.float32),
        pseudo_N2=np.full((count, 2), np.nan, np.float32),
        is_expert_N=np.ones(count, bool),
        splits_N=splits,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One instance of a made archive. ``months`` None leaves it without a label."""

    patient: str
    months: float | None
    split: str | None = None
    sex: str | None = "F"


def small_view(task: Task, size: int = SIZE) -> Task:
    view = replace(task.rule.view, size_HW=(size, size), steps=("resize_pad",))
    return replace(task, rule=InputRule(sop_classes=task.rule.sop_classes, view=view))


def write_ingest(
    folder: Path,
    made: Sequence[Made],
    *,
    shard_size: int = 16,
    labelled: bool = True,
    draw: Callable[[float], NDArray[np.uint8]] = disc,
) -> Path:
    """Write an archive, of discs or what ``draw`` makes of months, and ingest it in this process.

    Returns the ingest folder.
    """
    archive, out = folder / "archive", folder / "samples"
    archive.mkdir(parents=True)
    values, splits = {}, {}
    for index, one in enumerate(made):
        uid = uid_from(str(folder), str(index))
        facts = Facts(
            sop_instance_uid=uid,
            study_instance_uid=uid_from("study", uid),
            series_instance_uid=uid_from("series", uid),
            patient_id=one.patient,
            patient_sex=one.sex,
            bits_stored=8,
        )
        write_instance(archive / f"{index:05d}.dcm", draw(one.months or 100), facts)
        values[uid] = {LABEL: one.months}
        if one.split is not None:
            splits[uid] = one.split
    task = small_view(task_named("hand-age"))
    spec = ReadSpec(
        source=str(archive),
        folder=out,
        rule=task.rule,
        salt=b"a salt for tests",
        label_names=(LABEL,) if labelled else (),
        labels=Labels(values, splits) if labelled else None,
    )
    plan = sources.plan(spec.source, shard_size)
    out.mkdir()
    books.begin(out, {"kind": "ingest", "config_sha256": sha256_of_facts(0), "task": task.facts()})
    books.write_plan(out, plan)
    for shard in books.missing_shards(out, plan):
        rows = [row for row in plan.to_pylist() if row["shard"] == shard]
        books.commit_shard(out, shard, read_shard(rows, spec))
    books.close(out, plan, {})
    return out
