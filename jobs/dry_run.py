"""``osteoray ingest --dry-run``: what a source holds and how long it would take, told from headers alone."""

from __future__ import annotations

import math
from collections import Counter
from typing import NoReturn

from rich.console import Console
from rich.table import Table

from engine.instance import InputRule
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


def _show(found: Survey) -> None:
    table = Table("what", "value", "instances", box=None, pad_edge=False)
    groups: tuple[tuple[str, Counter[str]], ...] = (
        ("SOP class", found.sop_classes),
        ("transfer syntax", found.transfer_syntaxes),
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
        "filtered": dict(found.filtered.most_common()),
        "quarantined": dict(found.quarantined.most_common()),
        "headers_per_second": round(found.headers_per_second, 1),
        "decoded_of_probe": found.decoded,
        "decoded_per_second_and_core": found.decoded_per_second,
        "eta_s": math.ceil(found.eta_s) if found.eta_s is not None else None,
    }
