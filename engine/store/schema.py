"""Every table osteoray writes, as versioned Arrow schemas. Polars, DuckDB and pyarrow read them alone.

Header columns carry the DICOM keyword in snake_case and its value untouched; derived quantities carry
their unit. No patient tag is among them: ``patient_key`` is an HMAC, dates have become ages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

SCHEMA_VERSION = "5"

HEADER_FIELDS: tuple[pa.Field, ...] = (
    pa.field("sop_instance_uid", pa.string(), nullable=False),
    pa.field("sop_class_uid", pa.string(), nullable=False),
    pa.field("study_instance_uid", pa.string()),
    pa.field("series_instance_uid", pa.string()),
    pa.field("transfer_syntax_uid", pa.string(), nullable=False),
    pa.field("modality", pa.string()),
    pa.field("manufacturer", pa.string()),
    pa.field("photometric_interpretation", pa.string()),
    pa.field("rows", pa.int32()),
    pa.field("columns", pa.int32()),
    pa.field("bits_stored", pa.int32()),
    pa.field("body_part_examined", pa.string()),
    pa.field("view_position", pa.string()),
    pa.field("laterality", pa.string()),
    pa.field("patient_sex", pa.string()),
    pa.field("patient_key", pa.string(), nullable=False),
    pa.field("age_months", pa.float32()),
    pa.field("spacing_row_mm", pa.float64()),
    pa.field("spacing_column_mm", pa.float64()),
    pa.field("spacing_source", pa.string()),
    pa.field("image_position_patient", pa.list_(pa.float64(), 3)),
    pa.field("image_orientation_patient", pa.list_(pa.float64(), 6)),
    pa.field("is_localizer", pa.bool_()),
)
"""Whitelisted header columns of one instance; ``spacing_source`` says where the millimetres come from.

Position (mm) and orientation (cosines) of the first pixel are those of CT slices, for
``series.order_slices``.
"""

_INPUT_FIELDS = (
    pa.field("instance_index", pa.int64(), nullable=False),
    pa.field("path", pa.string(), nullable=False),
    pa.field("shard", pa.int32(), nullable=False),
    pa.field("version", pa.int32(), nullable=False),
)
"""``version`` counts from 1 at each ``path``: a member that changed has a row for each of its contents."""

PLAN = pa.schema([*_INPUT_FIELDS, pa.field("size_bytes", pa.int64(), nullable=False)])
"""One row per input instance, written before any work starts; ``path`` is relative to the source."""

REJECTS = pa.schema(
    [
        *_INPUT_FIELDS,
        pa.field("sop_instance_uid", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("content_sha256", pa.string()),
        pa.field("task", pa.string()),
    ]
)
"""Filtered and quarantined inputs: one table each, the same columns; no digest where no bytes were read.
``task`` is null where a row holds for every task of the run."""

ABSTAINED = pa.schema(
    [
        *REJECTS,
        pa.field("model_sha256", pa.string(), nullable=False),
        pa.field("code_version", pa.string(), nullable=False),
    ]
)
"""Inputs whose score is withheld, and by which model and code; ``task`` is the model's."""

DEIDENTIFIED = pa.schema(
    [
        pa.field("instance_index", pa.int64(), nullable=False),
        pa.field("patient_key", pa.string()),
        pa.field("study_instance_uid", pa.string()),
        pa.field("sop_instance_uid", pa.string()),
        pa.field("burned_in", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("reason", pa.string()),
    ]
)
"""Samples and their de-identified files: the new UIDs; text burned in: yes, no, unknown; else why no file."""

BOXES = pa.schema(
    [
        pa.field("sop_instance_uid", pa.string(), nullable=False),
        pa.field("region", pa.string(), nullable=False),
        pa.field("left", pa.float64(), nullable=False),
        pa.field("top", pa.float64(), nullable=False),
        pa.field("right", pa.float64(), nullable=False),
        pa.field("bottom", pa.float64(), nullable=False),
        pa.field("ok", pa.bool_(), nullable=False),
        pa.field("run_sha256", pa.string(), nullable=False),
    ]
)
"""A region of one instance: edges in original pixels, zero at the centre of the top-left one; ``run_sha256``
is the digest of the weights whose attention gave it."""

_SAMPLE_FIELDS = (
    *_INPUT_FIELDS,
    *HEADER_FIELDS,
    pa.field("content_sha256", pa.string(), nullable=False),
    pa.field("original_to_network", pa.list_(pa.float64(), 9), nullable=False),
)


def samples(
    size_HW: tuple[int, int], label_columns: tuple[str, ...], covariate_columns: tuple[str, ...] = ()
) -> pa.Schema:
    """Samples of a task: header, labels, and ``image`` as uint8 display values of shape (rows, columns).

    Label columns and covariates of a table are float32 and nullable; ``split`` is the label table's
    own split, where it has one.
    ``crop_ok`` says whether the instance had the box it was to be cut to; null where nothing was cut.
    """
    labels = [pa.field(name, pa.float32()) for name in (*label_columns, *covariate_columns)]
    image = pa.field("image", pa.fixed_shape_tensor(pa.uint8(), size_HW), nullable=False)
    crop_ok = pa.field("crop_ok", pa.bool_())
    return pa.schema([*_SAMPLE_FIELDS, crop_ok, pa.field("split", pa.string()), *labels, image])


def routed(covariate_columns: tuple[str, ...]) -> pa.Schema:
    """Samples on their way to a predictor, without their image; never written."""
    return pa.schema(
        [
            *_SAMPLE_FIELDS,
            *(pa.field(name, pa.float32()) for name in covariate_columns),
            pa.field("rule", pa.int32(), nullable=False),
            pa.field("route", pa.string(), nullable=False),
        ]
    )


def predictions(fields: Sequence[pa.Field], map_HW: tuple[int, int] | None) -> pa.Schema:
    """Scored instances of one task: header, ``fields`` of its answer, provenance, and the attention map.

    ``route`` says why this model took the instance, where a run had several (``engine.ingest.routing``):
    one has "only_fit" throughout. The map is scaled to 0..255; there is none without a ``map_HW``.
    """
    maps = (
        [pa.field("attention_map", pa.fixed_shape_tensor(pa.uint8(), map_HW), nullable=False)]
        if map_HW
        else []
    )
    return pa.schema(
        [
            *_SAMPLE_FIELDS,
            pa.field("task", pa.string(), nullable=False),
            pa.field("route", pa.string(), nullable=False),
            *fields,
            pa.field("model_sha256", pa.string(), nullable=False),
            pa.field("code_version", pa.string(), nullable=False),
            *maps,
        ]
    )


def rejects(table: str) -> pa.Schema:
    """The stamped schema of the table ``filtered``, ``abstained`` or ``quarantine``."""
    return stamped(ABSTAINED if table == "abstained" else REJECTS, table)


def stamped(schema: pa.Schema, table: str, facts: Mapping[str, str] | None = None) -> pa.Schema:
    """The schema with table name, schema version and further facts in its metadata."""
    metadata = {"osteoray.table": table, "osteoray.schema_version": SCHEMA_VERSION, **(facts or {})}
    return schema.with_metadata(metadata)


def tensor_column(values_N: NDArray[Any]) -> pa.ExtensionArray:
    """The canonical tensor column of a stack of arrays [N, ...] of one kind of number; N may be 0."""
    number = pa.from_numpy_dtype(values_N.dtype)
    kind = pa.fixed_shape_tensor(number, values_N.shape[1:])
    flat = pa.array(np.ascontiguousarray(values_N).reshape(-1))
    size = int(np.prod(values_N.shape[1:]))
    return pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(flat, size))


def tensor_values(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    """The stack [N, H, W] in a tensor column."""
    shape = tuple(column.type.shape)
    flats = [chunk.storage.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    flat = np.concatenate(flats) if flats else np.zeros(0, np.uint8)
    stack: NDArray[np.uint8] = flat.reshape(-1, *shape)
    return stack
