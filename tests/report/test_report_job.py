"""``osteoray report`` on folders: what it writes, what it says, what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from engine.dicom.write import Facts, write_instance
from engine.errors import TableError, UsageError
from jobs.report import report
from tests.fixtures.report_fixture import HeldOut, Page, Scored, decoded, write_labels, write_run, write_score


def run_job(capsys: pytest.CaptureFixture[str], folder: Path, **options) -> dict[str, object]:
    with pytest.raises(typer.Exit) as end:
        report(folder, json=True, **options)
    assert end.value.exit_code == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_job_writes_the_page_and_reads_the_archive_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    facts = Facts(
        sop_instance_uid="2.25.1", study_instance_uid="2.25.2", series_instance_uid="2.25.3", patient_id="p"
    )
    write_instance(
        archive / "one.dcm", np.add.outer(np.arange(64) * 20, np.arange(48) * 30).astype(np.uint16), facts
    )
    one = Scored(uid="2.25.1", predicted=99, path="one.dcm")
    folder = write_score(tmp_path / "score", [one], source=str(archive))
    answer = run_job(capsys, folder)
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert answer["report"] == str(folder / "report.html")
    picture = decoded(next(link for link in page.links if link.startswith("data:")))
    assert picture.shape == (64, 64, 3)
    assert (picture[:, :8] == 0).all()  # 64 x 48 centred on the square
    assert picture[-1, 55, 0] > 250
    run_job(capsys, folder, images=False, out=tmp_path / "deep/er.html")
    assert "data:image/png" not in (tmp_path / "deep/er.html").read_text(encoding="utf-8")


def test_the_job_reports_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = (
        write_run(tmp_path / name, [HeldOut(uid=str(i), truth=9, predicted=9 + error) for i in range(3)])
        for name, error in (("good", 1), ("bad", 2))
    )
    answer = run_job(capsys, good, compare=[f"bad={bad}"])
    assert answer["kind"] == "run"
    assert Page((good / "report.html").read_text(encoding="utf-8")).has_row("good minus bad")


def test_pages_are_written_without_the_framework(tmp_path: Path) -> None:
    score = write_score(tmp_path / "score", [Scored(uid="a", predicted=9)])
    run = write_run(tmp_path / "run", [HeldOut(uid="a", truth=9, predicted=8)])
    words = [["report", str(score)], ["report", str(run)], ["compare", str(score), str(score), "--out", "c"]]
    code = (
        "import sys\n"
        "from jobs.__main__ import main\n"
        f"for words in {words}:\n"
        "    try:\n"
        "        main(words)\n"
        "    except SystemExit as end:\n"
        "        assert not end.code, words\n"
        "    assert not {'ray', 'torch', 'timm'} & set(sys.modules), words\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_job_refuses_what_makes_no_sense(tmp_path: Path) -> None:
    folder, run = write_score(tmp_path / "score"), write_run(tmp_path / "run")
    labels = write_labels(tmp_path / "labels.csv", [("a", 9.0, "test")])
    for options, message in (
        ({"compare": ["run"]}, "write NAME=RUN"),
        ({"compare": [f"a={run}", f"a={run}"]}, "twice"),
        ({"labels": tmp_path / "no.csv"}, "no.csv"),
    ):
        with pytest.raises(UsageError, match=message):
            report(folder, **options)
    with pytest.raises(UsageError, match="--labels goes with a score folder"):
        report(run, labels=labels)
    with pytest.raises(UsageError, match="neither"):
        report(tmp_path)
    write_score(tmp_path / "ingested", kind="ingest")
    with pytest.raises(UsageError, match="'ingest'"):
        report(tmp_path / "ingested")
    (folder / "plan.parquet").write_bytes(b"no table")
    with pytest.raises(TableError, match="plan.parquet"):
        report(folder)
    assert not (folder / "report.html").exists()


def test_damaged_tables_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [HeldOut(uid="a", truth=9, predicted=9)])
    (run / "metrics.jsonl").write_text('{"epoch": 1}\nnot JSON\n[3]\n{"epoch": "x"}\n')
    with pytest.raises(TableError, match=r"metrics\.jsonl, line 2"):
        report(run)
    (run / "metrics.jsonl").unlink()
    pq.write_table(pa.table({"sop_instance_uid": ["a"]}), run / "evaluation.parquet")
    with pytest.raises(TableError, match=r"evaluation\.parquet cannot be read as held-out"):
        report(run)
