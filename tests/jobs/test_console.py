"""Progress lines, the last words of a verb, and the command that finds verbs."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import types
from importlib import import_module
from pathlib import Path

import pytest
import typer
from rich.console import Console

from engine import __version__
from engine.errors import LeaseHeldError, LedgerError
from jobs.__main__ import VERBS, main
from jobs.console import ProgressLine, _duration, _rate, finish, progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def line_at(stream: io.StringIO, clock: Clock) -> ProgressLine:
    return ProgressLine("score", "instances", Console(file=stream), clock)


def test_rate_and_time_left_are_those_after_the_start_up() -> None:
    stream, clock = io.StringIO(), Clock()
    line = line_at(stream, clock)
    line(0, 1000)
    clock.now += 20  # workers start, and the first shard comes in
    line(100, 1000)
    clock.now += 10
    line(300, 1000)
    # 200 in the last 10 s: 20/s, so 700 take 35 s. The 20 s of the start are not in the rate.
    assert stream.getvalue().splitlines() == [
        "score: 0/1000 instances (0%)",
        "score: 100/1000 instances (10%), 5/s, at most 3 min 00 s left",
        "score: 300/1000 instances (30%), 20/s, 35 s left",
    ]


def test_the_rate_is_that_of_the_last_minutes() -> None:
    stream, clock = io.StringIO(), Clock()
    line = line_at(stream, clock)
    line(0, 10_000)
    for minute in range(60):
        clock.now += 60
        line(100 * (minute + 1) if minute < 30 else 3000 + 10 * (minute - 29), 10_000)
    # The first half hour went at 100 a minute, the second at 10, 0.167/s: 6700 are left, 11 h 10 min.
    last = stream.getvalue().splitlines()[-1]
    assert last == "score: 3300/10000 instances (33%), 0.169/s, 11 h 01 min left"


def test_workers_that_end_together_are_one_advance() -> None:
    stream, clock = io.StringIO(), Clock()
    line = line_at(stream, clock)
    line(0, 400)
    for done in range(20, 120, 40):
        clock.now += 10
        line(done, 400)
        clock.now += 0.1
        line(done + 20, 400)
    # Two workers end a shard of 20 within a tenth of a second, each 10 s: 4/s, not 200/s.
    clock.now += 2
    line(120, 400)
    assert stream.getvalue().splitlines()[-1] == "score: 120/400 instances (30%), 3.97/s, 1 min 09 s left"


def test_what_was_done_before_counts_for_no_rate() -> None:
    stream, clock = io.StringIO(), Clock()
    line = line_at(stream, clock)
    line(900, 1000)
    clock.now += 10
    line(950, 1000)
    clock.now += 10
    line.close("done")
    assert stream.getvalue().splitlines() == [
        "score: 900/1000 instances (90%)",
        "score: 950/1000 instances (95%), 5/s, at most 10 s left",
        "score: done, 950/1000 instances (95%) in 20 s, 2.5/s",
    ]


def test_time_left_runs_down_between_two_advances() -> None:
    stream, clock = io.StringIO(), Clock()
    line = line_at(stream, clock)
    for done in (0, 0, 1, 1, 2, 2, 2):
        line(done, 5)
        clock.now += 4
    # The first epoch ends at 8 s, the second at 16 s: 0.125/s, so 3 epochs take 24 s, less what has passed.
    assert [text.split(", ")[-1] for text in stream.getvalue().splitlines()[-3:]] == [
        "24 s left",
        "20 s left",
        "16 s left",
    ]


def test_plain_lines_are_two_seconds_apart() -> None:
    stream, clock = io.StringIO(), Clock()
    line = line_at(stream, clock)
    for done in range(9):
        line(done, 8)
        clock.now += 0.5
    line.close("done")
    counts = [text.split(":")[1].split()[0].rstrip(",") for text in stream.getvalue().splitlines()]
    assert counts == ["0/8", "4/8", "8/8", "done"]


def test_a_terminal_gets_one_bar_redrawn() -> None:
    stream, clock = Terminal(), Clock()
    line = line_at(stream, clock)
    for done in range(3):
        line(done, 2)
        clock.now += 1
    line.close("done")
    bar, last = stream.getvalue().rsplit("\x1b[2K", 1)
    assert "2/2 instances (100%), 1/s, 0 s left" in bar
    assert bar.count("\n") == 1
    assert last == "score: done, 2/2 instances (100%) in 3 s, 0.667/s\n"


def test_an_unknown_total_and_no_report_at_all() -> None:
    stream, clock = io.StringIO(), Clock()
    line = line_at(stream, clock)
    line.close("done")
    assert stream.getvalue() == ""
    line(0, 0)
    line.close("done")
    assert stream.getvalue().splitlines() == [
        "score: 0/0 instances",
        "score: done, 0/0 instances in 0 s",
    ]


def test_progress_says_where_it_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    def ingest() -> None:
        with progress("ingest", "files") as report:
            report(3, 7)
            raise LedgerError("3 is not 7")

    with pytest.raises(LedgerError):
        ingest()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == "ingest: stopped, 3/7 files (43%) in 0 s"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3725, "1 h 02 min")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert _duration(seconds) == text


@pytest.mark.parametrize(("per_s", "text"), [(1234.5, "1230/s"), (12.34, "12.3/s"), (0.01234, "0.0123/s")])
def test_rates_have_three_digits(per_s: float, text: str) -> None:
    assert _rate(per_s) == text


def test_finish_ends_with_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    summary = {
        "out": Path("runs/a"),
        "counts": {"planned": 3, "scored": 2},
        "mae_months": 4.25,
        "sd": float("nan"),
    }
    with pytest.raises(typer.Exit) as end:
        finish("score", summary, as_json=True, exit_code=3, warnings=["half is missing"])
    assert end.value.exit_code == 3
    *human, last = capsys.readouterr().out.splitlines()
    assert human == [
        "warning: half is missing",
        "out         runs/a",
        "counts      planned 3, scored 2",
        "mae_months  4.25",
        "sd          nan",
    ]
    assert json.loads(last) == {
        "verb": "score",
        "exit_code": 3,
        "warnings": ["half is missing"],
        "out": "runs/a",
        "counts": {"planned": 3, "scored": 2},
        "mae_months": 4.25,
        "sd": None,
    }


def test_finish_without_json_is_for_people_only(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as end:
        finish("verify", {"counts": [1, 2]}, as_json=False)
    assert end.value.exit_code == 0
    assert capsys.readouterr().out == "counts  1, 2\n"


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch):
    """Puts a function in the place of ``osteoray verify``."""

    def place(function):
        module = types.ModuleType("jobs.verify")
        module.verify = function
        monkeypatch.setitem(sys.modules, "jobs.verify", module)

    return place


def test_a_verb_gets_its_arguments_and_its_exit_code_counts(verb, capsys: pytest.CaptureFixture[str]) -> None:
    def verify(folder: Path, json: bool = False) -> None:
        """Look at a folder."""
        finish("verify", {"folder": folder}, as_json=json, exit_code=3)

    verb(verify)
    assert run("verify", "runs/a", "--json") == 3
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["folder"] == "runs/a"


def test_an_engine_error_is_one_line_with_its_code(verb, capsys: pytest.CaptureFixture[str]) -> None:
    def verify() -> None:
        raise LeaseHeldError("another job is writing to runs/a")

    verb(verify)
    assert run("verify") == 75
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error ORY-R01: another job is writing to runs/a\n")


def test_an_engine_error_has_a_machine_line_too(verb, capsys: pytest.CaptureFixture[str]) -> None:
    def verify(json: bool = False) -> None:
        raise LedgerError("2 of 3")

    verb(verify)
    assert run("verify", "--json") == 1
    assert json.loads(capsys.readouterr().out) == {
        "verb": "verify",
        "exit_code": 1,
        "error": "ORY-T02",
        "message": "2 of 3",
    }


def test_an_interrupt_is_one_line(verb, capsys: pytest.CaptureFixture[str]) -> None:
    def verify() -> None:
        raise KeyboardInterrupt

    verb(verify)
    assert run("verify") == 130
    assert capsys.readouterr().err == "interrupted: what was finished is kept\n"


@pytest.mark.parametrize("words", [("nonsense",), ("verify", "--nonsense"), ("--nonsense",), ()])
def test_a_wrong_request_is_exit_code_2(verb, words: tuple[str, ...]) -> None:
    def verify() -> None:
        raise AssertionError

    verb(verify)
    assert run(*words) == 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"osteoray {__version__}\n"


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_its_module_and_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = name.replace("-", "_")
    function = getattr(import_module(f"jobs.{module}"), module)
    assert function.__doc__
    assert run(name, "--help") == 0
    ends_by_itself = name != "serve"
    assert ("--json" in capsys.readouterr().out) == ends_by_itself


def test_help_names_every_verb_and_loads_none_of_them() -> None:
    code = (
        "import sys\n"
        "from jobs.__main__ import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit as end:\n"
        "    heavy = {'ray', 'torch', 'timm', 'pyarrow', 'polars', 'pydicom'} & set(sys.modules)\n"
        "    sys.exit(f'loaded for nothing: {heavy}' if heavy else end.code)\n"
    )
    environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert all(f" {name} " in done.stdout for name in VERBS)
    assert "Research use only" in done.stdout


@pytest.mark.ray
def test_ray_workers_see_the_packages(ray_session: None) -> None:
    import ray

    @ray.remote
    def version_seen_by_a_worker() -> tuple[str, str]:
        import engine
        import jobs

        return engine.__version__, jobs.__name__

    assert ray.get(version_seen_by_a_worker.remote()) == (__version__, "jobs")
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
