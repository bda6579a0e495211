"""Deliveries that need no outbox, since they are written whole: tables and FHIR bundles."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from engine.delivery import fhir, tables
from engine.errors import UsageError

FHIR = "fhir:"
TABLES = (".csv", ".xlsx")

Writer = Callable[[Path], dict[str, Any]]


def writer_for(to: str, *, has_names: bool = False) -> Writer | None:
    """The writer for ``to``; None where ``to`` takes DICOM objects. ``has_names``: a table says file names.

    Raises:
        UsageError: ``fhir:`` without a folder, or names are asked of what never holds them.
    """
    is_table = "://" not in to and Path(to).suffix.lower() in TABLES and not Path(to).is_dir()
    if has_names and not is_table:
        raise UsageError("--names is for tables: --to NAME.csv or NAME.xlsx")
    if to.startswith(FHIR):
        if not to.removeprefix(FHIR).strip():
            raise UsageError("fhir: needs a folder behind it, as fhir:results (is a variable not set?)")
        return partial(fhir.folder, target=Path(to.removeprefix(FHIR)))
    if is_table:
        return partial(tables.table, target=Path(to), has_names=has_names)
    return None
