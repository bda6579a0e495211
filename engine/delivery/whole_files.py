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


def writer_for(to: str) -> Writer | None:
    """The writer for ``to``; None where ``to`` takes DICOM objects.

    Raises:
        UsageError: ``fhir:`` without a folder.
    """
    if to.startswith(FHIR):
        if not to.removeprefix(FHIR).strip():
            raise UsageError("fhir: needs a folder behind it, as fhir:results (is a variable not set?)")
        return partial(fhir.folder, target=Path(to.removeprefix(FHIR)))
    if "://" not in to and Path(to).suffix.lower() in TABLES and not Path(to).is_dir():
        return partial(tables.table, target=Path(to))
    return None
