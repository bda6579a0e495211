"""A small archive with identity in its headers, its score folder, and real nodes that take results."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.manifest import sha256_of_bytes
from tests.report_fixture import MAP_HW, Scored, write_score
from tests.source_fixture import free_port, instance, write_tree

NAME, PATIENT = "Müller^Änne^^Dr.", "PAT-4711"
STORESCP = shutil.which("storescp", path="/usr/local/bin:/usr/bin")
"""That of DCMTK: pynetdicom puts one of the same name beside Python."""


def archive(count: int, **changes: Any) -> dict[str, bytes]:
    """Images of one patient, each in its own study."""
    facts = {
        "SpecificCharacterSet": "ISO_IR 192", "PatientName": NAME, "PatientID": PATIENT, "PatientAge": "010Y",
        "PatientBirthDate": "20100203", "AccessionNumber": "ACC-1", "ReferringPhysicianName": "Ref^Doc",
    }  # fmt: skip
    return {
        f"{n}.dcm": instance(n, study=n, **{**facts, "StudyID": str(n), **changes})
        for n in range(1, count + 1)
    }


def scored_archive(root: Path, count: int = 5, **changes: Any) -> Path:
    """``root/archive`` with ``count`` images, and the score folder ``root/scores`` that says so."""
    content = archive(count, **changes)
    source = write_tree(root / "archive", content)
    rows = [
        Scored(uid=f"1.2.{n}.1.{n}", predicted=100.0 + n, path=f"{n}.dcm", attention_hw=_spot(n))
        for n in range(1, count + 1)
    ]
    scores = write_score(root / "scores", rows, shard_size=2, source=str(source))
    for part in scores.glob("shards/*/predictions.parquet"):
        table = pq.read_table(part, partitioning=None)
        paths = table["path"].to_pylist()
        table = _with(table, "content_sha256", [sha256_of_bytes(content[path]) for path in paths])
        table = _with(table, "study_instance_uid", [f"1.2.{path.removesuffix('.dcm')}" for path in paths])
        pq.write_table(table, part)
    return scores


@contextmanager
def storescp(folder: Path) -> Iterator[int]:
    """A node of DCMTK that keeps what it gets in ``folder``; gives its port."""
    if STORESCP is None:
        absent = "no storescp: apt-get install dcmtk"
        if os.environ.get("CI"):
            pytest.fail(absent)
        pytest.skip(absent)
    folder.mkdir(parents=True)
    port = free_port()
    words = [STORESCP, "--output-directory", str(folder), "--aetitle", "PACS", "--fork", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert process.poll() is None, "storescp ended at its start"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("storescp did not start")


def _spot(number: int) -> np.ndarray:
    attention_hw = np.zeros(MAP_HW, np.uint8)
    attention_hw[number % MAP_HW[0], 3] = 255
    return attention_hw


def _with(table: pa.Table, name: str, values: list[str]) -> pa.Table:
    place = table.column_names.index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values, pa.string()))
