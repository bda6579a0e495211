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

SCHEMA_VERSION = "6"


def _required(kind: pa.DataType, *names: str) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=False) for name in names]


def _optional(kind: pa.DataType, *names: str) -> list[pa.Field]:
    return [pa.field(name, kind) for name in names]


HEADER_FIELDS: tuple[pa.Field, ...] = (
    *_required(pa.string(), "sop_instance_uid", "sop_class_uid"),
    *_optional(pa.string(), "study_instance_uid", "series_instance_uid"),
    *_required(pa.string(), "transfer_syntax_uid"),
    *_optional(pa.string(), "modality", "manufacturer", "photometric_interpretation"),
    *_optional(pa.int32(), "rows", "columns", "bits_stored"),
    *_optional(pa.string(), "body_part_examined", "anatomic_region", "described_body_part"),
    *_optional(pa.string(), "view_position", "laterality", "patient_sex"),
    *_required(pa.string(), "patient_key"),
    *_optional(pa.float32(), "age_months"),
    *_optional(pa.float64(), "spacing_row_mm", "spacing_column_mm"),
    *_optional(pa.string(), "spacing_source"),
    *_optional(pa.list_(pa.float64(), 3), "image_position_patient"),
    *_optional(pa.list_(pa.float64(), 6), "image_orientation_patient"),
    *_optional(pa.bool_(), "is_localizer"),
    *_required(pa.list_(pa.string()), "remarks"),
)
"""Whitelisted header columns of one instance; ``spacing_source`` says where the millimetres come from.
Body parts and views are terms, several with a backslash between them: ``anatomic_region`` of the codes,
``described_body_part`` of the descriptions of series or study. ``remarks`` are codes of
``engine.dicom.remarks``: what a user may want to know of how the file was read.

Position (mm) and orientation (cosines) of the first pixel are those of CT slices, for
``series.order_slices``.
"""

_INPUT_FIELDS = (
    *_required(pa.int64(), "instance_index"),
    *_required(pa.string(), "path"),
    *_required(pa.int32(), "shard", "version"),
)
"""``version`` counts from 1 at each ``path``: a member that changed has a row for each of its contents."""

PLAN = pa.schema([*_INPUT_FIELDS, pa.field("size_bytes", pa.int64(), nullable=False)])
"""One row per input instance, written before any work starts; ``path`` is relative to the source."""

REJECTS = pa.schema(
    [
        *_INPUT_FIELDS,
        *_optional(pa.string(), "sop_instance_uid"),
        *_required(pa.string(), "reason", "code", "message"),
        *_optional(pa.string(), "content_sha256", "task"),
    ]
)
"""Filtered and quarantined inputs: one table each, the same columns; no digest where no bytes were read.
``task`` is null where a row holds for every task of the run."""

ABSTAINED = pa.schema([*REJECTS, *_required(pa.string(), "model_sha256", "code_version")])
"""Inputs whose score is withheld, and by which model and code; ``task`` is the model's."""

GROUPED = pa.schema([*REJECTS, pa.field("series_instance_uid", pa.string())])
"""Slices that went into the sample of their series, whose row is that of the first slice."""

DEIDENTIFIED = pa.schema(
    [
        *_required(pa.int64(), "instance_index"),
        *_optional(pa.string(), "patient_key", "study_instance_uid", "sop_instance_uid"),
        *_optional(pa.string(), "burned_in", "sha256", "reason"),
    ]
)
"""Samples and their de-identified files: the new UIDs; text burned in: yes, no, unknown; else why no file."""

BOXES = pa.schema(
    [
        *_required(pa.string(), "sop_instance_uid", "region"),
        *_required(pa.float64(), "left", "top", "right", "bottom"),
        *_required(pa.bool_(), "ok"),
        *_required(pa.string(), "run_sha256"),
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
    shape: tuple[int, ...], label_columns: tuple[str, ...], covariate_columns: tuple[str, ...] = ()
) -> pa.Schema:
    """Samples of a task: header, labels, and ``image`` as uint8 display values.

    ``shape`` of an image is (rows, columns), of a series (slices, rows, columns).

    Label columns and covariates of a table are float32 and nullable; ``split`` is the label table's
    own split, where it has one.
    ``crop_ok`` says whether the instance had the box it was to be cut to; null where nothing was cut.
    """
    labels = [pa.field(name, pa.float32()) for name in (*label_columns, *covariate_columns)]
    image = pa.field("image", pa.fixed_shape_tensor(pa.uint8(), shape), nullable=False)
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
    provenance = _required(pa.string(), "model_sha256", "code_version")
    maps = _required(pa.fixed_shape_tensor(pa.uint8(), map_HW), "attention_map") if map_HW else []
    return pa.schema([*_SAMPLE_FIELDS, *_required(pa.string(), "task", "route"), *fields, *provenance, *maps])


def rejects(table: str) -> pa.Schema:
    """The stamped schema of the table ``filtered``, ``abstained``, ``quarantine`` or ``grouped``."""
    return stamped({"abstained": ABSTAINED, "grouped": GROUPED}.get(table, REJECTS), table)


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
