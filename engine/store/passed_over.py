"""What a source holds and a plan has no row for, by kind (links, pipes): metadata of the plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import TableError
from engine.store import schema

_FIELD = b"osteoray.passed_over"


def noted(table: pa.Table, counts: Mapping[str, int]) -> pa.Table:
    """The table of a listing, or plan, with these counts by kind."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), _FIELD: json.dumps(dict(counts))})


def of(table_schema: pa.Schema) -> dict[str, int]:
    """The counts by kind that a listing or plan notes; empty where nothing was passed over."""
    found: dict[str, int] = json.loads((table_schema.metadata or {}).get(_FIELD, b"{}"))
    return {str(kind): int(count) for kind, count in found.items() if count}


def stamped(plan_schema: pa.Schema) -> pa.Schema:
    """The schema that a plan is written under, with its counts."""
    return schema.stamped(schema.PLAN, "plan", {_FIELD.decode(): json.dumps(of(plan_schema))})


def said(plan_path: Path) -> dict[str, Any]:
    """What the end of a verb says of it: ``passed_over`` with the counts of a written plan; or nothing.

    Raises:
        TableError: the plan cannot be read.
    """
    try:
        counts = of(pq.read_schema(plan_path))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise TableError(f"{plan_path} cannot be read: it is damaged") from error
    return {"passed_over": counts} if counts else {}
