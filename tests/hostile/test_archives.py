"""Archives that lie about themselves: each kind costs its rows, never the plan, the memory or the night."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile.archives import CONTENT, KERNEL, LIES, SOUND

MEMORY_BYTES, DEADLINE_S = 256 << 20, 120
_ENDS = """
import json, sys
from engine import sources
from engine.errors import EngineError, InstanceError
from pathlib import Path

def end(source, path):
    try:
        return len(sources.read(source, path))
    except InstanceError as error:
        return error.reason

def ends(source):
    try:
        paths = sources.plan(source, 10)["path"].to_pylist()
    except EngineError as error:
        return error.code
    return {path: end(source, path) for path in paths[:50]} | {"planned": len(paths)}

print(json.dumps([ends(source) for source in sys.argv[1:]]))
"""


def ends(*places: Path) -> list[object]:
    """What the plan and the first reads of each source end in, within memory and time."""

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))

    done = subprocess.run(
        [sys.executable, "-c", _ENDS, *map(str, places)],
        preexec_fn=bound, timeout=DEADLINE_S, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[object] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[object, object]]:
    """What each lie ends in, in a tree and alone: all in one process, so that the bounds hold for all."""
    places = []
    for number, lie in enumerate(LIES.values()):
        tree = tmp_path_factory.mktemp(f"tree-{number}")
        (tree / f"x{lie.suffix}").write_bytes(lie.make())
        (tree / "beside").write_bytes(b"beside")
        places += [tree, tree / f"x{lie.suffix}"]
    found = ends(*places)
    return dict(zip(LIES, zip(found[::2], found[1::2], strict=True), strict=True))


@pytest.mark.parametrize("kind", LIES)
def test_an_archive_that_lies_costs_rows(ended: dict[str, tuple[object, object]], kind: str) -> None:
    lie, (in_tree, alone) = LIES[kind], ended[kind]
    assert isinstance(in_tree, dict)
    assert in_tree.pop("beside") == len(b"beside")
    assert in_tree.pop("planned") < 2100
    if lie.has_sound:
        assert in_tree.pop(f"x{lie.suffix}!/{SOUND}") == len(CONTENT)
        assert isinstance(alone, dict)
        assert alone[SOUND] == len(CONTENT)
    else:
        assert alone == "ORY-U01"
    assert in_tree, "the lie itself is a row"
    assert all(isinstance(end, str) for end in in_tree.values() if end != len(KERNEL))
