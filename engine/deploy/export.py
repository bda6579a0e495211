"""A finished student run -> ONNX -> the site's engine, through the parity gates, into a model bundle.

The only door to onnx. The gates run real held-out samples through torch and the compiled engine; a bundle
is written only where they agree.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from engine.deploy import bundle as files
from engine.deploy.bundle import ATTENTION, EMBEDDING, ONNX_NAME, WEIGHTS_NAME, Bundle
from engine.deploy.engines import Predictor, choose_engine, open_predictor
from engine.deploy.model_card import card
from engine.deploy.out_of_distribution import Checks, fit_checks
from engine.deploy.parity import ParitySamples, require_parity
from engine.errors import ExportError
from engine.evaluation.held_out import read_held_out
from engine.models.network import Outputs, example_inputs, load_model
from engine.store.files import code_version, now, sha256_of_file, write_json
from engine.tasks import task_named
from engine.training.dataset import TrainingSet
from engine.training.forward import outputs, per_second
from engine.training.run_folder import EVALUATION_NAME, load_net, read_run

OPSET = 20
_EMBED_BATCH = 64

Inputs = tuple[torch.Tensor, torch.Tensor]
"""Images [B, V, H, W] in [0, 1] and covariates [B, Q]."""


def export(
    run: Path,
    bundle: Path,
    *,
    engine: str,
    samples: ParitySamples,
    threads: int,
    checks: Checks | None = None,
) -> Bundle:
    """Write a bundle for ``run``, once the engine answers as torch does on ``samples``.

    Raises:
        ParityError: torch and the engine differ by more than a gate of the task allows; nothing is written.
        ExportError: the graph cannot be exported, or ``bundle`` already holds files.
    """
    if bundle.exists() and any(bundle.iterdir()):
        raise ExportError(f"{bundle} is not empty: choose another --out")
    facts, chosen = read_run(run), choose_engine(engine)
    require_one_pass(run, facts)
    answer = task_named(facts["task"]).answer
    blocks = answer.blocks(read_held_out(run / EVALUATION_NAME), facts["calibration"])
    bundle.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=bundle.parent, prefix=f".{bundle.name}.") as name:
        staging = Path(name) / "bundle"
        staging.mkdir()
        needed = stage(staging, facts, run / WEIGHTS_NAME)
        plain, compiled = (open_predictor(staging, name, threads=threads) for name in ("torch", chosen))
        parity = {
            "instances": len(samples.images_BVHW),
            "gates": require_parity(plain, compiled, samples, answer.gates),
            "images_per_second": round(images_per_second(compiled, samples), 1),
            "threads": threads,
        }
        kept = ("parameters", "gigaflops", "evaluation", "recipe")
        teacher = facts["teacher"] or {}
        described = {
            "format": files.FORMAT,
            "research_use_only": True,
            "code_version": code_version(),
            "written": now(),
            **{name: facts[name] for name in kept},
            # not where samples and teacher lay: a bundle goes to other machines
            "data": {name: fact for name, fact in facts["data"].items() if name != "folder"},
            "teacher": {name: fact for name, fact in teacher.items() if name != "run"} or None,
            **needed,
            "engine": chosen,
            "parity": parity,
            "checks": checks.facts() if checks else None,
        }
        if checks:
            checks.save(staging / files.CHECKS_NAME)
        (staging / files.CARD_NAME).write_text(card(described, blocks))
        described["sha256"] = {name: sha256_of_file(staging / name) for name in files.sealed_files(described)}
        write_json(staging / files.BUNDLE_NAME, files.sealed(described))
        if bundle.exists():
            bundle.rmdir()
        staging.replace(bundle)
    return files.open_bundle(bundle)


def stage(folder: Path, run: Mapping[str, Any], weights: Path) -> dict[str, Any]:
    """Write graph, weights and the facts that a predictor needs to ``folder``; returns these facts.

    ``run`` holds task, model, calibration and data as run.json does, ``weights`` the network's.

    Raises:
        ExportError: torch or onnx refuses the graph.
    """
    task = task_named(run["task"])
    learning = task.learning()
    net = load_model(learning.network, run["model"], weights)
    graph = learning.deployed(net, run["calibration"]).eval()
    rule = run["data"]["rule"]
    example = example_inputs(net.facts, 2, rule["view"]["size_HW"])
    shapes = output_shapes(graph, task.answer.outputs, example)
    write_onnx(graph, tuple(shapes), example, folder / ONNX_NAME)
    shutil.copyfile(weights, folder / WEIGHTS_NAME)
    kept = {name: run[name] for name in ("model", "calibration")}
    facts = {"task": {**task.facts(), "rule": rule}, **kept, "outputs": shapes}
    write_json(folder / files.BUNDLE_NAME, facts)
    return facts


def output_shapes(graph: torch.nn.Module, names: Sequence[str], example: Inputs) -> dict[str, list[int]]:
    """The graph's outputs by name, those of its answer first: the shape of each for one instance.

    Raises:
        ExportError: the graph gives another number of outputs.
    """
    with torch.inference_mode():
        given = graph(*example)
    has_map = len(given) == len(names) + 2
    known = (*names, *((ATTENTION,) if has_map else ()), EMBEDDING)
    if len(given) != len(known):
        raise ExportError(f"the graph gives {len(given)} outputs, not {', '.join(known)}")
    return {name: list(output.shape[1:]) for name, output in zip(known, given, strict=True)}


def write_onnx(graph: torch.nn.Module, names: Sequence[str], example: Inputs, path: Path) -> None:
    """Export the deployed graph with a dynamic batch and check it; ``names`` are those of its outputs.

    Raises:
        ExportError: torch or onnx refuses the graph.
    """
    batch = torch.export.Dim("batch", min=1, max=4096)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about its own internals
            program = torch.onnx.export(
                graph, example, dynamo=True, opset_version=OPSET, verbose=False,
                input_names=["image", "covariates"], output_names=list(names),
                dynamic_shapes={"image": {0: batch}, "covariates": {0: batch}},
            )  # fmt: skip
        if program is None:
            raise ExportError("torch gave no ONNX program for this network")
        model = program.model_proto
        _forget_origin(model)
        onnx.save(model, str(path))
        onnx.checker.check_model(str(path), full_check=True)
    except (torch.onnx.OnnxExporterError, onnx.checker.ValidationError, RuntimeError) as error:
        raise ExportError(f"the network cannot be exported to ONNX: {error}") from error


def _forget_origin(model: onnx.ModelProto) -> None:
    """Drop what torch notes of source files and traces: a digest must not depend on where it ran."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in (model, graph, *graph.node, *values):
        part.doc_string = ""
        del part.metadata_props[:]


def checks_of(run: Path, data: TrainingSet) -> Checks:
    """Checks of the network of ``run``, by images of the data that it was trained on.

    One thread embeds: sums depend on how many share them, and the identity of the bundle on the sums.

    Raises:
        ExportError: there are too few of them.
    """
    net = load_net(run, task_named(read_run(run)["task"]).learning().network)

    def embed(images_NVHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        unknown_NQ = np.zeros((len(images_NVHW), sum(net.facts.covariate_columns)), np.float32)
        kept = outputs(net, images_NVHW, unknown_NQ, _embedding, batch_size=_EMBED_BATCH)
        return kept["embedding"]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return fit_checks(embed, *(data.images_NVHW[data.index_of(split)] for split in ("train", "val")))
    finally:
        torch.set_num_threads(threads)


def _embedding(answer: Outputs) -> dict[str, torch.Tensor]:
    return {"embedding": answer.embedding_BC}


def require_one_pass(run: Path, facts: Mapping[str, Any]) -> None:
    """Refuse a network that sees regions cut out of an image, joined or alone: they are not found here.

    Raises:
        ExportError: the run is such a one.
    """
    if facts["data"].get("views") or facts["data"].get("crop"):
        raise ExportError(
            f"{run} sees regions that are cut out before: it is a teacher. Record it with "
            "`osteoray record-teacher`, train a student of the whole image on that, and export the student"
        )


def images_per_second(predictor: Predictor, samples: ParitySamples) -> float:
    """Images per second of a predictor, after a warm-up."""
    return len(samples.images_BVHW) * per_second(
        lambda: predictor.predict(samples.images_BVHW, samples.covariates_BQ)
    )
