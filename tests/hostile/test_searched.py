"""DICOMweb servers that answer a search without bound or sense: a typed end, or rows, in little memory."""

from __future__ import annotations

import itertools
import json

import pytest

from engine import sources
from engine.errors import SourceReadError, StorageError, UsageError
from engine.sources import apart, dicomweb
from tests.sources.test_sources_web import Reply, found, page, serving

SMALL = apart.Bounds(memory_bytes=256 << 20, silence_s=60, is_local=False)
ANSWERS: dict[str, bytes] = {
    "deep": b"[" * 200_000,
    "deep and closed": b'[{"0020000D":' + b"[" * 200_000 + b"]" * 200_000 + b"}]",
    "empty objects": b"[" + b"{}," * 5_000_000 + b"{}]",
    "empty lists": b"[" + b"[]," * 5_000_000 + b"[]]",
    "a number of 1 MB": b"[" + b"9" * 1_000_000 + b"]",
    "17 MB of blanks": b" " * (17 << 20) + b"[]",
    "not UTF-8": b'[{"\xff\xfe": 1}]',
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_without_sense_ends_typed_in_little_memory(kind: str) -> None:
    def answer(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        return 200, {"Content-Type": "application/dicom+json"}, ANSWERS[kind]

    with serving(answer) as source, pytest.raises((UsageError, StorageError)):
        apart.list_apart(f"{source}?StudyDate=20200101", bounds=SMALL)
    sources.release()


@pytest.mark.parametrize("per_page", [1, 500])
def test_a_server_that_invents_studies_comes_to_an_end(
    per_page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicomweb, "_MOST_STUDIES", 20_000)
    monkeypatch.setattr(dicomweb, "_MOST_SHORT", 50)
    numbers = itertools.count()

    def answer(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        return page([found(study=f"1.2.{next(numbers)}") for _ in range(per_page)])

    with serving(answer) as source, pytest.raises(UsageError, match="without end|more than"):
        sources.plan(source, 10)
    sources.release()


def test_studies_and_items_that_are_not_clean_are_rows() -> None:
    """Padded UIDs are read; what is no UID, or no object, is a row that says so."""
    studies = [found(study="1.2.1 "), found(study="1.2.2\0"), found(study="no uid"), {}, found(study="1.2.3")]
    body = json.dumps([*studies, None, 7]).encode()

    def answer(path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        if query.get("offset", "0") != "0":
            return page([])
        if path.endswith("/studies"):
            return 200, {"Content-Type": "application/dicom+json"}, body
        study = path.split("/")[3]
        return page([found(study=study, series=f"{study}.1", instance=f"{study}.1.1")])

    with serving(answer) as source:
        paths = sources.plan(source, 10)["path"].to_pylist()
        assert [path.split("/")[1] for path in paths if "instances" in path] == ["1.2.1", "1.2.2", "1.2.3"]
        others = [path for path in paths if "instances" not in path]
        assert len(others) == 4
        for path in others:
            with pytest.raises(SourceReadError, match="without a sound UID"):
                sources.read(source, path)
    sources.release()
