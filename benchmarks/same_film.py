"""What rewriting a film's file changes: the network's input in greys of 255, and the row. No speed.

    python -m benchmarks.same_film [--films small large real matrix] [--most N] [--bundle BUNDLE]

Every line of ``tests/fixtures/rewritings.py`` over phantoms (small, and of a detector's size), real hands at
full size and other projects' DICOM files, where shared/data is beside the checkout. Months are those of a
bundle, for the films of its task; else those of a linear model that any change of the input moves. Prints a
Markdown table, and ends with 1 where a line is beyond its bound.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from engine.deploy.score import Model, open_model
from engine.errors import EngineError
from tests.fixtures import films
from tests.fixtures.films import Film
from tests.fixtures.rewriting import BOUNDS, Rewriting
from tests.fixtures.rewritings import REWRITINGS
from tests.fixtures.same_film import Apart, apart

_FILMS = {
    "small": films.small, "large": films.large, "real": films.real_hands, "matrix": films.of_the_matrix,
}  # fmt: skip
_HEAD = (
    "| rewriting | class | films | grey mean | 99.9 % | maximum | months | other outcome | beyond |",
    "|---|---|---|---|---|---|---|---|---|",
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--films", nargs="+", choices=_FILMS, default=list(_FILMS))
    parser.add_argument("--most", type=int, help="of each kind of films, the first N")
    parser.add_argument("--bundle", type=Path)
    options = parser.parse_args()
    model = open_model(options.bundle, threads=1) if options.bundle else None
    chosen = [film for kind in options.films for film in _FILMS[kind]()[: options.most]]
    kinds = Counter(f"{film.bits} bits" for film in chosen)
    print(f"{len(chosen)} films: {', '.join(f'{count} of {bits}' for bits, count in sorted(kinds.items()))}.")
    print("Each figure is the worst of the films.\n")
    print(*_HEAD, sep="\n")
    beyond = [name for name, rewriting in REWRITINGS.items() if not _line(name, rewriting, chosen, model)]
    print(f"\n{len(REWRITINGS)} rewritings, {len(beyond)} beyond their bound.")
    for name, bound in BOUNDS.items():
        print(f"{name}: {bound.mean:g} on average, {bound.most:g} at {bound.percentile:g} %.")
    sys.exit(bool(beyond))


def _line(name: str, rewriting: Rewriting, chosen: list[Film], model: Model | None) -> bool:
    """Print the line of one rewriting; whether all films are within its bound."""
    found: list[Apart] = []
    faults: list[str] = []
    for film in filter(rewriting.takes, chosen):
        try:
            away = apart(film, rewriting, model if model and model.task.name == film.task else None)
        except EngineError as error:
            faults.append(f"{film.name} ({error.code})")
            continue
        found.append(away)
        if away.beyond(rewriting.bound_of(film), is_linear=model is None):
            faults.append(film.name)
    figures = [
        f"{max((getattr(away, fact) for away in found), default=0.0):.{digits}f}"
        for fact, digits in (("mean", 3), ("percentile", 1), ("most", 0))
    ]
    months = max((away.months for away in found if away.months is not None), default=0.0)
    others = sum(away.outcomes[0] != away.outcomes[1] for away in found)
    cells = (name, rewriting.bound, len(found), *figures, f"{months:.4f}", others, "; ".join(faults))
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return not faults


if __name__ == "__main__":
    main()
