"""``--dry-run`` of ingest and score: what a source holds, told from headers, and how long it would take."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.deploy.bundle import Bundle
from engine.ingest.instance import InputRule
from engine.ingest.routing import Open
from engine.ingest.sample import Sample
from engine.ingest.survey import Survey, survey
from jobs.console import finish, planning, progress


def dry_run(source: str, rule: InputRule, *, as_json: bool) -> NoReturn:
    """Survey ``source`` for ``rule``, say what was found, and end the verb. Writes nothing.

    Raises:
        UsageError, StorageError: the source cannot be listed.
    """
    with planning() as on_plan, progress("headers") as on_progress:
        found = survey(source, [rule], on_plan=on_plan, on_progress=on_progress)
    _show(found)
    finish("ingest", {"dry_run": True, **_summary(found)}, as_json=as_json)


def score_dry_run(
    source: str, bundles: Sequence[Bundle], shard_size: int | None, *, route: Open, as_json: bool
) -> NoReturn:
    """Survey ``source`` for some bundles, read and score a few instances, and end the verb. Writes nothing.

    Raises:
        UsageError, StorageError: the source cannot be listed.
    """
    with planning() as on_plan, progress("headers") as on_progress:
        rules = [bundle.rule for bundle in bundles]
        found = survey(source, rules, shard_size, route=route, on_plan=on_plan, on_progress=on_progress)
    _show(found, [bundle.task for bundle in bundles])
    cores = os.cpu_count() or 1
    models = [_model(found, place, bundle) for place, bundle in enumerate(bundles)]
    summary = {
        "cpus": cores,
        "gpus": 0,
        "shards": found.shards,
        **_summary(found),
        "models": models,
        "eta_s": _eta_s(found, models, cores),
    }
    finish("score", {"dry_run": True, **summary}, as_json=as_json)


def _model(found: Survey, place: int, bundle: Bundle) -> dict[str, Any]:
    """What one bundle would get, why it and not another one, and how fast it is."""
    taken = found.by(place)
    routes: Counter[str] = Counter()
    body_parts: Counter[str] = Counter()
    for one, count in taken.items():
        routes[one.route] += count
        body_parts[one.body_part] += count
    samples = [sample for sample in found.probe if sample[0]["rule"] == place]
    return {
        "task": bundle.task,
        "model_sha256": bundle.sha256,
        "engine": bundle.engine,
        "fits": taken.total(),
        "routes": dict(routes.most_common()),
        "body_parts": dict(body_parts.most_common()),
        "scored_per_second_and_core": predictions_per_second(samples, bundle),
    }


def predictions_per_second(samples: Sequence[Sample], bundle: Bundle) -> float | None:
    """Samples that one thread scores in a second; None without samples. A slice stands for its series."""
    from engine.deploy.engines import open_predictor
    from engine.ingest import covariates

    if not samples:
        return None
    covariates_BQ = covariates.columns([row for row, _ in samples], bundle.covariates)
    views = bundle.rule.slices or 1
    images_BVHW = np.stack([np.repeat(image_HW[None], views, axis=0) for _, image_HW in samples])
    predictor = open_predictor(bundle.folder, bundle.engine, threads=1)
    predictor.predict(images_BVHW[:1], covariates_BQ[:1])
    began_s = time.perf_counter()
    predictor.predict(images_BVHW, covariates_BQ)
    return len(samples) / max(time.perf_counter() - began_s, 1e-9)


def _eta_s(found: Survey, models: Sequence[Mapping[str, Any]], cores: int) -> int | None:
    """Seconds after the start: all cores first read, then score, one instance after the other."""
    needed = [(model["fits"], model["scored_per_second_and_core"]) for model in models if model["fits"]]
    if not found.decoded_per_second or not all(speed for _, speed in needed):
        return None
    predict_s = float(sum(count / speed for count, speed in needed))
    return math.ceil((found.fits / found.decoded_per_second + predict_s) / cores)


def _show(found: Survey, tasks: Sequence[str] = ()) -> None:
    table = Table("what", "value", "instances", box=None, pad_edge=False)
    groups: tuple[tuple[str, Counter[str]], ...] = (
        ("SOP class", found.sop_classes),
        ("transfer syntax", found.transfer_syntaxes),
        ("body part", found.body_parts),
        ("filtered", found.filtered),
        ("quarantined", found.quarantined),
    )
    for name, counts in groups:
        for value, count in counts.most_common():
            table.add_row(name, Text(value), str(count))
    for kind, count in found.passed_over.items():
        table.add_row("passed over", kind, str(count))
    for taken, count in found.taken.most_common() if tasks else ():
        table.add_row(f"to {tasks[taken.rule]}, {taken.route}", Text(taken.body_part), str(count))
    Console(highlight=False, soft_wrap=True).print(table)


def _summary(found: Survey) -> dict[str, object]:
    return {
        "planned": found.planned,
        **({"passed_over": found.passed_over} if found.passed_over else {}),
        "size_bytes": found.size_bytes,
        "unsized": found.unsized,
        "fits": found.fits,
        "sop_classes": dict(found.sop_classes.most_common()),
        "transfer_syntaxes": dict(found.transfer_syntaxes.most_common()),
        "body_parts": dict(found.body_parts.most_common()),
        "filtered": dict(found.filtered.most_common()),
        "quarantined": dict(found.quarantined.most_common()),
        "headers_per_second": round(found.headers_per_second, 1),
        "decoded_of_probe": len(found.probe),
        "decoded_per_second_and_core": found.decoded_per_second,
        "eta_s": math.ceil(found.eta_s) if found.eta_s is not None else None,
    }
