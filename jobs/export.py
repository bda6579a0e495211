"""``osteoray export``: a finished run to a compiled, sealed model bundle."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from engine.deploy.bundle import Bundle
from engine.deploy.engines import PREDICTORS
from engine.errors import ExportError
from engine.evaluation import caveats
from jobs.console import finish

PARITY_SAMPLES = 256


def export(
    run: Annotated[Path, typer.Argument(exists=True, help="Run folder of a finished training.")],
    out: Annotated[Path, typer.Option(help="Bundle folder to write; it must be new or empty.")],
    engine: Annotated[
        str, typer.Option(help=f"Engine to compile for: auto, {', '.join(PREDICTORS)}.")
    ] = "auto",
    without_checks: Annotated[
        bool,
        typer.Option(
            "--without-checks",
            help="Write a bundle that withholds nothing: for data too small to fit checks on.",
        ),
    ] = False,
    sign: Annotated[
        Path | None,
        typer.Option(exists=True, metavar="KEY", help="Sign the bundle with this ed25519 key (PEM file)."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON, for scripts.")] = False,
) -> None:
    """Export a network to ONNX, compile it, compare it with torch on real held-out samples, seal the bundle.

    `auto` takes OpenVINO where it is installed, else ONNX Runtime. If the compiled network departs from torch
    by more than a gate of its task, no bundle is written and the exit code is 1. The same holds where fewer
    images were held out than its checks need; with few of them their limits are widened, and the end says so.
    """
    from engine.deploy import signature

    key = signature.read_private_key(sign) if sign else None
    bundle = run_export(run, out, engine, with_checks=not without_checks)
    if key:
        signature.sign(bundle, key)
    parity = bundle.facts["parity"]
    summary = {
        "bundle": str(out),
        "engine": bundle.engine,
        "model_sha256": bundle.sha256,
        **{
            f"parity_{name}": f"{gate['departure']:.2g} {gate['unit']}"
            for name, gate in parity["gates"].items()
        },
        "images_per_second": parity["images_per_second"],
    }
    finish("export", summary, as_json=json, warnings=caveats.of_bundle(bundle.facts))


def run_export(run: Path, out: Path, engine: str, *, with_checks: bool = True) -> Bundle:
    """Write the bundle of a finished run, gated on samples of the data it was trained on, and its checks."""
    from engine.deploy.export import checks_of, require_one_pass
    from engine.deploy.export import export as write_bundle
    from engine.deploy.parity import parity_samples
    from engine.tasks import task_named
    from engine.training.dataset import open_training_set, pack_images
    from engine.training.recipe import recipe_from_facts
    from engine.training.run_folder import read_run

    facts = read_run(run)
    recipe = recipe_from_facts(facts["recipe"])
    if recipe.inputs.hide_image:
        raise ExportError(f"{run} is a control that saw no image: it is not for use")
    require_one_pass(run, facts)
    folder = Path(facts["data"]["folder"])
    task = task_named(facts["task"])
    covariates = task.restricted(facts["model"]["covariates"]).covariates
    samples = parity_samples(folder, PARITY_SAMPLES, covariates, task.label_columns)
    with tempfile.TemporaryDirectory(prefix="osteoray-export-") as cache:
        pack_images(folder, Path(cache), task.labels)
        data = open_training_set(folder, Path(cache), task, recipe.inputs, recipe.split)
        checks = checks_of(run, data) if with_checks else None
    threads = os.cpu_count() or 1
    return write_bundle(run, out, engine=engine, samples=samples, threads=threads, checks=checks)
