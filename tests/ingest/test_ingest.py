"""Before an ingest or a score starts: what it refuses to begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import UsageError
from jobs.__main__ import main
from jobs.ingest import read_size
from jobs.plan import require_apart
from tests.fixtures.dicom_fixture import image, picture
from tests.fixtures.story import Ended, osteoray


@pytest.mark.parametrize("out", ["archive", "archive/out", "archive/a/../b", "link/out"])
def test_results_do_not_go_into_the_archive(tmp_path: Path, out: str) -> None:
    (tmp_path / "archive" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "archive")
    with pytest.raises(UsageError, match="lies in the archive"):
        require_apart(str(tmp_path / "archive"), tmp_path / out)
    require_apart(str(tmp_path / "archive"), tmp_path / "archive-samples")


@pytest.mark.parametrize("option", ["--size", "--shard-size"])
def test_sizes_are_above_zero(tmp_path: Path, option: str) -> None:
    words = ["ingest", str(tmp_path), "--task", "hand-age", "--out", str(tmp_path / "out"), option, "0"]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "size_HW"), [("224", (224, 224)), ("96x160", (96, 160)), ("96X160", (96, 160))]
)
def test_a_size_is_one_number_or_rows_and_columns(text: str, size_HW: tuple[int, int]) -> None:
    assert read_size(text) == size_HW


@pytest.mark.parametrize("text", ["0", "96x0", "96x", "x96", "96x96x96", "-1", "big"])
def test_another_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--size"):
        read_size(text)


def test_an_empty_archive_is_a_wrong_request(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    ended = osteoray("ingest", tmp_path / "archive", "--task", "hand-age", "--out", tmp_path / "out")
    assert ended.code == 2
    assert "holds no files" in ended.facts["message"]


@pytest.mark.parametrize("out", ["out", "/out-of-nowhere"])
def test_a_source_that_is_not_there_is_named(tmp_path: Path, out: str) -> None:
    ended = osteoray("ingest", "/nonexist", "--task", "hand-age", "--out", tmp_path / out)
    assert ended.code == 2
    assert "there is no folder or file /nonexist" in ended.facts["message"]


@pytest.mark.ray
@pytest.mark.parametrize(("broken", "code"), [(None, 0), (bytes(400), 3)])
def test_a_folder_with_other_kinds_of_file_ends_with_0(
    ray_session: None, tmp_path: Path, broken: bytes | None, code: int
) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "film.dcm").write_bytes(image(picture((64, 64))))
    (archive / "README.txt").write_text("Left hands.")
    (archive / "study.json").write_text("{}")
    if broken:
        (archive / "other").write_bytes(broken)
    ended = osteoray("ingest", archive, "--task", "hand-age", "--out", tmp_path / "out")
    assert (ended.code, ended.facts["samples"], ended.facts["filtered"]) == (code, 1, 2)
    assert osteoray("verify", tmp_path / "out").code == 0


def films(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        data = image(picture((64, 64)), SOPInstanceUID=f"1.2.3.{number}", PatientID=f"P{number}")
        (folder / f"{number}.dcm").write_bytes(data)
    return folder


def ingested(tmp_path: Path, rows: str, *, option: str = "--labels") -> Ended:
    table = tmp_path / "table.csv"
    table.write_text(f"sop_instance_uid,bone_age_months\n{rows}\n")
    words = ("ingest", tmp_path / "archive", "--task", "hand-age", option, table, "--out", tmp_path / "out")
    return osteoray(*words)


def test_labels_of_another_archive_are_refused_before_any_work(tmp_path: Path) -> None:
    films(tmp_path / "archive", 8)
    ended = ingested(tmp_path, "9.9.9,96")
    assert ended.code == 2
    assert "names none of the 8 instances" in ended.facts["message"]
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.ray
def test_an_archive_that_was_asked_in_part_ends_with_an_error(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("engine.ingest.survey._ASKED", 3)
    films(tmp_path / "archive", 8)
    ended = ingested(tmp_path, "9.9.9,96")
    assert "names none of the 3 instances that were looked at" in caplog.text
    assert (ended.code, "0 labelled of 8" in ended.facts["message"]) == (2, True)


@pytest.mark.ray
def test_labels_are_counted(ray_session: None, tmp_path: Path) -> None:
    films(tmp_path / "archive", 8)
    ended = ingested(tmp_path, "'1.2.3.0,96\n1.2.3.1 ,90\n9.9,30\n1.2.3.2,")
    assert (ended.code, ended.facts["samples"], ended.facts["filtered"]) == (0, 3, 5)
    assert ended.facts["labelled"] == 2
