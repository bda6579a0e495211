"""The folder of de-identified files: one for each sample, and, kept apart, the table that leads back.

    DIR/<patient_key>/<new study UID>/<new SOP instance UID>.dcm
    OUT/deidentified/00042.parquet         one row a sample of the shard (``schema.DEIDENTIFIED``)

DIR is what may be passed on: no name and no table in it says where a file came from. The table links
``instance_index`` to the new UID. It holds no old UID, but the samples table beside it does (by it labels are
joined and results go back to their studies), and its indices follow the order of the archive's paths: so it
lies with the samples, in OUT, and does not leave the site with DIR.

A file appears whole, by a rename, before the shard of its sample is committed, so a resumed job misses none;
the same instance gives the same bytes. Of different instances under one SOP instance UID the last one written
stays; the table's ``sha256`` shows which.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from errno import EIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine import schema
from engine.dicom.deidentify import deidentified
from engine.dicom.guard import Limits
from engine.errors import FilteredError, InstanceError
from engine.manifest import replacing, sha256_of_bytes, sync

Facts = dict[str, Any]

FOLDER = "deidentified"
_STAGING = ".staging"


def begin(folder: Path) -> None:
    """Make DIR and remove what a killed run left half-written. Call it under its lease."""
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        shutil.rmtree(folder / _STAGING)


def export(folder: Path, data: bytes, salt: bytes, limits: Limits) -> Facts:
    """Write the file of one sample; its columns of ``schema.DEIDENTIFIED``, JSON-able.

    A sample that cannot be de-identified has no file and a ``reason``. What the disk refuses is told as
    ``errno``, not raised: it is no fault of the instance, and ends the job (see ``write_table``).
    """
    try:
        found = deidentified(data, salt, limits)
    except (InstanceError, FilteredError) as error:
        return {"reason": error.reason}
    names = (found.patient_key, found.study_instance_uid, f"{found.sop_instance_uid}.dcm")
    try:
        _write(folder, Path(*names), found.data)
    except OSError as error:
        return {"errno": error.errno or EIO}
    return {
        "patient_key": found.patient_key,
        "study_instance_uid": found.study_instance_uid,
        "sop_instance_uid": found.sop_instance_uid,
        "burned_in": found.burned_in,
        "sha256": sha256_of_bytes(found.data),
    }


def withdraw(folder: Path, facts: Mapping[str, Any]) -> None:
    """Remove the file of an instance that did not become a sample after all."""
    if "sop_instance_uid" in facts:
        path = (
            folder / facts["patient_key"] / facts["study_instance_uid"] / f"{facts['sop_instance_uid']}.dcm"
        )
        path.unlink(missing_ok=True)


def write_table(out: Path, shard: int, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the table of one shard; each row is ``instance_index`` and what ``export`` gave.

    Raises:
        OSError: the disk refused the table, or one of the files.
    """
    listed = list(rows)
    for row in listed:
        if "errno" in row:
            raise OSError(row["errno"], os.strerror(row["errno"]), FOLDER)
    table = pa.Table.from_pylist(listed, schema=schema.stamped(schema.DEIDENTIFIED, FOLDER))
    with replacing(out / FOLDER / f"{shard:05d}.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")


def counts(out: Path) -> dict[str, int]:
    """Samples of OUT with a file in DIR, and those that could not be de-identified."""
    parts = [pq.read_table(path, columns=["reason"]) for path in sorted((out / FOLDER).glob("*.parquet"))]
    rows, failed = (
        sum(part.num_rows for part in parts),
        sum(part.num_rows - part["reason"].null_count for part in parts),
    )
    return {"deidentified": rows - failed, "not_deidentified": failed}


def _write(folder: Path, path: Path, data: bytes) -> None:
    target, staging = folder / path, folder / _STAGING
    staging.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=staging)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(target)
        sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)
