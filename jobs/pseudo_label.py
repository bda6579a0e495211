"""``osteoray pseudo-label``: what models of hands say becomes the label of the knees of the same children."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from jobs.console import finish, progress


def pseudo_label(  # noqa: PLR0913  one parameter an option
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Finished runs, e.g. the folds of a hand model.")
    ],
    data: Annotated[Path, typer.Option(help="Ingest folder of the paired films, of the runs' own view.")],
    labels: Annotated[
        Path,
        typer.Option(
            help="CSV with sop_instance_uid and paired_sop_instance_uid, the film that the runs see."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="CSV", help="Where to write LABELS with the pseudo-labels.")],
    *,
    views: Annotated[
        int, typer.Option(min=1, help="Times each run sees a film: as it is, then slightly turned.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON, for scripts.")] = False,
) -> None:
    """Label films by what several runs say of their pairs: columns pseudo_mean_months and pseudo_sd_months.

    The spread over runs and views says how far a label is trusted. The runs must not have been trained on
    the films that they label.

    Example: osteoray pseudo-label hand0 hand1 --data hands --labels archive/labels.csv --out pseudo.csv,
    then osteoray ingest archive --task knee-age --labels pseudo.csv --out knees.
    """
    import torch

    from engine.tasks.ages.pseudo_labelling import pseudo_labels, write_pseudo_labels

    torch.set_num_threads(os.cpu_count() or 1)
    with progress("pseudo-label", "shards") as report:
        found = pseudo_labels(runs, data, views=views, on_progress=report)
    spread = [label.sd_months for label in found.values()]
    summary = {
        "labels": str(out),
        "runs": len(runs),
        "films": len(found),
        **write_pseudo_labels(labels, out, found),
        "mean_sd_months": round(sum(spread) / max(len(spread), 1), 2),
    }
    finish("pseudo-label", summary, as_json=as_json)
