"""The model card of a bundle, Markdown: what it is, data, figures by group, the task's own blocks, limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.evaluation import caveats
from engine.evaluation.answer import FEW, Block, Figure, Figures, Grid, Group, Text, figures_from_facts

NOTICE = "Research use only. Not a medical device; not for diagnosis."
NOTHING = "-"


def card(facts: Mapping[str, Any], blocks: Sequence[Block]) -> str:
    """The card of a bundle with these facts; ``blocks`` are the answer's, of the held-out predictions."""
    figures = figures_from_facts(facts["evaluation"]["figures"])
    sections = (
        _model(facts),
        _data(facts),
        _accuracy(figures, facts["evaluation"]["fidelity"]),
        *([["## What stands behind the figures", *_words(blocks)]] if blocks else []),
        _limits(figures.groups),
    )
    first = [f"**{sentence}**" for sentence in caveats.of_bundle(facts)]
    lines = [f"# {facts['task']['name']}: {facts['model']['backbone']}", "", *first, NOTICE]
    for section in sections:
        lines += ["", *section]
    return "\n".join([*lines, "", f"Written {facts['written']} by osteoray {facts['code_version']}.", ""])


def _model(facts: Mapping[str, Any]) -> list[str]:
    view = facts["task"]["rule"]["view"]
    rows, columns = view["size_HW"]
    slices = facts["task"]["rule"].get("slices")
    recipe = facts["recipe"]
    terms = recipe["distill"]
    covariates = ", ".join(facts["model"]["covariates"]) or "no covariates"
    origin, parity = facts["task"].get("origin"), facts["parity"]
    gates = [f"{name} {gate['departure']:.2g} {gate['unit']}" for name, gate in parity["gates"].items()]
    return [
        "## Model",
        "",
        *([origin, ""] if origin else []),
        f"- Role: {recipe['role']}, {facts['parameters']:,} parameters, {facts['gigaflops']:g} GFLOP an "
        f"image, engine {facts['engine']}",
        f"- Input: {f'{slices} slices of ' if slices else ''}{rows} x {columns} pixels and {covariates}; "
        f"steps {', '.join(view['steps'])}",
        f"- Distilled by: {', '.join(f'{name} x {weight:g}' for name, weight in terms.items()) or 'nothing'}",
        f"- Parity with torch on {parity['instances']} real samples: {', '.join(gates)} at most",
    ]


def _data(facts: Mapping[str, Any]) -> list[str]:
    data, split = facts["data"], facts["recipe"]["split"]
    division = f"fold {split['fold']} of {split['folds']} held out for validation" if split["folds"] else ""
    return [
        "## Data",
        "",
        f"- {data['counts']['samples']:,} samples, digest {data['sha256'][:16]}"
        f"{'; ' + division if division else ''}. No patient is in two splits.",
        f"- Fitted on the training split, calibrated on {facts['calibration']['instances']:,} instances of "
        f"the validation split, judged on {facts['evaluation']['instances']:,} of the test split.",
        f"- {_checks(facts['checks'])}",
    ]


def _checks(checks: Mapping[str, Any] | None) -> str:
    if not checks:
        return "Exported without checks: nothing is withheld as another kind of image."
    how = {
        "conformal": "the values that 99.5 % of them stay below",
        "widened": "estimated beyond the largest of them, since they are few",
    }
    return (
        f"Checks fitted on {checks['train']:,} training and {checks['validation']:,} validation images; "
        f"limits: {how[checks['limit']]}."
    )


def _accuracy(figures: Figures, fidelity: Mapping[str, Any] | None) -> list[str]:
    rows = [(_name(one), _value(one), _span(one)) for one in (figures.headline, *figures.more)]
    by_group = [
        (group.name, f"{group.instances:,}", *(f"{_value(one)} ({_span(one)})" for one in group.figures))
        for group in figures.groups
    ]
    names = [_name(one) for one in figures.groups[0].figures] if figures.groups else []
    taught = (
        f"From its teacher: {fidelity['mean']:.2f} on average, at most {fidelity['p95']:.1f} in 95 % of "
        "instances."
        if fidelity
        else "It was not compared with a teacher."
    )
    return [
        "## Accuracy on held-out instances",
        "",
        *_table(("", "value", "95 % interval"), rows),
        "",
        *([*_table(("group", "instances", *names), by_group), ""] if by_group else []),
        taught,
    ]


def _words(blocks: Sequence[Block]) -> Iterable[str]:
    """Texts and tables as they are; of a plot the words below it."""
    for block in blocks:
        if isinstance(block, Text):
            yield from ["", *([f"### {block.title}", ""] if block.title else []), block.words]
        elif isinstance(block, Grid):
            yield from ["", f"{block.title}:", "", *_table(block.header, block.rows)]
            yield from ["", block.note] if block.note else []
        elif block.note:
            yield from ["", block.note]


def _limits(groups: Sequence[Group]) -> list[str]:
    few = [group.name for group in groups if group.instances < FEW]
    return [
        "## Limits",
        "",
        "- Judged on the data above alone. No claim for other sites, devices or populations.",
        "- Where scores carry intervals, they cover as claimed on average over images like those of the "
        "validation split; not in each group, and not after a change of site, device or population.",
        *([f"- Fewer than {FEW} instances, so the figures may be chance: {', '.join(few)}."] if few else []),
    ]


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    shown = [names, ["---"] * len(names), *rows]
    return [f"| {' | '.join(cells)} |" for cells in shown]


def _name(figure: Figure) -> str:
    return f"{figure.words}, {figure.unit}" if figure.unit else figure.words


def _value(figure: Figure) -> str:
    return NOTHING if figure.value is None else f"{figure.value:.{figure.decimals}f}"


def _span(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return NOTHING
    return f"{figure.low:.{figure.decimals}f} to {figure.high:.{figure.decimals}f}"
