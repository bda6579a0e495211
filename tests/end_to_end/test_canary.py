"""A marked patient goes through the real verbs; afterwards no byte that they left anywhere holds a mark."""

from __future__ import annotations

import base64
import io
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pydicom
import pytest
from pydicom.uid import UID

from tests.fixtures.identity_fixture import MARK, identify, marks
from tests.fixtures.story import Story, osteoray

CHARSETS = {
    "ISO_IR 192": "Müller^QXMARK901",
    "ISO_IR 100": "Müller^QXMARK902",
    "ISO_IR 144": "Люкceмбypг^QXMARK903",
    "\\ISO 2022 IR 87": "Yamada^QXMARK904=山田^太郎",
    "ISO_IR 999": "Odd^QXMARK905",
}
NAMES = ("Müller^", "Люкceмбypг", "山田")
"""Parts of names that are written otherwise than in ASCII."""


def needles() -> list[bytes]:
    """The mark, and names beyond ASCII, in every encoding that they may be found in."""
    found = {
        text.encode(codec)
        for text in (MARK, *NAMES)
        for codec in ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "iso8859_5", "iso2022_jp")
        if _is_encodable(text, codec)
    }
    for shift in range(3):  # base64 of a text depends on where in the stream it lies
        code = base64.b64encode(b"\0" * shift + MARK.encode() + b"\0" * 3)
        found.add(code[4 if shift else 0 : 8])
    return [needle for needle in found if len(needle) > 3]


def _is_encodable(text: str, codec: str) -> bool:
    try:
        text.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


@pytest.fixture(scope="module")
def archive(story: Story, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms with a marked patient: sound ones in several character sets, and damaged ones."""
    root = tmp_path_factory.mktemp("canary")
    sound = [path for path in sorted(story.archive.rglob("IM0001*")) if path.is_file()][:10]
    for number, path in enumerate(sound):
        charset, name = list(CHARSETS.items())[number % len(CHARSETS)]
        data_set = pydicom.dcmread(path)
        identify(data_set)
        data_set.SpecificCharacterSet = charset.split("\\")
        with _no_warnings():
            data_set.PatientName = name
            data_set.file_meta.SourceApplicationEntityTitle = f"{MARK}AE"
            data_set.preamble = MARK.encode().ljust(128, b"\0")
            data_set.save_as(root / f"good{number}", enforce_file_format=True)
    good = (root / "good0").read_bytes()
    for place in range(200, 3200, 150):
        damaged = bytearray(good)
        damaged[place : place + 3] = b"\xff\x01\x41"
        (root / f"damaged{place}").write_bytes(damaged)
    (root / "cut").write_bytes(good[:-3000])
    (root / "cut-in-header").write_bytes(good[:900])
    (root / "text").write_text(f"{MARK} is no image")
    other = pydicom.dcmread(root / "good1")
    other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2")
    other.Rows = 1
    other.save_as(root / "ct")
    return root


def _no_warnings() -> AbstractContextManager[object]:
    return warnings.catch_warnings(action="ignore")


def _strings(path: Path) -> Iterator[bytes]:
    """Every text and binary value of a Parquet file, and its schema: compressed bytes show nothing."""
    table = pq.read_table(path)
    yield repr(table.schema.metadata).encode()
    for name, column in zip(table.column_names, table.columns, strict=True):
        yield name.encode()
        if "image" not in name and "map" not in name:
            yield repr(column.to_pylist()).encode("utf-8", "surrogatepass")


def _left_in(*folders: Path, since_s: float = 0.0) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of all that a file below the folders says, its own path included."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            yield str(path), str(path.relative_to(folder)).encode("utf-8", "surrogateescape")
            try:
                if not path.is_file() or path.is_socket() or path.stat().st_mtime < since_s:
                    continue
                yield str(path), path.read_bytes()
                if path.suffix == ".parquet":
                    yield from ((str(path), value) for value in _strings(path))
            except OSError:
                continue  # Ray removes files of its own while it runs


def _ray_logs() -> Path:
    import ray

    node: Any = ray._private.worker._global_node
    return Path(node.get_logs_dir_path())


def found_in(places: Iterator[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    marked = needles()
    return [(place, needle) for place, data in places for needle in marked if needle in data]


def test_the_search_finds_what_is_there(archive: Path) -> None:
    assert len(marks()) >= 40
    assert len({place for place, _ in found_in(_left_in(archive))}) > 10
    for text in (
        MARK,
        base64.b64encode(f"ab{MARK}".encode()).decode(),
        MARK.encode("utf-16").decode("latin-1"),
    ):
        assert found_in(iter([("here", text.encode("latin-1"))])), text


@pytest.mark.ray
@pytest.mark.slow
def test_no_mark_gets_out(
    archive: Path,
    story: Story,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    started = time.time() - 1
    samples, export, scores = tmp_path / "samples", tmp_path / "export", tmp_path / "scores"
    told = io.StringIO()
    ended = osteoray("ingest", archive, "--task", "hand-age", "--out", samples, "--size", 64,
                     "--shard-size", 8, "--deidentified", export)  # fmt: skip
    told.write(repr(ended))
    assert ended.code == 3
    assert ended.facts["samples"] >= 10
    # A file whose own damage lies outside of what an image needs may be a sample, and not to be written anew.
    assert ended.facts["deidentified"] + ended.facts["not_deidentified"] == ended.facts["samples"]
    assert ended.facts["deidentified"] >= 10
    assert ended.facts["quarantined"] > 5
    scored = osteoray("score", archive, "--model", story.bundle, "--out", scores, "--shard-size", 8)
    told.write(repr(scored))
    assert scored.code == 3
    assert scored.facts["scored"] == ended.facts["samples"]
    told.write(repr(osteoray("verify", samples)) + repr(osteoray("report", scores)))

    assert len(list(export.rglob("*.dcm"))) > 0
    said = "".join((told.getvalue(), *capfd.readouterr(), caplog.text))
    assert found_in(iter([("said", said.encode("utf-8", "surrogateescape"))])) == []
    assert found_in(_left_in(samples, export, scores)) == []
    assert found_in(_left_in(_ray_logs(), since_s=started)) == []


@pytest.mark.ray
@pytest.mark.slow
def test_the_export_is_one_file_a_sample_and_resumes(
    archive: Path, tmp_path: Path, ray_session: None
) -> None:
    samples, export = tmp_path / "samples", tmp_path / "export"
    command = ("ingest", archive, "--task", "hand-age", "--out", samples, "--size", 64, "--shard-size", 8,
               "--deidentified", export)  # fmt: skip
    first = osteoray(*command)
    files = {path.relative_to(export): path.read_bytes() for path in export.rglob("*.dcm")}
    rows = [
        row
        for path in sorted((samples / "deidentified").iterdir())
        for row in pq.read_table(path).to_pylist()
    ]
    originals = {
        row["instance_index"]: row
        for path in sorted(samples.glob("shards/*/samples.parquet"))
        for row in pq.read_table(
            path, columns=["instance_index", "sop_instance_uid", "patient_key"]
        ).to_pylist()
    }
    assert {row["instance_index"] for row in rows} == set(originals)
    assert first.facts["deidentified"] + first.facts["not_deidentified"] == len(rows)
    assert all((row["reason"] is None) == (row["sop_instance_uid"] is not None) for row in rows)
    rows = [row for row in rows if row["reason"] is None]
    named = {
        Path(row["patient_key"], row["study_instance_uid"], f"{row['sop_instance_uid']}.dcm") for row in rows
    }
    assert named == set(files)
    assert all(row["patient_key"] == originals[row["instance_index"]]["patient_key"] for row in rows)
    assert {row["burned_in"] for row in rows} <= {"yes", "no", "unknown"}
    assert all(re.fullmatch(r"[0-9a-f]{32}/2\.25\.\d+/2\.25\.\d+\.dcm", str(path)) for path in files)
    old = {row["sop_instance_uid"].encode() for row in originals.values()}
    assert not any(uid in data for uid in old for data in files.values())

    _uncommit(samples)
    (export / ".staging").mkdir(exist_ok=True)
    (export / ".staging" / "half").write_bytes(b"half")
    for path in list(files)[:3]:
        (export / path).unlink()
    osteoray(*command)
    assert {path.relative_to(export): path.read_bytes() for path in export.rglob("*.dcm")} == files
    assert not (export / ".staging" / "half").exists()


def _uncommit(folder: Path) -> None:
    """As if the run had been killed before it committed a shard."""
    import json
    import shutil

    shutil.rmtree(folder / "shards")
    manifest = json.loads((folder / "manifest.json").read_text())
    kept = {key: value for key, value in manifest.items() if key not in {"counts", "finished", "plan_sha256"}}
    (folder / "manifest.json").write_text(json.dumps({**kept, "complete": False}))


@pytest.mark.parametrize("place", ["in-source", "in-out", "around-out"])
def test_the_export_lies_apart(archive: Path, tmp_path: Path, place: str) -> None:
    export = {"in-source": archive / "x", "in-out": tmp_path / "s" / "x", "around-out": tmp_path}[place]
    ended = osteoray(
        "ingest", archive, "--task", "hand-age", "--out", tmp_path / "s", "--deidentified", export
    )
    assert ended.code == 2
