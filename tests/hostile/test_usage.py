"""Kind `usage`: bad words over all verbs. The exit code is 2 and stderr has one ORY line, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from engine.errors import UsageError
from jobs.__main__ import VERBS, command_line, main
from jobs.ingest import read_size

NUMBERS = ("", " ", "x", "nan", "-inf", "1e400", "-1", str(10**20), str(-(10**20)), "9" * 5000)
NOWHERE = "/nonexist/a"
NULLS = {"stdout": "1>&-", "stderr": "2>&-", "both": ">&- 2>&-", "stdin": "<&-"}


def parameters(verb: str) -> list[Any]:
    """The parameters of a verb, as its command line has them."""
    group: Any = typer.main.get_command(command_line([verb]))
    return list(group.commands[verb].params)


def given(parameter: Any, value: str) -> list[str]:
    """``value`` for a parameter, by its option or at its place."""
    option = next((name for name in parameter.opts if name.startswith("--")), None)
    return [option, value] if option else [value]


def kind(parameter: Any) -> type:
    """What a value of a parameter is: ``list[Path]`` is Path."""
    annotation = parameter.type_descriptor.annotation
    return (get_args(annotation) or (annotation,))[0]


def bad_words() -> Iterator[tuple[str, list[str]]]:
    """Each verb with each bad value at each of its parameters."""
    for verb in VERBS:
        for parameter in parameters(verb):
            if kind(parameter) is bool:
                continue
            yield from ((verb, given(parameter, value)) for value in ("", " \t"))
            if kind(parameter) in {int, float}:
                yield from ((verb, given(parameter, value)) for value in NUMBERS)
            elif parameter.type_descriptor.parameter_info.exists:
                yield verb, given(parameter, NOWHERE)
        yield verb, ["--nonsense"]


def ended(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as end:
        main(words)
    out, err = capsys.readouterr()
    return end.value.code, out, err


def require_one_line(err: str, code: str) -> None:
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith(f"error {code}: "), err


@pytest.mark.parametrize("verb", VERBS)
def test_a_bad_value_is_one_line_and_exit_code_2(
    verb: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cases = [words for name, words in bad_words() if name == verb]
    assert cases
    for words in cases:
        code, _, err = ended([verb, *words], capsys)
        assert code == 2, (words, err)
        require_one_line(err, "ORY-U01")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", VERBS)
def test_every_number_has_two_ends_and_every_input_must_exist(verb: str) -> None:
    written = {"out", "to", "deidentified_to"}
    for parameter in parameters(verb):
        asked = parameter.type_descriptor.parameter_info
        if kind(parameter) in {int, float}:
            assert None not in {asked.min, asked.max}, parameter.name
        if kind(parameter) is Path and parameter.name not in written:
            assert asked.exists, parameter.name


def test_a_bad_value_in_one_word_and_with_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ended(["verify", "--audit-head=", "--json"], capsys)
    assert code == 2
    require_one_line(err, "ORY-U01")
    assert "--audit-head is empty" in err
    assert json.loads(out)["error"] == "ORY-U01"


@pytest.mark.parametrize("source", ["s3://", "dicomweb+http://", "ftp://a/b", "\x1b[31m", "a" * 5000])
def test_a_source_that_is_none_is_exit_code_2(
    source: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = ended(
        ["ingest", source, "--task", "hand-age", "--out", str(tmp_path / "out"), "--dry-run"], capsys
    )
    assert code == 2, err
    assert [line[:14] for line in err.splitlines() if "ORY-" in line] == ["error ORY-U01:"]


@pytest.mark.parametrize("to", ["fhir:", "fhir: ", "ftp://a", "dimse://", "dicomweb+http://"])
def test_a_sink_that_is_none_writes_nothing(
    to: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scores").mkdir()
    code, _, err = ended(["deliver", "scores", "--to", to], capsys)
    assert code == 2, err
    require_one_line(err, "ORY-U01")
    assert [path.name for path in tmp_path.iterdir()] == ["scores"]


@pytest.mark.parametrize("text", ["0", "4097", "1" * 5000, "224x", "x224", "1e3", "٣" * 9, ""])
def test_a_size_has_a_range(text: str) -> None:
    with pytest.raises(UsageError):
        read_size(text)


DAMAGE = {
    "deep": "[" * 200_000,
    "deep object": '{"a":' * 200_000,
    "long number": '{"kind": ' + "9" * 10_000 + "}",
    "list": "[]",
    "empty": "",
    "not UTF-8": "\udcff",
    "nothing in it": "{}",
    "other types": '{"kind": [], "complete": {}, "config": 5, "counts": 7, "growths": 3, "models": 1}',
}


@pytest.mark.parametrize("verb", ["verify", "report", "deliver", "train", "score", "export"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_facts_are_one_line(
    verb: str, damage: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = ("manifest.json", "bundle.json", "run.json") if verb != "report" else ("manifest.json",)
    for name in names:
        (tmp_path / name).write_bytes(DAMAGE[damage].encode("utf-8", "surrogateescape"))
    folder, out = str(tmp_path), str(tmp_path.with_name("out"))
    words = {
        "deliver": [folder, "--to", f"{out}.csv"],
        "train": ["hand-student", "--data", folder, "--out", out],
        "score": [folder, "--model", folder, "--out", out],
        "export": [folder, "--out", out],
    }
    code, _, err = ended([verb, *words.get(verb, [folder])], capsys)
    assert code in {1, 2}
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if "ORY-" in line]
    assert not line.startswith("error ORY-E00"), line


@pytest.mark.parametrize("closed", NULLS)
def test_a_closed_stream_is_no_traceback(closed: str, tmp_path: Path) -> None:
    """The words are those of a shell: `>&-` closes stdout. Help and results cannot be written there."""
    command = f"{sys.executable} -m jobs phantom --count 1 --size 64 --out {tmp_path / 'out'} {NULLS[closed]}"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, check=False, timeout=120, env=dict(os.environ)
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert (tmp_path / "out").is_dir()
    if closed == "stdout":
        assert done.returncode == 1
        assert [line[:14] for line in done.stderr.splitlines() if "ORY-" in line] == ["error ORY-S01:"]
    if closed in {"stderr", "stdin"}:
        assert done.returncode == 0


@pytest.mark.parametrize("sink", ["/dev/full"])
def test_a_full_stdout_is_one_line(sink: str, tmp_path: Path) -> None:
    command = f"{sys.executable} -m jobs phantom --count 1 --size 64 --json --out {tmp_path / 'out'} > {sink}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    require_one_line(
        "\n".join(line for line in done.stderr.splitlines() if not line.startswith("phantom:")), "ORY-S01"
    )


def test_an_error_that_nobody_foresaw_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import jobs.verify

    def fail(folder: Path, audit_head: str | None) -> None:
        raise KeyError("DOE^JANE")

    monkeypatch.setattr(jobs.verify.verification, "verify", fail)
    code, _, err = ended(["verify", str(tmp_path)], capsys)
    assert code == 1
    require_one_line(err, "ORY-E00")
    assert "DOE" not in err
    monkeypatch.setenv("OSTEORAY_TRACEBACK", "1")
    with pytest.raises(KeyError):
        main(["verify", str(tmp_path)])
