"""Pseudo-labels: what several models say of one film becomes a label, and their disagreement its spread.

Models that were trained on the very films would agree for the wrong reason: give runs of other data.
Legend: B batch, V views of a network, N samples, Q covariate columns, H, W view.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from engine.errors import TrainingError, UsageError
from engine.imaging.augment import Augmentation, augmented, draw
from engine.ingest import covariates
from engine.ingest.samples_folder import batches, covariate_columns, manifest_of
from engine.models.network import Network, Outputs
from engine.models.ordered_bins import expectation
from engine.store import ledger
from engine.store.csv_rows import KEY, read_rows
from engine.store.files import replacing
from engine.store.schema import tensor_values
from engine.tasks import task_named
from engine.tasks.ages.inputs import PSEUDO_COLUMNS
from engine.tasks.ages.pseudo_labels import agreed
from engine.tasks.task import Task
from engine.training.forward import outputs
from engine.training.run_folder import load_net, read_run

PAIR_KEY = "paired_sop_instance_uid"
_STRANGE = "the label table {labels} names no pair that the models saw: are its UIDs those of --data?"
_BATCH = 64
_NEARBY = Augmentation(rotation_deg=5.0, scale=0.05, shift=0.03, gamma=0.1, contrast=0.1)
"""Views beside the plain one: as a film might also have been taken."""


@dataclass(frozen=True, slots=True)
class PseudoLabel:
    """Mean and spread in months of what the models say of one film."""

    mean_months: float
    sd_months: float


def pseudo_labels(
    runs: Sequence[Path], data: Path, *, views: int = 1, on_progress: Callable[[int, int], None] | None = None
) -> dict[str, PseudoLabel]:
    """What the runs say of every sample of an ingest folder, by SOP instance UID.

    Each run sees each film ``views`` times: as it is, then turned and exposed a little differently.

    Raises:
        TrainingError: a run has not finished, or was trained on another view than the folder holds.
    """
    task = task_named(read_run(runs[0])["task"])
    nets = [_open(run, data, task) for run in runs]
    given = [task.restricted(net.facts.covariates).covariates for net in nets]
    columns = [KEY, "image", *(name for one in given for name in covariates.sources(one))]
    found: dict[str, PseudoLabel] = {}
    shards = len(ledger.tables_of(data, "samples"))
    for done, table in enumerate(batches(data, columns), 1):
        images_N1HW = tensor_values(table["image"])[:, None]
        known = [covariate_columns(table, one) for one in given]
        months = [
            outputs(net, images_N1HW, known_NQ, _kept, batch_size=_BATCH, see=see)["months"]
            for see in _views_of(views)
            for net, known_NQ in zip(nets, known, strict=True)
        ]
        mean_N, sd_N = agreed(np.stack(months))
        pairs = zip(table[KEY].to_pylist(), mean_N.tolist(), sd_N.tolist(), strict=True)
        found |= {uid: PseudoLabel(mean, sd) for uid, mean, sd in pairs}
        if on_progress:
            on_progress(done, shards)
    return found


def write_pseudo_labels(labels: Path, out: Path, found: Mapping[str, PseudoLabel]) -> dict[str, int]:
    """Copy a label table to ``out``; a row whose film has a labelled pair gets its mean and sd.

    A row is joined by PAIR_KEY to the film that the models saw. Returns ``rows`` and ``pseudo_labelled``.

    Raises:
        UsageError: the table cannot be read, names no pairs, or none of those that were found.
    """
    rows = _rows(labels)
    if not any(row[PAIR_KEY] in found for row in rows):
        raise UsageError(_STRANGE.format(labels=labels))
    labelled = 0
    with replacing(out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        names = [name for name in rows[0] if name not in PSEUDO_COLUMNS]
        writer = csv.DictWriter(file, [*names, *PSEUDO_COLUMNS], lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            label = found.get(row[PAIR_KEY])
            labelled += label is not None
            values = (f"{label.mean_months:.3f}", f"{label.sd_months:.3f}") if label else ("", "")
            writer.writerow({**row, **dict(zip(PSEUDO_COLUMNS, values, strict=True))})
    return {"rows": len(rows), "pseudo_labelled": labelled}


def require_pairs(labels: Path, data: Path) -> None:
    """Refuse a table whose pairs are other films than those of an ingest folder, before any model runs.

    Raises:
        UsageError: so it is, or the table cannot be read.
    """
    pairs = {row[PAIR_KEY] for row in _rows(labels)}
    if pairs.isdisjoint(uid for table in batches(data, [KEY]) for uid in table[KEY].to_pylist()):
        raise UsageError(_STRANGE.format(labels=labels))


def _rows(labels: Path) -> list[dict[str, str]]:
    table = read_rows(labels, "label table")
    if not table.cells or PAIR_KEY not in table.names:
        raise table.refused(f"needs rows with {KEY} and {PAIR_KEY}")
    uids = {name: table.uids(name) for name in (KEY, PAIR_KEY)}
    columns = {name: uids.get(name) or table.texts(name) for name in table.names if name}
    made = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    table.tell()
    return made


def _open(run: Path, data: Path, task: Task) -> Network:
    seen = read_run(run)["data"]["rule"]["view"]
    if seen != manifest_of(data)["task"]["rule"]["view"]:
        raise TrainingError(f"{run} was trained on another view than {data} holds: ingest with its --size")
    return load_net(run, task.learning().network)


def _kept(answer: Outputs) -> dict[str, Tensor]:
    return {"months": expectation(answer.logits_BK)}


def _views_of(views: int) -> Iterator[Callable[[Tensor], Tensor]]:
    """The film as it is, then turned and exposed a little differently; drawn by its place in a batch."""
    yield lambda x_BVHW: x_BVHW
    for view in range(1, views):
        yield lambda x_BVHW, n=view: augmented(  # type: ignore[misc]
            x_BVHW, draw(len(x_BVHW), _NEARBY, seed=0, epoch=n)
        )
