"""A finished student run -> ONNX -> the site's engine, through a parity gate, into a model bundle.

The only door to onnx. The gate runs real held-out samples through torch and the compiled engine; a bundle
is written only where they agree.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from engine.deploy.bundle import (
    BUNDLE_NAME,
    CARD_NAME,
    CHECKS_NAME,
    ONNX_NAME,
    WEIGHTS_NAME,
    Bundle,
    open_bundle,
    sealed,
    sealed_files,
)
from engine.deploy.engines import OUTPUT_NAMES, Predictor, choose_engine, open_predictor
from engine.deploy.model_card import card
from engine.deploy.out_of_distribution import Checks, fit_checks
from engine.errors import ExportError, ParityError
from engine.models.network import Deployed, example_inputs
from engine.store.files import code_version, now, sha256_of_file, write_json
from engine.tasks import task_named
from engine.training.dataset import TrainingSet
from engine.training.run_folder import load_net, read_run

PARITY_MONTHS = 0.01
"""Largest absolute difference between torch and the compiled engine, in months, that the gate allows."""
OPSET = 20
_EMBED_BATCH = 64


def export(
    run: Path,
    bundle: Path,
    *,
    engine: str,
    real: tuple[NDArray[np.uint8], NDArray[np.float32]],
    threads: int,
    checks: Checks | None = None,
) -> Bundle:
    """Write a bundle for ``run``; ``real`` are images [B, H, W] and covariates [B, Q] for the gate.

    Raises:
        ParityError: torch and the engine differ by more than PARITY_MONTHS; nothing is written.
        ExportError: the graph cannot be exported, or ``bundle`` already holds files.
    """
    if bundle.exists() and any(bundle.iterdir()):
        raise ExportError(f"{bundle} is not empty: choose another --out")
    facts, net, chosen = read_run(run), load_net(run), choose_engine(engine)
    require_one_pass(run, facts)
    images_BHW, covariates_BQ = real
    bundle.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=bundle.parent, prefix=f".{bundle.name}.") as name:
        staging = Path(name) / "bundle"
        staging.mkdir()
        needed = {name: facts[name] for name in ("model", "calibration")}  # by the torch reference
        size_HW = (images_BHW.shape[1], images_BHW.shape[2])
        graph = Deployed(net, temperature=needed["calibration"]["temperature"]).eval()
        write_onnx(graph, size_HW, staging / ONNX_NAME)
        shutil.copyfile(run / WEIGHTS_NAME, staging / WEIGHTS_NAME)
        write_json(staging / BUNDLE_NAME, needed)
        parity = _parity(staging, chosen, images_BHW, covariates_BQ, threads=threads)
        described = _facts(facts, graph, chosen, parity, size_HW)
        described["checks"] = checks.facts() if checks else None
        if checks:
            checks.save(staging / CHECKS_NAME)
        (staging / CARD_NAME).write_text(card(described))
        described["sha256"] = {name: sha256_of_file(staging / name) for name in sealed_files(described)}
        write_json(staging / BUNDLE_NAME, sealed(described))
        if bundle.exists():
            bundle.rmdir()
        staging.replace(bundle)
    return open_bundle(bundle)


def write_onnx(graph: Deployed, size_HW: tuple[int, int], path: Path) -> None:
    """Export the deployed graph with a dynamic batch and check it.

    Raises:
        ExportError: torch or onnx refuses the graph.
    """
    example = example_inputs(graph.net.facts, 2, size_HW)
    batch = torch.export.Dim("batch", min=1, max=4096)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about its own internals
            program = torch.onnx.export(
                graph, example, dynamo=True, opset_version=OPSET, verbose=False,
                input_names=["image", "covariates"], output_names=list(OUTPUT_NAMES),
                dynamic_shapes={"image": {0: batch}, "covariates": {0: batch}},
            )  # fmt: skip
        if program is None:
            raise ExportError("torch gave no ONNX program for this network")
        program.save(str(path), external_data=False)
        onnx.checker.check_model(str(path), full_check=True)
    except (torch.onnx.OnnxExporterError, onnx.checker.ValidationError, RuntimeError) as error:
        raise ExportError(f"the network cannot be exported to ONNX: {error}") from error


def checks_of(run: Path, data: TrainingSet) -> Checks | None:
    """Checks of the network of ``run``, by images of the data that it was trained on; None for too few."""
    net = load_net(run)

    def embed(images_NHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        told_Q = example_inputs(net.facts, 1, (1, 1))[1]
        parts = []
        with torch.inference_mode():
            for start in range(0, len(images_NHW), _EMBED_BATCH):
                batch_BHW = torch.from_numpy(images_NHW[start : start + _EMBED_BATCH])
                outputs = net(batch_BHW[:, None].float() / 255, told_Q.expand(len(batch_BHW), -1))
                parts.append(outputs.embedding_BC.numpy())
        return np.concatenate(parts)

    train_NHW, validation_NHW = (data.images_NVHW[data.index_of(split), 0] for split in ("train", "val"))
    return fit_checks(embed, train_NHW, validation_NHW)


def require_one_pass(run: Path, facts: dict[str, Any]) -> None:
    """Refuse what a plain instance cannot feed: several views, or a region that another net has to find.

    Raises:
        ExportError: the run is such a one.
    """
    if facts["model"]["num_views"] > 1 or facts["data"].get("crop"):
        raise ExportError(
            f"{run} sees regions that are cut out before: it is a teacher. Record it with `osteoray teach`, "
            "train a student of the whole image on that, and export the student"
        )


def images_per_second(
    predictor: Predictor,
    images_BHW: NDArray[np.uint8],
    covariates_BQ: NDArray[np.float32],
    *,
    seconds: float = 3.0,
) -> float:
    """Images per second of a predictor, after a warm-up."""
    predictor.predict(images_BHW, covariates_BQ)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        predictor.predict(images_BHW, covariates_BQ)
        count += len(images_BHW)
    return count / (time.perf_counter() - started)


def _parity(
    staging: Path,
    engine: str,
    images_BHW: NDArray[np.uint8],
    covariates_BQ: NDArray[np.float32],
    *,
    threads: int,
) -> dict[str, Any]:
    """Largest difference in months and sd between torch and the engine.

    Raises:
        ParityError: above the gate, or not finite.
    """
    reference = open_predictor(staging, "torch", threads=threads).predict(images_BHW, covariates_BQ)
    compiled_predictor = open_predictor(staging, engine, threads=threads)
    compiled = compiled_predictor.predict(images_BHW, covariates_BQ)
    months = float(np.abs(reference.months_B - compiled.months_B).max())
    sd = float(np.abs(reference.sd_B - compiled.sd_B).max())
    if not max(months, sd) <= PARITY_MONTHS:
        raise ParityError(
            f"{engine} departs from torch by {months:.3g} months (sd {sd:.3g}), the gate is {PARITY_MONTHS}: "
            "no bundle was written; try --engine onnxruntime"
        )
    return {
        "instances": len(images_BHW),
        "max_abs_months": months,
        "max_abs_sd": sd,
        "gate_months": PARITY_MONTHS,
        "images_per_second": round(images_per_second(compiled_predictor, images_BHW, covariates_BQ), 1),
        "threads": threads,
    }


def _facts(
    run: dict[str, Any], graph: Deployed, engine: str, parity: dict[str, Any], size: tuple[int, int]
) -> dict[str, Any]:
    with torch.inference_mode():
        attention = graph(*example_inputs(graph.net.facts, 1, size))[2]
    task = {**task_named(run["task"]).facts(), "rule": run["data"]["rule"]}
    kept = (
        "role", "backbone", "distill", "model", "parameters", "gigaflops", "evaluation", "data", "recipe",
        "teacher", "calibration",
    )  # fmt: skip
    return {
        "format": 1,
        "research_use_only": True,
        "task": task,
        "num_bins": run["model"]["num_bins"],
        "outputs": list(OUTPUT_NAMES),
        "attention_HW": list(attention.shape[1:]),
        "engine": engine,
        "parity": parity,
        "code_version": code_version(),
        "written": now(),
        **{name: run[name] for name in kept},
    }
