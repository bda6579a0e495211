"""Kind ``leak``: what identifies stays on site, and with its owner. Over every delivery and file."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from engine.delivery import tables
from tests.fixtures.report_fixture import Rejected, Scored, write_score
from tests.fixtures.results_fixture import scored_archive
from tests.fixtures.story import osteoray

MARK = "DOE^JANE^19800101"
ESCAPES = "\x1b]0;x\x07a\x9b31mb\u202ec\u2066d\x7f"


def named_scores(root: Path) -> Path:
    """A folder whose archive calls its files as its patients are called."""
    rows = [Scored(uid=f"1.{n}", predicted=90.0, path=f"{MARK}/{n}.dcm") for n in range(3)]
    bad = [Rejected(path=f"{MARK}.txt", reason="truncated", code="ORY-I03")]
    return write_score(root / "scores", rows, quarantined=bad)


def texts_of(place: Path) -> list[bytes]:
    """All bytes of a file, folder or ZIP."""
    if place.is_dir():
        return [text for path in place.rglob("*") if path.is_file() for text in texts_of(path)]
    if place.suffix == ".xlsx":
        with zipfile.ZipFile(place) as packed:
            return [packed.read(name) for name in packed.namelist()]
    return [place.read_bytes()]


@pytest.mark.parametrize("to", ["out.csv", "out.xlsx", "fhir:fhir"])
def test_file_names_leave_the_site_only_where_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    monkeypatch.chdir(tmp_path)
    scores = named_scores(tmp_path)
    assert osteoray("deliver", scores, "--to", to).code == 0
    place = Path(to.removeprefix("fhir:"))
    assert not [text for text in texts_of(place) if MARK.encode() in text]
    asked = osteoray("deliver", scores, "--to", to, "--names")
    if to.startswith("fhir:"):
        assert asked.code == 2
    else:
        assert [text for text in texts_of(place) if MARK.encode() in text]


def test_the_row_number_leads_back_to_the_file(tmp_path: Path) -> None:
    scores = named_scores(tmp_path)
    found = tables.gathered(scores, has_names=True).to_pylist()
    shown = tables.gathered(scores).to_pylist()
    by_row = {row["instance_index"]: row["path"] for row in found}
    assert len(by_row) == len(shown) == 4
    assert "path" not in shown[0]
    assert {by_row[row["instance_index"]] for row in shown} == set(by_row.values())


@pytest.mark.parametrize("ending", ["csv", "xlsx"])
def test_no_cell_speaks_to_a_terminal(tmp_path: Path, ending: str) -> None:
    rows = [Scored(uid="1.1", predicted=90.0, path=f"a{ESCAPES}.dcm")]
    scores = write_score(tmp_path / "scores", rows)
    assert osteoray("deliver", scores, "--to", tmp_path / f"o.{ending}", "--names").code == 0
    whole = "".join(text.decode() for text in texts_of(tmp_path / f"o.{ending}") if text)
    assert not set(whole) & set(ESCAPES) - set("]0;xa31mbcd")
    assert "_x001B_" not in whole


@pytest.mark.parametrize("umask", [0o022, 0o000, 0o077])
def test_what_may_identify_is_for_its_owner_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    scores = scored_archive(tmp_path, count=2)
    code = "import os, sys; os.umask(int(sys.argv.pop(1))); from jobs.__main__ import main; main()"
    made = [tmp_path / "o.csv", tmp_path / "o.xlsx", tmp_path / "fhir", tmp_path / "sr", scores / "outbox"]
    for to in ("o.csv", "o.xlsx", "fhir:fhir", "sr"):
        words = [sys.executable, "-c", code, str(umask), "deliver", str(scores), "--to", to]
        subprocess.run(words, cwd=tmp_path, env=dict(os.environ), check=True, capture_output=True)
    page = tmp_path / "page.html"
    words = [sys.executable, "-c", code, str(umask), "report", str(scores), "--out", str(page)]
    subprocess.run(words, cwd=tmp_path, env=dict(os.environ), check=True, capture_output=True)
    files = [path for place in [*made, page] for path in ([place] if place.is_file() else place.rglob("*"))]
    assert len([path for path in files if path.is_file()]) >= 8
    kept = [path for path in files if path.is_file() and ".leases" not in path.parts]  # who sends now
    open_ones = [path for path in kept if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert open_ones == []
