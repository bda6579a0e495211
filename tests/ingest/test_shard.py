"""One shard: rows add up whatever lies among the files, and nothing of a patient gets into tables."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pydicom
import pytest

from engine import sources
from engine.dicom.parse import Limits
from engine.dicom.write import Facts, uid_from, write_instance
from engine.imaging.preprocess import View
from engine.ingest.instance import InputRule
from engine.ingest.shard import ReadSpec, read_rows, read_shard
from engine.store import ledger, schema
from engine.store.files import sha256_of_bytes
from engine.store.labels import Labels
from engine.tasks.hand_age import HAND_AGE
from tests.fixtures.prepared import prepare

CANARIES = {
    "PatientName": "Canary^Name",
    "PatientID": "CANARY-ID-77",
    "PatientBirthDate": "20110203",
    "StudyDate": "20210405",
    "InstitutionName": "Canary Hospital",
    "ReferringPhysicianName": "Canary^Doctor",
    "PatientComments": "canary comment",
    "AccessionNumber": "CANARYACC",
}
RULE = InputRule(sop_classes=HAND_AGE.rule.sop_classes, view=View(size_HW=(16, 16)))


def write(path: Path, name: str, **changes: Any) -> None:
    rng = np.random.default_rng(len(name))
    facts = Facts(
        sop_instance_uid=uid_from(name), study_instance_uid=uid_from("s", name),
        series_instance_uid=uid_from("r", name), patient_id="p", patient_sex="F",
    )  # fmt: skip
    write_instance(path, rng.integers(0, 4096, (40, 30), dtype=np.uint16), facts)
    data_set = pydicom.dcmread(path)
    for keyword, value in changes.items():
        setattr(data_set, keyword, value)
    data_set.save_as(path)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    root = tmp_path / "archive"
    root.mkdir()
    for index in range(3):
        write(root / f"good{index}", f"good{index}", **CANARIES)
    write(root / "ct", "ct", SOPClassUID="1.2.840.10008.5.1.4.1.1.2", **CANARIES)
    write(root / "frames", "frames", NumberOfFrames=2, **CANARIES)
    (root / "text").write_text("CANARY-ID-77 in a text file")
    (root / "empty").write_bytes(b"")
    (root / "cut").write_bytes((root / "good0").read_bytes()[:-200])
    return root


def read(archive: Path, labels: Labels | None = None) -> dict[str, pa.Table]:
    spec = ReadSpec(
        source=str(archive), folder=archive, rules=(RULE,), salt=b"s" * 32,
        label_names=("bone_age_months",), labels=labels,
    )  # fmt: skip
    return read_shard(sources.plan(str(archive), 100).to_pylist(), spec)


def test_rows_add_up_and_have_their_reasons(archive: Path) -> None:
    tables = read(archive)
    assert tables["samples"]["path"].to_pylist() == ["good0", "good1", "good2"]
    reasons = {
        name: dict(zip(tables[name]["path"].to_pylist(), tables[name]["reason"].to_pylist(), strict=True))
        for name in ("filtered", "quarantine")
    }
    assert reasons == {
        "filtered": {"ct": "sop_class", "frames": "multi_frame", "text": "companion"},
        "quarantine": {"empty": "empty_file", "cut": "truncated"},
    }
    assert tables["samples"].schema.metadata[b"osteoray.schema_version"] == schema.SCHEMA_VERSION.encode()


def test_a_sample_is_what_prepare_gives(archive: Path) -> None:
    table = read(archive)["samples"]
    data = (archive / "good1").read_bytes()
    alone = prepare(data, RULE, b"s" * 32)
    assert np.array_equal(schema.tensor_values(table["image"])[1], alone.image_HW)
    assert table["content_sha256"][1].as_py() == sha256_of_bytes(data)
    assert table["original_to_network"][1].as_py() == alone.geometry.matrix_33.reshape(-1).tolist()
    assert table["age_months"][1].as_py() == pytest.approx(122.0, abs=0.1)  # 3 Feb 2011 to 5 Apr 2021


def test_covariates_of_a_table_are_joined_and_may_be_missing(archive: Path) -> None:
    planned = sources.plan(str(archive), 100).to_pylist()
    plain = ReadSpec(source=str(archive), folder=archive, rules=(RULE,), salt=b"s" * 32)
    uids = read_shard(planned, plain)["samples"]["sop_instance_uid"].to_pylist()
    given = {uids[0]: {"calcium": 2.25}, uids[1]: {"calcium": None}, "1.2.3": {"calcium": 9.0}}
    spec = replace(plain, covariate_names=("calcium",), covariates=given)
    assert read_shard(planned, spec)["samples"]["calcium"].to_pylist() == [2.25, None, None]
    rows = read_rows(planned, spec)
    samples = rows.filter(pc.equal(rows["table"], "samples"))
    assert samples["calcium"].to_pylist() == [2.25, None, None]
    without = read_shard(planned, replace(spec, covariates=None))["samples"]
    assert without["calcium"].to_pylist() == [None] * 3


def test_two_rules_read_a_file_once_and_see_it_their_way(archive: Path) -> None:
    wide = replace(RULE, view=replace(RULE.view, size_HW=(24, 40)))
    slices = replace(RULE, sop_classes=("1.2.840.10008.5.1.4.1.1.2",))
    planned = sources.plan(str(archive), 100).to_pylist()
    spec = ReadSpec(
        source=str(archive), folder=archive, rules=(RULE, wide, slices), tasks=("a", "b", "c"),
        salt=b"s" * 32,
    )  # fmt: skip
    rows = read_rows(planned, spec).to_pylist()
    of_good = [row for row in rows if row["path"] == "good1"]
    assert [(row["table"], row["rule"], row["task"]) for row in of_good] == [
        ("samples", 0, None), ("samples", 1, None), ("filtered", None, "c"),
    ]  # fmt: skip
    side = RULE.view.size_HW
    assert [len(row["image"]) for row in of_good[:2]] == [side[0] * side[1], 24 * 40]
    for row, rule in zip(of_good[:2], (RULE, wide), strict=True):
        alone = prepare((archive / "good1").read_bytes(), rule, b"s" * 32)
        assert row["image"] == alone.image_HW.tobytes()
    ends = {(row["path"], row["task"], row["reason"]) for row in rows if row["table"] != "samples"}
    assert {("text", None, "companion"), ("ct", "a", "sop_class"), ("ct", "b", "sop_class")} <= ends


def test_nothing_of_a_patient_is_in_any_table_or_log(
    archive: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for place in range(200, 1200, 50):  # damaged headers, so that messages speak of elements
        damaged = bytearray((archive / "good0").read_bytes())
        damaged[place : place + 3] = b"\xff\x01\x41"
        (archive / f"damaged{place}").write_bytes(damaged)
    with caplog.at_level(logging.DEBUG):
        tables = read(archive)
    assert tables["quarantine"].num_rows > 6
    ledger.commit_shard(tmp_path / "out", 0, tables)
    for name, table in tables.items():
        pq.write_table(table, tmp_path / "out" / f"{name}.plain", compression="none", use_dictionary=False)
    written = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    said = [caplog.text, *capfd.readouterr(), *(repr(table.to_pylist()) for table in tables.values())]
    for canary in CANARIES.values():
        assert not any(canary.encode() in data for data in written)
        assert not any(canary in text for text in said)


def test_a_file_above_the_cap_is_never_read(archive: Path) -> None:
    size = (archive / "good0").stat().st_size
    spec = ReadSpec(
        source=str(archive), folder=archive, rules=(RULE,), salt=b"s" * 32, limits=Limits(file_bytes=size - 1)
    )
    planned = sources.plan(str(archive), 100).to_pylist()
    tables = read_shard([row for row in planned if row["path"] in {"good0", "text"}], spec)
    assert dict(
        zip(*(tables["quarantine"][name].to_pylist() for name in ("path", "reason")), strict=True)
    ) == {
        "good0": "over_limit",
    }


def test_a_file_that_went_away_is_quarantined(archive: Path) -> None:
    planned = sources.plan(str(archive), 100).to_pylist()
    (archive / "good1").unlink()
    spec = ReadSpec(source=str(archive), folder=archive, rules=(RULE,), salt=b"s" * 32)
    tables = read_shard(planned, spec)
    assert tables["quarantine"].filter(pc.field("path") == "good1")["reason"].to_pylist() == ["source_read"]
    assert sum(table.num_rows for table in tables.values()) == len(planned)


def test_instances_without_a_label_are_filtered(archive: Path) -> None:
    labels = Labels({uid_from("good1"): {"bone_age_months": 90.0}}, {uid_from("good1"): "test"})
    tables = read(archive, labels)
    assert tables["samples"].select(["path", "bone_age_months", "split"]).to_pylist() == [
        {"path": "good1", "bone_age_months": 90.0, "split": "test"}
    ]
    assert "no_label" in tables["filtered"]["reason"].to_pylist()


def test_a_shard_of_rejects_only_has_an_empty_sample_table(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\0")
    tables = read(tmp_path)
    assert tables["samples"].num_rows == 0
    assert tables["samples"].schema.field("image").type.shape == [16, 16]
    assert tables["quarantine"].num_rows == 1
