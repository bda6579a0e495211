"""The folder of de-identified files: written, withdrawn, refused by the disk, and proved from the files."""

from __future__ import annotations

from collections.abc import Callable
from errno import ENOTDIR
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.dicom.parse import Limits
from engine.dicom.write import DX_FOR_PRESENTATION
from engine.errors import LedgerError, TableError
from engine.imaging.preprocess import View
from engine.ingest import deidentified
from engine.ingest.instance import InputRule
from engine.ingest.shard import ReadSpec, read_shard
from engine.store import ledger
from engine.store.files import MANIFEST_NAME, sha256_of_facts, write_json
from jobs.salt import check_of
from tests.fixtures.dicom_fixture import image, picture

SALT = b"s" * 32


def exported(folder: Path, uid: str) -> dict[str, Any]:
    return deidentified.export(folder, image(picture(), SOPInstanceUID=uid), SALT, Limits())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """OUT of two shards of three samples, one of which could not be de-identified; DIR lies beside it."""
    out, folder = tmp_path / "out", tmp_path / "export"
    deidentified.begin(folder)
    for shard in range(2):
        indices = range(3 * shard, 3 * shard + 3)
        rows = [{"instance_index": index, **exported(folder, f"1.2.{index}")} for index in indices]
        if shard:
            deidentified.withdraw(folder, rows[2])
            rows[2] = {"instance_index": indices[2], "reason": "bad_header"}
        (out / deidentified.FOLDER).mkdir(parents=True, exist_ok=True)
        deidentified.write_table(out, shard, rows)
        (out / "shards" / f"{shard:05d}").mkdir(parents=True)
        samples = pa.table({"instance_index": pa.array(indices, pa.int64())})
        pq.write_table(samples, out / "shards" / f"{shard:05d}" / "samples.parquet")
    write_json(out / MANIFEST_NAME, {"deidentified": str(folder), **deidentified.closing_facts(out)})
    return out


def files(out: Path) -> list[Path]:
    return sorted((out.parent / "export").rglob("*.dcm"))


def test_an_export_that_is_whole_is_proved(out: Path) -> None:
    (out.parent / "export" / "of another archive").write_text("x")
    assert deidentified.verify(out) == {"deidentified": 5, "not_deidentified": 1}
    assert len(files(out)) == 5


def test_a_folder_without_an_export_has_nothing_to_prove(tmp_path: Path) -> None:
    write_json(tmp_path / MANIFEST_NAME, {"kind": "ingest"})
    assert deidentified.verify(tmp_path) == {}


def change_a_file(out: Path) -> None:
    files(out)[3].write_bytes(files(out)[3].read_bytes()[:-1] + b"x")


def drop_a_file(out: Path) -> None:
    files(out)[0].unlink()


def drop_a_table(out: Path) -> None:
    (out / deidentified.FOLDER / "00001.parquet").unlink()


def change_a_table(out: Path) -> None:
    path = out / deidentified.FOLDER / "00000.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)


def forget_a_sample(out: Path) -> None:
    change_a_table(out)
    manifest = {"deidentified": str(out.parent / "export"), **deidentified.closing_facts(out)}
    write_json(out / MANIFEST_NAME, manifest)


def move_the_export(out: Path) -> None:
    (out.parent / "export").rename(out.parent / "elsewhere")


@pytest.mark.parametrize(
    "damage",
    [change_a_file, drop_a_file, drop_a_table, change_a_table, forget_a_sample, move_the_export],
)
def test_planted_damage_is_found(out: Path, damage: Callable[[Path], None]) -> None:
    damage(out)
    with pytest.raises(LedgerError):
        deidentified.verify(out)


def test_of_two_instances_under_one_uid_either_file_is_right(out: Path) -> None:
    other = image(picture(bits=10), SOPInstanceUID="1.2.0")
    row = deidentified.export(out.parent / "export", other, SALT, Limits())
    path = out / deidentified.FOLDER / "00001.parquet"
    kept = pq.read_table(path).to_pylist()
    deidentified.write_table(out, 1, [{**row, "instance_index": 3}, *kept[1:]])
    manifest = {"deidentified": str(out.parent / "export"), **deidentified.closing_facts(out)}
    write_json(out / MANIFEST_NAME, manifest)
    assert deidentified.verify(out)["deidentified"] == 5


def test_withdrawing_removes_the_file_and_may_be_done_again(tmp_path: Path) -> None:
    facts = exported(tmp_path, "1.2.9")
    assert len(list(tmp_path.rglob("*.dcm"))) == 1
    for _ in range(2):
        deidentified.withdraw(tmp_path, facts)
        assert list(tmp_path.rglob("*.dcm")) == []
    deidentified.withdraw(tmp_path, {"reason": "bad_header"})


def test_what_the_disk_refuses_ends_the_job_and_is_no_fault_of_the_instance(tmp_path: Path) -> None:
    """A file lies where a folder must be: root, too, is refused that."""
    facts = exported(tmp_path / "export", "1.2.9")
    study = tmp_path / "export" / facts["patient_key"] / facts["study_instance_uid"]
    deidentified.withdraw(tmp_path / "export", facts)
    study.rmdir()
    study.write_text("in the way")
    row = exported(tmp_path / "export", "1.2.9")
    assert set(row) == {"errno"}
    with pytest.raises(OSError, match="deidentified") as raised:
        deidentified.write_table(tmp_path, 0, [{"instance_index": 0, **row}])
    assert raised.value.errno == row["errno"] != 0
    assert not (tmp_path / deidentified.FOLDER).exists()
    assert not list((tmp_path / "export" / ".staging").iterdir())
    (tmp_path / "x").write_text("")
    assert exported(tmp_path / "x", "1.2.9") == {"errno": ENOTDIR}


def test_another_salt_is_noticed_when_a_folder_is_resumed(tmp_path: Path) -> None:
    """Half of the patients would have other keys, other UIDs and other dates than the rest."""
    begun = {"kind": "ingest", "config_sha256": sha256_of_facts(0)}
    ledger.begin(tmp_path, {**begun, "salt_check": check_of(SALT)})
    ledger.begin(tmp_path, {**begun, "salt_check": check_of(SALT)})
    with pytest.raises(TableError, match="another salt"):
        ledger.begin(tmp_path, {**begun, "salt_check": check_of(b"t" * 32)})
    assert SALT not in (tmp_path / MANIFEST_NAME).read_bytes()
    assert SALT.hex() not in (tmp_path / MANIFEST_NAME).read_text()


def test_the_name_of_a_file_is_in_the_column_path_alone(tmp_path: Path) -> None:
    """A file's name may be a patient's. Tables need it to find the file; the export and messages do not."""
    archive, export = tmp_path / "archive", tmp_path / "export"
    archive.mkdir()
    (archive / "QXMARK^Hand 1.dcm").write_bytes(image(picture()))
    (archive / "QXMARK^Hand 2.dcm").write_bytes(b"no DICOM")
    rule = InputRule(sop_classes=(DX_FOR_PRESENTATION,), view=View(size_HW=(32, 32)))
    spec = ReadSpec(
        source=str(archive), folder=tmp_path / "out", rules=(rule,),
        salt=SALT, deidentified=export, isolation=None,
    )  # fmt: skip
    planned = [
        {"instance_index": number, "path": path.name, "shard": 0, "version": 1}
        for number, path in enumerate(sorted(archive.iterdir()))
    ]
    (tmp_path / "out" / deidentified.FOLDER).mkdir(parents=True)
    for table in read_shard(planned, spec).values():
        for name in table.column_names:
            assert name in {"path", "image"} or "QXMARK" not in repr(table[name].to_pylist())
    (written,) = export.rglob("*.dcm")
    assert "QXMARK" not in str(written.relative_to(export))
    for path in (written, tmp_path / "out" / deidentified.FOLDER / "00000.parquet"):
        assert b"QXMARK" not in path.read_bytes()
