"""What the READMEs say is there: links, paths, verbs; and README stays short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobs.__main__ import VERBS

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"{folder}/README.md" for folder in
             ("engine", "jobs", "cluster", "benchmarks")))  # fmt: skip
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")
_ROOTS = ("engine/", "jobs/", "tests/", "benchmarks/", "cluster/")


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def test_the_readme_is_short() -> None:
    assert len(text_of("README.md").split()) < 1500


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    folder = (ROOT / document).parent
    assert [link for link in _LINK.findall(text_of(document)) if not (folder / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_in_a_document_exist(document: str) -> None:
    named = [word for word in re.findall(r"`([\w./]+)`", text_of(document)) if word.startswith(_ROOTS)]
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_map_of_the_engine_names_every_room_and_real_files() -> None:
    text = text_of("engine/README.md")
    rooms = {path.name for path in (ROOT / "engine").iterdir() if (path / "__init__.py").is_file()}
    assert {room for room in rooms if f"| `{room}/` |" not in text} == set()
    files = [word for word in re.findall(r"`(\w+/[\w/]+\.py)`", text) if word.split("/")[0] in rooms]
    assert files
    assert [path for path in files if not (ROOT / "engine" / path).exists()] == []


@pytest.mark.parametrize("document", ["README.md", "jobs/README.md"])
def test_every_verb_is_told(document: str) -> None:
    assert [verb for verb in VERBS if f"`{verb}`" not in text_of(document)] == []
