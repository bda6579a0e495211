"""A file that breaks native code costs one row, with its reason; all that stand beside it are read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.errors import EngineError, IsolationError
from engine.imaging.preprocess import View
from engine.ingest.decode_process import Isolation, Reader
from engine.ingest.instance import InputRule
from engine.ingest.sample import Outcome, Reading, reading_from_facts, samples
from engine.tasks.hand_age import HAND_AGE
from tests.fixtures.breaking_child import broken, isolation
from tests.fixtures.dicom_fixture import image, picture

RULE = InputRule(sop_classes=HAND_AGE.rule.sop_classes, view=View(size_HW=(16, 16)))
GOOD = image(picture())
CANARY = "Canary^Name"


def reading(source: Path) -> Reading:
    return Reading(source=str(source), rules=(RULE,), salt=b"s" * 32)


def outcomes(folder: Path, files: dict[str, bytes], bounds: Isolation) -> dict[str, Outcome]:
    """The outcome of each file, read in this order by one reader."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    reader = Reader(bounds)
    try:
        found = reader.read(reading(folder), list(files))
        return {name: outcome for name, (outcome,) in zip(files, found, strict=True)}
    finally:
        reader.close()


def reasons(found: dict[str, Outcome]) -> dict[str, str]:
    return {
        name: outcome.reason if isinstance(outcome, EngineError) else "sample"
        for name, outcome in found.items()
    }


def test_each_way_to_break_costs_one_row(tmp_path: Path) -> None:
    ways = ["segfault", "abort", "codec", "balloon", "bug", "lie", "killed"]
    files = {"first": GOOD}
    for way in ways:
        files |= {way: broken(GOOD, way, CANARY), f"after-{way}": GOOD}
    found = outcomes(tmp_path, files, isolation())
    assert reasons(found) == {
        **dict.fromkeys(files, "sample"),
        **dict.fromkeys(["segfault", "abort", "codec", "bug", "lie"], "decoder_crash"),
        "balloon": "decoder_memory",
        "killed": "decoder_memory",
    }
    assert "SIGABRT" in str(found["abort"])
    assert "KeyError in breaking_child.py" in str(found["bug"])
    assert not any(CANARY in str(outcome) for outcome in found.values())


def test_a_hang_is_stopped_at_the_deadline_and_slow_files_are_not(tmp_path: Path) -> None:
    slow = {f"slow{number}": broken(GOOD, "slow", "2") for number in range(4)}  # together above the deadline
    files = {**slow, "hang": broken(GOOD, "hang"), "after": GOOD}
    found = reasons(outcomes(tmp_path, files, isolation(deadline_s=6.0)))
    assert found == {**dict.fromkeys(files, "sample"), "hang": "decoder_timeout"}


def test_a_child_killed_from_outside_costs_no_row(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    mark.touch()
    files = {"a": GOOD, "b": broken(GOOD, "killed-once", str(mark)), "c": GOOD}
    (tmp_path / "archive").mkdir()
    assert set(reasons(outcomes(tmp_path / "archive", files, isolation())).values()) == {"sample"}
    assert mark.stat().st_mtime == 0


def test_samples_and_errors_are_those_of_this_process(tmp_path: Path) -> None:
    files = {"good": GOOD, "text": b"no DICOM at all", "cut": GOOD[:-99], "empty": b""}
    files["ct"] = image(picture(), SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    found = outcomes(tmp_path, files, Isolation())
    for name, outcome in found.items():
        (here,) = samples(name, reading(tmp_path))
        if isinstance(outcome, EngineError):
            assert type(here) is type(outcome)
            assert str(here) == str(outcome)
        else:
            assert not isinstance(here, EngineError)
            columns, image_HW = here
            assert outcome[0] == columns
            assert np.array_equal(outcome[1], image_HW)


def test_bytes_are_read_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(GOOD)
    reader = Reader(isolation())
    ((columns, image_HW),) = samples("good", reading(tmp_path))
    for data in (GOOD, broken(GOOD, "abort"), b"text", GOOD):
        (outcome,) = reader.read_bytes(reading(Path()), data)
        if isinstance(outcome, EngineError):
            assert outcome.reason == ("companion" if data == b"text" else "decoder_crash")
        else:
            assert not isinstance(outcome, EngineError)
            assert outcome[0] == columns
            assert np.array_equal(outcome[1], image_HW)
    reader.close()


def test_a_child_that_died_between_two_orders_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(GOOD)
    reader, others = Reader(Isolation()), children(os.getpid())  # Ray's processes may be among the others
    reader.read(reading(tmp_path), ["good"])
    (child,) = set(children(os.getpid())) - set(others)
    os.kill(child, signal.SIGKILL)
    assert not isinstance(reader.read(reading(tmp_path), ["good"])[0][0], EngineError)
    reader.close()


@pytest.mark.parametrize("command", [("false",), ("/no/such/program",)])
def test_a_child_that_never_starts_is_an_error(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "good").write_bytes(GOOD)
    with pytest.raises(IsolationError):
        Reader(Isolation(command=command)).read(reading(tmp_path), ["good"])
    with pytest.raises(IsolationError):
        Reader(Isolation(command=command)).read_bytes(reading(tmp_path), GOOD)


def test_the_child_dies_with_its_parent_even_inside_native_code(tmp_path: Path) -> None:
    (tmp_path / "hang").write_bytes(broken(GOOD, "hang"))
    program = (
        "import sys; from pathlib import Path; from engine.ingest.decode_process import Reader; "
        "from tests.ingest.test_decode_process import isolation, reading; "
        "Reader(isolation()).read(reading(Path(sys.argv[1])), ['hang'])"
    )
    root = str(Path(__file__).resolve().parents[2])
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], env={**os.environ, "PYTHONPATH": root}
    )
    while not (found := children(parent.pid)):
        assert parent.poll() is None
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    while is_alive(found[0]):
        time.sleep(0.05)


def test_a_reader_thread_that_ends_takes_its_child_along(tmp_path: Path) -> None:
    from engine.ingest.decode_process import reader

    (tmp_path / "good").write_bytes(GOOD)
    found: list[int] = []

    def read() -> None:
        reader(Isolation(deadline_s=61.0)).read(reading(tmp_path), ["good"])
        found.extend(set(children(os.getpid())) - before)

    before = set(children(os.getpid()))
    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert len(found) == 1
    while is_alive(found[0]):
        time.sleep(0.05)


def test_the_child_is_light() -> None:
    program = (
        "import sys, engine.ingest.decode_worker; "
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {"ray", "torch", "fastapi", "matplotlib", "polars", "timm", "onnxruntime", "pandas"}
    assert not heavy & set(loaded.stdout.split())


def test_a_reading_survives_its_facts(tmp_path: Path) -> None:
    one = reading(tmp_path)
    again = reading_from_facts(one.facts())
    assert again == one
    assert again != replace(one, salt=b"t" * 32)


def children(parent: int) -> list[int]:
    """Process ids of the children of all its threads."""
    lists = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(word) for path in lists for word in path.read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
