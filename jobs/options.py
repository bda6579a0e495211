"""The options that ``ingest`` and ``score`` share, written once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from engine.errors import UsageError
from jobs.plan import require_apart

_SHARD_SIZE_HELP = (
    "Instances in one shard, the unit of resuming; by default what --out was begun with, else a 128th of "
    "SOURCE, 64 at least and 256 at most."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run over an archive is begun, gone on with, limited and reported. One option a field."""

    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; the same command again resumes it.")
    ] = None
    shard_size: Annotated[int | None, typer.Option(min=1, help=_SHARD_SIZE_HELP)] = None
    incremental: Annotated[
        bool,
        typer.Option(
            "--incremental", help="Take into a finished --out what is new or changed in SOURCE since then."
        ),
    ] = False
    retry: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REASON",
            help="Read again what was quarantined for this reason, and nothing else; may be given several "
            "times.",
        ),
    ] = None
    max_failures: Annotated[
        str | None,
        typer.Option(
            metavar="N|P%",
            help="Stop, with exit code 4, once more files are quarantined: a number, or a share as 1%.",
        ),
    ] = None
    window: Annotated[
        str | None,
        typer.Option(
            metavar="FROM-TO",
            help="Read only in these hours of the day, as 22:00-06:00; pauses outside of them.",
        ),
    ] = None
    throttle: Annotated[
        float | None, typer.Option(min=0.01, help="Read at most so many instances a second, to spare a PACS.")
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what SOURCE holds, from headers; write nothing.")
    ] = False
    json: Annotated[bool, typer.Option("--json", help="Print a machine-readable last line.")] = False

    def folder(self, source: str) -> Path:
        """``--out``, which lies apart from the source.

        Raises:
            UsageError: it was not given, or lies in the source; or there is no such source.
        """
        if self.out is None:
            raise UsageError("name a folder for the results: --out DIR (or look first, with --dry-run)")
        require_apart(source, self.out)
        return self.out


def with_run_options(verb: Callable[..., None]) -> Callable[..., None]:
    """A command whose options are those of ``verb`` and, in the place of its ``options``, all RunOptions."""
    own, shared = inspect.signature(verb).parameters, inspect.signature(RunOptions).parameters
    hints = get_type_hints(verb, include_extras=True) | get_type_hints(RunOptions, include_extras=True)
    hints = {name: hint for name, hint in hints.items() if name in own or name in shared}

    @functools.wraps(verb)
    def command(**words: Any) -> None:
        options = RunOptions(**{name: words.pop(name) for name in shared})
        verb(**words, options=options)

    kept = [one for one in own.values() if one.name != "options"]
    parameters = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[one.name])
        for one in (*kept, *shared.values())
    ]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    vars(command)["__signature__"] = inspect.Signature(parameters)
    return command
