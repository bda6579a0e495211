"""`osteoray convert`: a public data set, as it is downloaded, becomes a DICOM archive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.datasets.convert import convert as convert_layout
from engine.errors import UnknownNameError
from engine.tasks.ages.layouts import LAYOUTS
from jobs.console import finish, progress
from jobs.options import MOST

DONE_WITH_SKIPPED = 3


def convert(  # noqa: PLR0913  one parameter an option
    layout: Annotated[
        str, typer.Argument(help=f"Which data set it is: {', '.join(LAYOUTS)}.", metavar="LAYOUT")
    ],
    source: Annotated[Path, typer.Argument(exists=True, help="Folder with the data set.", metavar="DIR")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the archive; it must be new or empty.")],
    syntax: Annotated[
        str,
        typer.Option(
            help="How pixels are stored, all without loss: explicit or implicit (uncompressed), jpeg-ls, "
            "jpeg-lossless, jpeg-2000, or mixed (explicit and the three compressed ones in turn)."
        ),
    ] = "explicit",
    limit: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Take only the first rows of the table.", metavar="N")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON, for scripts.")] = False,
) -> None:
    """Turn a public data set into a DICOM archive with labels.csv.

    LAYOUT rsna is the RSNA Pediatric Bone Age Challenge 2017. DIR holds
    labels.csv (id, boneage, male, and split if there is one) beside
    images/ID.png; or the tables under their original names,
    boneage-training-dataset.csv, 'Validation Dataset.csv' and
    'Bone age ground truth.csv', with the PNG files in any folder below.
    Training rows become the split train, validation and test rows test.

    LAYOUT knee is a folder of images with one CSV. Its columns are listed
    in engine/tasks/ages/layouts.py.

    Pixels are copied unchanged. A row without a usable image, label or sex
    is skipped and counted with its reason; the exit code is then 3.

    Example: osteoray convert rsna ~/boneage --out /data/boneage-dicom --syntax jpeg-2000
    """
    if layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, LAYOUTS)
    with progress("convert", unit="rows") as report:
        counts = convert_layout(LAYOUTS[layout], source, out, syntax=syntax, limit=limit, on_progress=report)
    summary = {"archive": str(out), "layout": layout, **counts, "labels": str(out / "labels.csv")}
    finish("convert", summary, as_json=as_json, exit_code=DONE_WITH_SKIPPED if counts["skipped"] else 0)
