"""`osteoray convert`: a public data set, as it is downloaded, becomes a DICOM archive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.datasets.convert import LAYOUTS
from engine.datasets.convert import convert as convert_layout
from jobs.console import finish, progress

DONE_WITH_SKIPPED = 3


def convert(  # noqa: PLR0913  one parameter an option
    layout: Annotated[
        str, typer.Argument(help=f"Which data set it is: {', '.join(LAYOUTS)}.", metavar="LAYOUT")
    ],
    source: Annotated[Path, typer.Argument(help="Folder with the data set.", metavar="DIR")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the archive; it must be new or empty.")],
    syntax: Annotated[
        str,
        typer.Option(
            help="How pixels are stored: explicit or implicit (uncompressed), jpeg-ls, jpeg-lossless, "
            "jpeg-2000, or mixed, which takes explicit and the three compressed ones in turn. All are "
            "lossless."
        ),
    ] = "explicit",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take the first rows of the table only.", metavar="N")
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

    LAYOUT knee is a folder with one CSV of the columns uid, path, sex,
    chron_months and patient, and, where known, bone_months, pseudo_mean,
    pseudo_sd, laterality and split; path is an image below DIR.

    Pixels are copied unchanged. A row without a usable image, age or sex is
    skipped and counted with its reason; the exit code is then 3.

    Example: osteoray convert rsna ~/boneage --out /data/boneage-dicom --syntax jpeg-2000
    """
    with progress("convert", unit="rows") as report:
        counts = convert_layout(layout, source, out, syntax=syntax, limit=limit, on_progress=report)
    summary = {"archive": str(out), "layout": layout, **counts, "labels": str(out / "labels.csv")}
    finish("convert", summary, as_json=as_json, exit_code=DONE_WITH_SKIPPED if counts["skipped"] else 0)
