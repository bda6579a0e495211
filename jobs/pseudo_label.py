"""`osteoray pseudo-label`: predictions of hand models become labels of the knees of the same children."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from jobs.console import finish, progress


def pseudo_label(  # noqa: PLR0913  one parameter an option
    runs: Annotated[
        list[Path],
        typer.Argument(
            exists=True, metavar="RUN...", help="Finished runs, such as the folds of a hand model."
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            exists=True,
            help="Folder that `osteoray ingest` wrote of the paired films, with the view of the runs.",
        ),
    ],
    labels: Annotated[
        Path,
        typer.Option(
            exists=True,
            help="CSV with sop_instance_uid and paired_sop_instance_uid (the film that the runs see).",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="CSV", help="Where to write LABELS with the added columns.")],
    *,
    views: Annotated[
        int,
        typer.Option(
            min=1, max=64, help="How many copies of a film each run sees: unchanged, then slightly turned."
        ),
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON, for scripts.")] = False,
) -> None:
    """Label films with what several runs predict for their pairs: a mean and a spread.

    Training trusts a label less where its spread over runs and copies is larger. The runs must not have been
    trained on the films that they label.

    Example: osteoray pseudo-label hand0 hand1 --data hands --labels archive/labels.csv --out pseudo.csv,
    then osteoray ingest archive --task knee-age --labels pseudo.csv --out knees.
    """
    import torch

    from engine.tasks.ages.pseudo_labelling import pseudo_labels, require_pairs, write_pseudo_labels

    require_pairs(labels, data)
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
