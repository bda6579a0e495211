"""The command ``osteoray``: finds the verb, loads its module alone, and turns errors into exit codes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from engine import __version__
from engine.errors import ClusterError, EngineError, StorageError, UsageError
from jobs.console import Dropping

VERBS: dict[str, str] = {
    "demo": "Run the whole path on a small synthetic archive, about 10 minutes on 2 cores.",
    "phantom": "Write a synthetic DICOM archive with known truth.",
    "convert": "Turn a public data set into a DICOM archive with labels.csv.",
    "ingest": "Read an archive into samples for training.",
    "train": "Train a recipe: a teacher, or a student that learns from one.",
    "join": "Join samples of several regions into samples with several views.",
    "regions": "Find hand, carpals and metacarpals by a network's attention, for `ingest --crop`.",
    "pseudo-label": "Label knees with what models say of the paired hands: mean and spread.",
    "record-teacher": "Store a teacher's outputs once, so that students train without running it.",
    "export": "Compile a run into a bundle and check it against the network.",
    "score": "Score a whole archive; the same command again resumes.",
    "deliver": "Send results to a folder, a PACS or a table: DICOM SR, FHIR, CSV, XLSX.",
    "serve": "Serve bundles over HTTP: DICOM in, JSON out.",
    "report": "Write tables, plots and one HTML page for a score folder or a run.",
    "compare": "Say whether one run, or one set of scores, is better than another.",
    "study": "Train and compare all variants of a task, to one table.",
    "verify": "Prove that nothing in a folder is missing, doubled or changed.",
}
"""Verb to its line in the help. ``jobs/<verb>.py`` holds a function of that name, with _ for -."""

_EARLIER = {"teach": "record-teacher"}
"""Verbs of an earlier release that still work, and what they are called now."""

INTERRUPTED = 130
TRACEBACK = "OSTEORAY_TRACEBACK"
"""Variable with which an error that nobody foresaw is shown whole."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb and exit the process.

    Exit codes: 0 done, 1 failed, 2 usage, 3 done with quarantined rows, 4 failure budget reached, 5 done
    without scores, since the archive is unlike the training images, 75 another run holds the output folder,
    130 interrupted, 143 ended in order on SIGTERM.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _fill_standard_streams()
    verb = _chosen(words)
    if verb in _EARLIER:
        words[words.index(verb)] = _EARLIER[verb]
    try:
        _require_filled(words)
        code = command_line(words)(args=words or ["--help"], prog_name="osteoray", standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        typed = _typed(error)
        if typed is None:
            raise
        _say_error(typed, _chosen(words), as_json="--json" in words)
        _leave_ray()
        sys.exit(typed.exit_code)
    if code == INTERRUPTED:
        _say_interrupted()
    sys.exit(code or (0 if words else UsageError.exit_code))


def _fill_standard_streams() -> None:
    """Open what the caller closed (``>&-``), or the next file that a verb opens would be its stdout.

    Progress to a closed stderr is dropped. Results to a closed stdout are refused when they are written.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            flags = os.O_WRONLY if name == "stderr" else os.O_RDONLY
            setattr(sys, name, open(os.open(os.devnull, flags), mode, encoding="utf-8"))  # noqa: SIM115
    sys.stderr = Dropping(sys.stderr)


def _require_filled(words: Sequence[str]) -> None:
    """Refuse an argument without a character in it: mostly a variable of the shell that is not set.

    Raises:
        UsageError: there is one; a path would mean the working folder.
    """
    for place, word in enumerate(words):
        option, sign, value = word.partition("=") if word.startswith("--") else ("", "=", word)
        if sign and not value.strip():
            before = words[place - 1] if place and words[place - 1].startswith("--") else "an argument"
            raise UsageError(f"{option or before} is empty: give it a value (is a variable not set?)")


def _typed(error: Exception) -> EngineError | None:
    """What a verb ended with, as an error of our tree; None where a developer wants the traceback."""
    of_ray = _of_ray(error)
    if of_ray is not None:
        return of_ray
    if isinstance(error, EngineError):
        return error
    if isinstance(error, TyperException):
        said = error.format_message() if hasattr(error, "format_message") else str(error)
        return UsageError(" ".join(said.split()).rstrip(".") + ": `osteoray VERB --help` lists the options")
    if isinstance(error, OSError):
        return _storage_error(error)
    return None if os.environ.get(TRACEBACK) else _unforeseen(error)


def _of_ray(error: Exception) -> EngineError | None:
    """What Ray raised; None for other errors, and where no verb has started Ray."""
    session = sys.modules.get("jobs.ray_watch")
    return session.typed(error) if session else None


def _leave_ray() -> None:
    """End at once where Ray is dead: its own end would wait for it, and say so at length."""
    session = sys.modules.get("jobs.ray_watch")
    if session:
        session.leave_if_lost(ClusterError.exit_code)


def _unforeseen(error: Exception) -> EngineError:
    """Type and place of an error that is ours to mend; not its text, which may quote a file."""
    ours = (str(Path(__file__).parent), str(Path(__file__).parents[1] / "engine"))
    frames = [frame for frame in extract_tb(error.__traceback__) if frame.filename.startswith(ours)]
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return EngineError(
        f"osteoray did not foresee this ({type(error).__name__}{place}): what was finished is kept. Please "
        f"report it, with what {TRACEBACK}=1 shows"
    )


def command_line(words: Sequence[str]) -> typer.Typer:
    """The application in which only the verb that ``words`` names is loaded; the others are help lines."""
    app = typer.Typer(
        name="osteoray",
        help="From a hospital's archive of bone images to scored, audited results. Research use only.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_top)
    chosen = _chosen(words)
    for verb, line in VERBS.items():
        app.command(verb, short_help=line)(_load(verb) if verb == chosen else _not_loaded)
    return app


def _chosen(words: Sequence[str]) -> str | None:
    return next((word for word in words if not word.startswith("-")), None)


def _load(verb: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(import_module(f"jobs.{_module(verb)}"), _module(verb))
    return function


def _module(verb: str) -> str:
    return verb.replace("-", "_")


def _not_loaded() -> None:
    raise AssertionError("a verb that was not named has been called")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"osteoray {__version__}")
        raise typer.Exit


def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options before the verb."""


def _say_error(error: EngineError, verb: str | None, *, as_json: bool) -> None:
    print(f"error {error.code}: {_one_line(str(error))}", file=sys.stderr)
    if as_json:
        facts = {"verb": verb, "exit_code": error.exit_code, "error": error.code, "message": str(error)}
        with suppress(OSError):  # stdout itself may be what failed
            print(json.dumps(facts), flush=True)
    with suppress(OSError):
        sys.stdout.flush()
        return
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  Python would flush the old one


def _one_line(text: str) -> str:
    """Without breaks, and without what a terminal would take for a command: a message may name files."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))


def _storage_error(error: OSError) -> StorageError:
    """The disk's own words; what was finished is kept, so the same command goes on when the disk does."""
    reason = os.strerror(error.errno) if error.errno else "input or output failed"
    place = f" at {error.filename}" if error.filename else ""
    return StorageError(f"{reason}{place}: mend that, then run the same command again to go on")


def _say_interrupted() -> None:
    print("interrupted: what was finished is kept", file=sys.stderr)


if __name__ == "__main__":
    main()
