"""`osteoray regions`: finds regions by a network's attention, as boxes for `ingest --crop`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from engine.errors import UsageError
from engine.imaging.boxes import write_boxes
from engine.store.files import read_json, replacing, sha256_of_file
from engine.tasks import task_named
from engine.training.run_folder import WEIGHTS_NAME, read_run
from jobs.console import finish, progress


def regions(
    run: Annotated[
        Path, typer.Argument(exists=True, help="Finished run with one view, whose attention is used.")
    ],
    data: Annotated[
        Path, typer.Option(exists=True, help="Folder that `osteoray ingest` wrote, with the view of the run.")
    ],
    out: Annotated[Path, typer.Option(metavar="BOXES", help="Parquet table to write.")],
    together: Annotated[
        bool,
        typer.Option("--together", help="Use the mean attention over all images, not that of each image."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON, for scripts.")] = False,
) -> None:
    """Find hand, carpals and metacarpals in every sample from a network's attention. Needs no labels.

    With --together all images are aligned, and the regions are taken from the mean attention; an image that
    cannot be aligned uses its own. This helped on phantoms. On radiographs, look at the boxes first.

    Boxes are in original pixels. An instance without a region gets the whole image and is flagged. For a run
    on samples of `ingest --crop BOXES --region carpals --erase`, only the metacarpals are searched.
    """
    import torch

    from engine.tasks.ages.find_regions import find_boxes, found_shares
    from engine.training.run_folder import load_net

    facts = read_run(run)
    if out.exists():
        raise UsageError(f"{out} exists: name another table, or remove it first")
    view = read_json(data / "manifest.json").get("task", {}).get("rule", {}).get("view", {})
    trained_on = facts["data"]["rule"]["view"]
    if view != trained_on:
        raise UsageError(
            f"{run} was trained on a view of {trained_on['size_HW']} pixels, {data} holds "
            f"{view.get('size_HW')}: ingest with the same --size"
        )
    torch.set_num_threads(os.cpu_count() or 1)
    net = load_net(run, task_named(facts["task"]).learning().network)
    with progress("regions") as report:
        report(0, 0)
        digest = sha256_of_file(run / WEIGHTS_NAME)
        rows = list(
            find_boxes(
                net,
                data,
                digest,
                report,
                is_together=together,
            )
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        write_boxes(temporary, rows)
    shares = found_shares(rows)
    instances = len({row["sop_instance_uid"] for row in rows})
    finish("regions", {"out": str(out), "instances": instances, "found": shares}, as_json=json)
