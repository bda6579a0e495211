"""Pseudo-labels: what several models say of one film becomes a label, and their disagreement its spread.

Models that were trained on the very films would agree for the wrong reason: give runs of other data.
Legend: B batch, A answers (runs times views), N samples.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import TrainingError, UsageError
from engine.imaging.augment import Augmentation, augmented, draw
from engine.ingest import covariates
from engine.ingest.covariates import Covariate
from engine.models.network import AgeNet
from engine.models.ordered_bins import expectation
from engine.store import ledger
from engine.store.files import read_json, replacing
from engine.store.schema import tensor_values
from engine.tasks import task_named
from engine.tasks.ages.inputs import PSEUDO_COLUMNS
from engine.tasks.ages.pseudo_labels import agreed
from engine.training.run_folder import load_net, read_run

KEY, PAIR_KEY = "sop_instance_uid", "paired_sop_instance_uid"
_BATCH = 64
_NEARBY = Augmentation(rotation_deg=5.0, scale=0.05, shift=0.03, gamma=0.1, contrast=0.1)
"""Views beside the plain one: as a film might also have been taken."""


@dataclass(frozen=True, slots=True)
class PseudoLabel:
    """Mean and spread in months of what the models say of one film."""

    mean_months: float
    sd_months: float


def pseudo_labels(
    runs: Sequence[Path],
    data: Path,
    *,
    views: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, PseudoLabel]:
    """What the runs say of every sample of an ingest folder, by SOP instance UID.

    Each run sees each film ``views`` times: as it is, then turned and exposed a little differently.

    Raises:
        TrainingError: a run has not finished, or was trained on another view than the folder holds.
    """
    nets = [_open(run, data) for run in runs]
    task = task_named(read_run(runs[0])["task"])
    given = [task.restricted(net.facts.covariates).covariates for net in nets]
    paths = ledger.tables_of(data, "samples")
    found: dict[str, PseudoLabel] = {}
    for done, path in enumerate(paths, 1):
        for uids, images_BHW, rows in _batches(path, data, given):
            mean_B, sd_B = agreed(_answers(nets, given, images_BHW, rows, views=views))
            pairs = zip(uids, mean_B.tolist(), sd_B.tolist(), strict=True)
            found |= {uid: PseudoLabel(mean, sd) for uid, mean, sd in pairs}
        if on_progress:
            on_progress(done, len(paths))
    return found


def write_pseudo_labels(labels: Path, out: Path, found: Mapping[str, PseudoLabel]) -> dict[str, int]:
    """Copy a label table to ``out``; a row whose film has a labelled pair gets its mean and sd.

    A row is joined by PAIR_KEY to the film that the models saw. Returns ``rows`` and ``pseudo_labelled``.

    Raises:
        UsageError: the table cannot be read or names no pairs.
    """
    try:
        with labels.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UsageError(f"the label table {labels} cannot be read ({error.strerror})") from error
    if not rows or PAIR_KEY not in rows[0] or KEY not in rows[0]:
        raise UsageError(f"the label table {labels} needs rows with {KEY} and {PAIR_KEY}")
    labelled = 0
    with replacing(out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        names = [name for name in rows[0] if name not in PSEUDO_COLUMNS]
        writer = csv.DictWriter(file, [*names, *PSEUDO_COLUMNS], lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            label = found.get(row[PAIR_KEY])
            labelled += label is not None
            told = (f"{label.mean_months:.3f}", f"{label.sd_months:.3f}") if label else ("", "")
            writer.writerow({**row, **dict(zip(PSEUDO_COLUMNS, told, strict=True))})
    return {"rows": len(rows), "pseudo_labelled": labelled}


def _open(run: Path, data: Path) -> AgeNet:
    seen = read_run(run)["data"]["rule"]["view"]
    if seen != read_json(data / "manifest.json")["task"]["rule"]["view"]:
        raise TrainingError(f"{run} was trained on another view than {data} holds: ingest with its --size")
    return load_net(run)


def _batches(
    path: Path, data: Path, given: Sequence[Sequence[Covariate]]
) -> Iterator[tuple[list[str], NDArray[np.uint8], pa.Table]]:
    """UIDs, images [B, H, W] and covariate columns of a shard's valid samples."""
    names = [name for one in given for name in covariates.sources(one)]
    columns = list(dict.fromkeys(["instance_index", "image", KEY, *names]))
    table = ledger.read_table(path, columns=columns)
    table = table.filter(pc.invert(pc.is_in(table["instance_index"], ledger.superseded(data))))
    for start in range(0, table.num_rows, _BATCH):
        part = table.slice(start, _BATCH)
        yield part[KEY].to_pylist(), tensor_values(part["image"]), part


def _answers(
    nets: Sequence[AgeNet],
    given: Sequence[Sequence[Covariate]],
    images_BHW: NDArray[np.uint8],
    rows: pa.Table,
    *,
    views: int,
) -> NDArray[np.float32]:
    """Months [A, B]."""
    x_B1HW = torch.from_numpy(images_BHW)[:, None].float() / 255
    told = rows.drop_columns(["image"]).to_pylist()
    answers: list[Tensor] = []
    with torch.inference_mode():
        for view in range(views):
            shown = x_B1HW if view == 0 else augmented(x_B1HW, draw(len(x_B1HW), _NEARBY, seed=0, epoch=view))
            for net, known in zip(nets, given, strict=True):
                covariates_BQ = torch.from_numpy(covariates.columns(told, known))
                answers.append(expectation(net(shown, covariates_BQ).logits_BK))
    return torch.stack(answers).numpy()
