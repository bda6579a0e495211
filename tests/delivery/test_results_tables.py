"""Tables and FHIR bundles of a score folder: no formula, no identity, every instance, valid R4."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fhir.resources.R4B.bundle import Bundle

from engine.delivery import fhir, tables
from engine.delivery.scored import RESEARCH_USE
from engine.evaluation.answer import Column
from engine.store import ledger
from engine.tasks import TASKS
from tests.fixtures.report_fixture import Rejected, Scored, model_facts, write_score
from tests.fixtures.results_fixture import PATIENT, scored_archive
from tests.fixtures.story import osteoray

PAYLOADS = (
    "=1+1", "+1", "-1", "a;=1", "a,=1", "a\t@x", 'a;"=1', "x|-1+1", "1; -2+cmd|x",
    "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "＝1", '=cmd|"/c calc"!A0',
    '=HYPERLINK("http://x","y")', "-2+3", "=1\n=2",
)  # fmt: skip


def hostile(root: Path) -> Path:
    """A score folder in which a member's path is a formula."""
    rows = [Scored(uid=f"1.{n}", predicted=90.0 + n, path=path) for n, path in enumerate(PAYLOADS)]
    rejected = [Rejected(path="@bad.dcm", reason="truncated", code="ORY-I03")]
    return write_score(root / "scores", rows, quarantined=rejected)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_text_that_looks_like_a_formula_is_quoted(payload: str) -> None:
    (quoted,) = tables.harmless(pa.array([payload])).to_pylist()
    assert quoted.replace("'", "") == payload.replace("'", "")
    for sign in ",;|\t\n\r":  # whatever a spreadsheet takes for the end of a cell
        parts = [part.strip(' "') for part in quoted.split(sign)]
        assert not [part for part in parts if part.startswith(tuple("=+-@＝＋－＠"))], parts


@pytest.mark.parametrize("text", ["", "a=b", "1.2.3", "hand/1.dcm", "Ä", "'=1", " a", "1.5; -2.0; 3"])
def test_other_text_stays(text: str) -> None:
    assert tables.harmless(pa.array([text])).to_pylist() == [text]


def test_a_csv_holds_every_instance_and_no_formula(tmp_path: Path) -> None:
    ended = osteoray("deliver", hostile(tmp_path), "--to", tmp_path / "out.csv", "--names")
    found = read_csv(tmp_path / "out.csv")
    assert ended.facts["rows"] == len(found) == len(PAYLOADS) + 1
    expected = tables.harmless(pa.array([*PAYLOADS, "@bad.dcm"])).to_pylist()
    assert {row["path"] for row in found} == set(expected)
    assert [row["reason"] for row in found if row["state"] == "quarantined"] == ["truncated"]
    assert {row["note"] for row in found} == {RESEARCH_USE}
    assert {float(row["predicted_months"]) for row in found if row["state"] == "scored"} == {
        90.0 + n for n in range(len(PAYLOADS))
    }


def test_rows_of_many_shards_come_in_one_order_however_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_BATCH_ROWS", 2)
    monkeypatch.setattr(ledger, "_PARTS_AT_ONCE", 2)
    names = [f"{n * 7 % 11:02d}.dcm" for n in range(11)]
    rows = [Scored(uid=name, predicted=12.345, sd=math.nan, path=name, sex=None) for name in names]
    bad = [Rejected(path=f"{n:02d}.txt", reason="truncated", code="ORY-I03") for n in (5, 3)]
    osteoray(
        "deliver",
        write_score(tmp_path / "s", rows, quarantined=bad, shard_size=3),
        "--to",
        tmp_path / "t.csv",
        "--names",
    )
    found = read_csv(tmp_path / "t.csv")
    assert {row["path"] for row in found} == {*names, "03.txt", "05.txt"}
    order = [(row["study_instance_uid"] or "~", int(row["instance_index"])) for row in found]
    assert order == sorted(order)
    assert {row["state"] for row in found if row["path"].endswith("txt")} == {"quarantined"}
    assert {float(row["predicted_months"]) for row in found if row["state"] == "scored"} <= {12.34, 12.35}
    assert {row["sd_months"] for row in found} == {row["patient_sex"] for row in found} == {""}


def test_an_xlsx_holds_text_as_text_and_numbers_as_numbers(tmp_path: Path) -> None:
    osteoray("deliver", hostile(tmp_path), "--to", tmp_path / "out.xlsx", "--names")
    sheet = openpyxl.load_workbook(tmp_path / "out.xlsx").active
    assert sheet is not None
    header, *body = list(sheet.iter_rows())
    names = [cell.value for cell in header]
    assert names == tables.gathered(tmp_path / "scores", has_names=True).column_names
    assert len(body) == len(PAYLOADS) + 1
    assert {cell.data_type for row in body for cell in row} <= {"s", "inlineStr", "n"}  # never f: a formula
    paths = {row[names.index("path")].value for row in body}
    assert paths >= {payload for payload in PAYLOADS if "\r" not in payload}
    assert isinstance(body[0][names.index("predicted_months")].value, float | int)


def test_the_same_folder_gives_the_same_table(tmp_path: Path) -> None:
    scores = hostile(tmp_path)
    for name in ("a.csv", "b.csv"):
        osteoray("deliver", scores, "--to", tmp_path / name)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_more_rows_than_a_sheet_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_SHEET_ROWS", 3)
    assert osteoray("deliver", hostile(tmp_path), "--to", tmp_path / "out.xlsx").code == 2
    assert not (tmp_path / "out.xlsx").exists()


def bundles(root: Path) -> list[dict[str, Any]]:
    ended = osteoray("deliver", scored_archive(root, 3), "--to", f"fhir:{root / 'fhir'}")
    files = sorted((root / "fhir").iterdir())
    assert ended.facts["bundles"] == len(files) == 3
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def test_bundles_are_valid_fhir(tmp_path: Path) -> None:
    for found in bundles(tmp_path):
        Bundle.model_validate(found)


def test_an_observation_says_what_was_predicted_of_which_study(tmp_path: Path) -> None:
    values = set()
    for found in bundles(tmp_path):
        device, observation = (entry["resource"] for entry in found["entry"])
        assert observation["status"] == "preliminary"
        assert observation["note"] == device["note"] == [{"text": RESEARCH_USE}]
        assert observation["meta"]["security"][0]["code"] == "HRESCH"
        assert observation["device"]["reference"] == found["entry"][0]["fullUrl"]
        assert observation["valueQuantity"]["code"] == "mo"
        assert observation["subject"]["identifier"]["system"] == fhir.PATIENT_KEY_SYSTEM
        assert observation["component"][0]["valueQuantity"]["value"] == 6.0
        values.add(
            (observation["derivedFrom"][0]["identifier"]["value"], observation["valueQuantity"]["value"])
        )
    assert values == {(f"urn:oid:1.2.{n}", 100.0 + n) for n in (1, 2, 3)}


def test_tables_and_bundles_hold_no_identity(tmp_path: Path) -> None:
    bundles(tmp_path)
    osteoray("deliver", tmp_path / "scores", "--to", tmp_path / "out.csv")
    for path in ((tmp_path / "out.csv"), *(tmp_path / "fhir").iterdir()):
        text = path.read_text(encoding="utf-8")
        assert not [mark for mark in (PATIENT, "Müller", "20100203", "ACC-1") if mark in text], path


def test_answers_of_several_tasks_stand_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another task's columns follow those of the first, empty in its rows; lists become one text."""
    kinds = {"grade": pa.int8(), "p": pa.float32(), "slices": pa.list_(pa.string())}
    columns = tuple(
        Column(name=name, type=kind, unit="", meaning=name, decimals=3) for name, kind in kinds.items()
    )
    hand = TASKS["hand-age"]
    graded = replace(hand, name="graded", answer=replace(hand.answer, columns=columns))
    monkeypatch.setitem(TASKS, "graded", graded)
    models = [model_facts("hand-age", "ab" * 32), model_facts("graded", "cd" * 32)]
    scores = write_score(tmp_path / "scores", [Scored(uid="1.1", predicted=90.0)], models=models)
    (part,) = scores.glob("shards/*/predictions*.parquet")
    inputs = {"instance_index": pa.int64(), "path": pa.string(), "task": pa.string()}
    inputs = {"instance_index": pa.int64(), "path": pa.string(), "task": pa.string()}
    row = {"instance_index": 0, "path": "1.1.dcm", "task": "graded", "grade": 2}
    row |= {"p": 0.12345, "slices": ["a", "b"]}
    pq.write_table(pa.Table.from_pylist([row], schema=pa.schema({**inputs, **kinds})), tmp_path / "g")
    parts = {"predictions": [part, tmp_path / "g"]}
    monkeypatch.setattr(ledger, "tables_of", lambda _, table: parts.get(table, []))
    hands, grades = sorted(tables.gathered(scores).to_pylist(), key=lambda row: row["task"], reverse=True)
    assert (hands["predicted_months"], hands["grade"], hands["slices"]) == (90.0, None, None)
    assert (grades["predicted_months"], grades["grade"], grades["p"]) == (None, 2, 0.123)
    assert grades["slices"] == "a; b"
