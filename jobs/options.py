"""The options that ``ingest`` and ``score`` share, written once."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from engine.errors import UsageError
from jobs.plan import require_apart

MOST = 10_000_000
"""Upper end of options that count things; none of them may be without an end."""
_SHARD_SIZE_HELP = (
    "Instances in one shard, the unit of resuming. By default SOURCE is divided into 128 shards of 64 to 256 "
    "files; a folder keeps the size that it was begun with."
)


TrustedOption = Annotated[
    Path | None,
    typer.Option(
        exists=True, metavar="PUBKEYS", help="Use bundles only that are signed by a key of this file (PEM)."
    ),
]
PinOption = Annotated[
    list[str] | None,
    typer.Option(metavar="SHA256", help="Use this model_sha256 only; may be repeated, one a bundle."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run over an archive is started, resumed, limited and reported. One option a field."""

    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; the same command again resumes it.")
    ] = None
    shard_size: Annotated[int | None, typer.Option(min=1, max=MOST, help=_SHARD_SIZE_HELP)] = None
    incremental: Annotated[
        bool,
        typer.Option("--incremental", help="Add what is new or changed in SOURCE to a finished --out."),
    ] = False
    moved: Annotated[
        bool,
        typer.Option("--moved", help="SOURCE is the archive that --out was begun on, at another address."),
    ] = False
    covariates: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            exists=True,
            help="Table of covariates that no header has: sop_instance_uid and a column each. A value may be "
            "missing.",
        ),
    ] = None
    retry: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REASON",
            help="Read again only the files that were quarantined for this reason; may be repeated.",
        ),
    ] = None
    max_failures: Annotated[
        str | None,
        typer.Option(
            metavar="N|P%",
            help="Stop with exit code 4 when more files than this are quarantined, such as 100 or 1%.",
        ),
    ] = None
    window: Annotated[
        str | None,
        typer.Option(
            metavar="FROM-TO",
            help="Read only in these hours of the day, such as 22:00-06:00.",
        ),
    ] = None
    throttle: Annotated[
        float | None,
        typer.Option(min=0.01, max=MOST, help="Read at most this many instances a second, to spare a PACS."),
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read headers only, say what SOURCE holds, and write nothing.")
    ] = False
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON, for scripts.")] = False

    def __post_init__(self) -> None:
        """Refuse what is no number: it lies in every range.

        Raises:
            UsageError: ``--throttle`` is NaN.
        """
        if self.throttle is not None and math.isnan(self.throttle):
            raise UsageError("--throttle takes a number of instances a second, as 5 or 0.5")

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
