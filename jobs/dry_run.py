"""``--dry-run`` of ingest and score: what a source holds, told from headers, and how long it would take."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import NoReturn

import numpy as np
from rich.console import Console
from rich.table import Table

from engine.bundle import Bundle
from engine.instance import InputRule
from engine.reading import Sample
from engine.survey import Survey, survey
from jobs.console import finish, planning, progress


def dry_run(source: str, rule: InputRule, *, as_json: bool) -> NoReturn:
    """Survey ``source`` for ``rule``, say what was found, and end the verb. Writes nothing.

    Raises:
        UsageError, StorageError: the source cannot be listed.
    """
    with planning() as on_plan, progress("headers") as on_progress:
        found = survey(source, rule, on_plan=on_plan, on_progress=on_progress)
    _show(found)
    finish("ingest", {"dry_run": True, **_summary(found)}, as_json=as_json)


def score_dry_run(source: str, bundle: Bundle, engine: str, shard_size: int, *, as_json: bool) -> NoReturn:
    """Survey ``source`` for a bundle, read and score a few instances, and end the verb. Writes nothing.

    Raises:
        UsageError, StorageError: the source cannot be listed.
    """
    with planning() as on_plan, progress("headers") as on_progress:
        found = survey(source, bundle.rule, on_plan=on_plan, on_progress=on_progress)
    _show(found)
    cores = os.cpu_count() or 1
    scored_per_second = predictions_per_second(found.probe, bundle, engine)
    summary = {
        "task": bundle.task,
        "engine": engine,
        "cpus": cores,
        "gpus": 0,
        "shards": math.ceil(found.planned / shard_size),
        **_summary(found),
        "scored_per_second_and_core": scored_per_second,
        "eta_s": _eta_s(found, scored_per_second, cores),
    }
    finish("score", {"dry_run": True, **summary}, as_json=as_json)


def predictions_per_second(samples: Sequence[Sample], bundle: Bundle, engine: str) -> float | None:
    """Samples that one thread scores in a second; None without samples."""
    from engine import covariates
    from engine.predict import open_predictor

    if not samples:
        return None
    told_BQ = covariates.columns([row for row, _ in samples], bundle.covariates)
    images_BHW = np.stack([image_HW for _, image_HW in samples])
    predictor = open_predictor(bundle.folder, engine, threads=1)
    predictor.predict(images_BHW[:1], told_BQ[:1])
    began_s = time.perf_counter()
    predictor.predict(images_BHW, told_BQ)
    return len(samples) / max(time.perf_counter() - began_s, 1e-9)


def _eta_s(found: Survey, scored_per_second: float | None, cores: int) -> int | None:
    """Seconds after the start: all cores first read, then score, one instance after the other."""
    if not found.decoded_per_second or not scored_per_second:
        return None
    return math.ceil(found.fits * (1 / found.decoded_per_second + 1 / scored_per_second) / cores)


def _show(found: Survey) -> None:
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
            table.add_row(name, value, str(count))
    Console(highlight=False, soft_wrap=True).print(table)


def _summary(found: Survey) -> dict[str, object]:
    return {
        "planned": found.planned,
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
