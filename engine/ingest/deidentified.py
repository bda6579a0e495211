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
from collections.abc import Iterable, Mapping
from errno import EIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.dicom.deidentify import deidentified
from engine.dicom.parse import Limits
from engine.errors import FilteredError, InstanceError
from engine.store import schema
from engine.store.files import MANIFEST_NAME, PRIVATE, read_json, replacing, sha256_of_bytes, sha256_of_file
from engine.store.verification import require

Facts = dict[str, Any]

FOLDER = "deidentified"
_STAGING = ".staging"


def begin(folder: Path) -> None:
    """Make DIR and remove what a killed run left half-written. Call it under its lease."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder / _STAGING).glob("*"):
        if path.is_file():  # the folders there are those of leases
            path.unlink()


def export(folder: Path, data: bytes, salt: bytes, limits: Limits) -> Facts:
    """Write the file of one sample; its columns of ``schema.DEIDENTIFIED``, JSON-able.

    A sample that cannot be de-identified has no file and a ``reason``. What the disk refuses is told as
    ``errno``, not raised: it is no fault of the instance, and ends the job (see ``write_table``).
    """
    try:
        found = deidentified(data, salt, limits)
    except (InstanceError, FilteredError) as error:
        return {"reason": error.reason}
    facts = {
        "patient_key": found.patient_key,
        "study_instance_uid": found.study_instance_uid,
        "sop_instance_uid": found.sop_instance_uid,
        "burned_in": found.burned_in,
        "sha256": sha256_of_bytes(found.data),
    }
    try:
        _write(folder, _path(facts), found.data)
    except OSError as error:
        return {"errno": error.errno or EIO}
    return facts


def withdraw(folder: Path, facts: Mapping[str, Any]) -> None:
    """Remove the file of an instance that did not become a sample after all."""
    if "sop_instance_uid" in facts:
        (folder / _path(facts)).unlink(missing_ok=True)


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
    with replacing(out / FOLDER / f"{shard:05d}.parquet", mode=PRIVATE) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def counts(out: Path) -> dict[str, int]:
    """Samples of OUT with a file in DIR, and those that could not be de-identified."""
    reasons = [pq.read_table(path, columns=["reason"])["reason"] for path in (out / FOLDER).glob("*.parquet")]
    done = sum(part.null_count for part in reasons)
    return {"deidentified": done, "not_deidentified": sum(len(part) for part in reasons) - done}


def closing_facts(out: Path) -> dict[str, Any]:
    """What the manifest of a finished job keeps of the tables in OUT: their digests."""
    paths = sorted((out / FOLDER).glob("*.parquet"))
    return {"deidentified_tables": {path.name: sha256_of_file(path) for path in paths}}


def verify(out: Path) -> dict[str, int]:
    """Prove that every sample of OUT has a row, and every row that names a file has it in DIR, undamaged.

    Gives what ``counts`` gives; nothing where the job wrote no export. Other files in DIR contradict nothing:
    several archives may go into one.

    Raises:
        LedgerError: names the first contradiction found.
        TableError: OUT has no manifest.
    """
    manifest = read_json(out / MANIFEST_NAME)
    if not manifest.get("deidentified"):
        return {}
    folder = Path(manifest["deidentified"])
    require(folder.is_dir(), f"the de-identified files are not at {folder}: put them back there")
    found = closing_facts(out)["deidentified_tables"]
    require(manifest.get("deidentified_tables") == found, f"{out / FOLDER} was changed or damaged")
    rows: dict[str, list[Facts]] = {name: pq.read_table(out / FOLDER / name).to_pylist() for name in found}
    for shard in sorted((out / "shards").glob("[0-9]*/samples.parquet")):
        samples = pq.read_table(shard, columns=["instance_index"])["instance_index"].to_pylist()
        stated = [row["instance_index"] for row in rows.get(f"{shard.parent.name}.parquet", [])]
        require(sorted(samples) == sorted(stated), f"{out / FOLDER}: other samples than in {shard.parent}")
    _verify_files(folder, [row for part in rows.values() for row in part if row["reason"] is None])
    return counts(out)


def _verify_files(folder: Path, rows: Iterable[Facts]) -> None:
    """Of several rows that name one file, it is the file of one of them."""
    digests: dict[Path, set[str]] = {}
    for row in rows:
        digests.setdefault(_path(row), set()).add(row["sha256"])
    for path, known in digests.items():
        place = folder / path
        require(place.is_file(), f"{place} is missing: run the same command again in another --out")
        require(sha256_of_file(place) in known, f"{place} was changed or damaged")


def _path(facts: Mapping[str, Any]) -> Path:
    """Where the file of a row lies, below DIR."""
    return Path(facts["patient_key"], facts["study_instance_uid"], f"{facts['sop_instance_uid']}.dcm")


def _write(folder: Path, path: Path, data: bytes) -> None:
    (folder / _STAGING).mkdir(parents=True, exist_ok=True)
    with replacing(folder / path, folder / _STAGING) as temporary:
        temporary.write_bytes(data)
