"""The model card of a bundle, Markdown: what it is, data, accuracy by group, coverage, limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NOTICE = "Research use only. Not a medical device; not for diagnosis."
NOTHING = "-"
FEW = 20
"""Below this many instances a group's figures may be chance."""
_AGREEMENT = (
    ("Bias, months", "bias", "bias_interval", 2),
    ("Lower limit of agreement, months", "lower_limit", "lower_interval", 2),
    ("Upper limit of agreement, months", "upper_limit", "upper_interval", 2),
    ("Change of the error per month of age", "slope", "slope_interval", 3),
)
_LEVEL_KINDS = {"sd": "in its sd", "months": "the same for all"}


def card(facts: Mapping[str, Any]) -> str:
    """The card of a bundle with these facts."""
    sections = (
        _model(facts),
        _data(facts),
        _accuracy(facts["evaluation"]),
        _uncertainty(facts),
        _limits(facts),
    )
    lines = [f"# {facts['task']['name']}: {facts['backbone']}", "", NOTICE]
    for section in sections:
        lines += ["", *section]
    return "\n".join([*lines, "", f"Written {facts['written']} by osteoray {facts['code_version']}.", ""])


def _model(facts: Mapping[str, Any]) -> list[str]:
    view = facts["task"]["rule"]["view"]
    rows, columns = view["size_HW"]
    terms = facts["distill"] if isinstance(facts["distill"], Mapping) else {}
    told = ", ".join(facts["model"]["covariates"]) or "no covariates"
    origin = facts["task"].get("origin")
    return [
        "## Model",
        "",
        *([origin, ""] if origin else []),
        f"- Role: {facts['role']}, {facts['parameters']:,} parameters, {facts['gigaflops']:g} GFLOP an "
        f"image, engine {facts['engine']}",
        f"- Input: {rows} x {columns} pixels and {told}; steps {', '.join(view['steps'])}",
        f"- Distilled by: {', '.join(f'{name} x {weight:g}' for name, weight in terms.items()) or 'nothing'}",
        f"- Parity with torch on {facts['parity']['instances']} real samples: {_parity(facts['parity'])}",
    ]


def _parity(parity: Mapping[str, Any]) -> str:
    gates = [f"{name} {gate['departure']:.2g} {gate['unit']}" for name, gate in parity["gates"].items()]
    return f"{', '.join(gates)} at most"


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
    ]


def _accuracy(evaluation: Mapping[str, Any]) -> list[str]:
    agreement, fidelity = evaluation["bland_altman"], evaluation.get("fidelity")
    rows = [
        ("MAE, months", _figure(evaluation["mae_months"]), _mae_span(evaluation)),
        ("RMSE, months", _figure(evaluation["rmse_months"]), NOTHING),
        *(
            (f"Within {months} months", _percent(share), NOTHING)
            for months, share in evaluation["within"].items()
        ),
        ("ICC(2,1)", _figure(evaluation["icc"], 3), _ends(evaluation["icc_interval"], 3)),
        *(
            (words, _figure(agreement[name], digits), _ends(agreement[interval], digits))
            for words, name, interval, digits in _AGREEMENT
        ),
        ("MAE of guessing the mean age, months", _figure(evaluation["mean_predictor_mae"], 1), NOTHING),
    ]
    groups = [
        (row["group"], f"{row['instances']:,}", _figure(row["mae_months"]), _mae_span(row))
        for row in evaluation["subgroups"]
    ]
    taught = (
        f"From its teacher: {fidelity['mae_months']:.2f} months on average, at most "
        f"{fidelity['p95_months']:.1f} in 95 % of instances."
        if fidelity
        else "It was not compared with a teacher."
    )
    return [
        "## Accuracy on held-out instances",
        "",
        *_table(("", "value", "95 % interval"), rows),
        "",
        "Intervals of MAE and ICC resample patients; those of bias, limits and slope are by the t formulas.",
        "",
        *_table(("group", "instances", "MAE, months", "95 % interval"), groups),
        "",
        taught,
    ]


def _uncertainty(facts: Mapping[str, Any]) -> list[str]:
    evaluation, calibration = facts["evaluation"], facts["calibration"]
    coverage = evaluation["coverage"]
    levels = [
        (_percent(row["level"], 0), _LEVEL_KINDS[row["kind"]], *_covered(row)) for row in coverage["levels"]
    ]
    groups = [(row["group"], f"{row['instances']:,}", *_covered(row)) for row in coverage["subgroups"]]
    corrected = coverage["corrected_mae_months"]
    return [
        "## Uncertainty",
        "",
        f"The sd is that of the predicted distribution at temperature {calibration['temperature']:.3g}, "
        f"fitted on the validation split: {_figure(evaluation['mean_sd_months'])} months on average "
        f"({_figure(evaluation['mean_sd_untempered'])} before).",
        "",
        f"Each score carries a conformal interval of {_percent(coverage['level'], 0)}, a multiple of its sd. "
        "Coverage found on the test split:",
        "",
        *_table(("claimed", "half width", "found", "95 % interval", "months"), levels),
        "",
        *_table(("group", "instances", "found", "95 % interval", "months"), groups),
        "",
        f"Taking off the linear bias (error = {calibration['slope']:.4f} x predicted "
        f"{calibration['intercept']:+.2f}, fitted on the validation split) would give a MAE of "
        f"{_figure(corrected)} months instead of {_figure(evaluation['mae_months'])}. It is not applied.",
    ]


def _limits(facts: Mapping[str, Any]) -> list[str]:
    few = [row["group"] for row in facts["evaluation"]["subgroups"] if row["instances"] < FEW]
    return [
        "## Limits",
        "",
        "- Judged on the data above alone. No claim for other sites, devices or populations.",
        "- The intervals cover as claimed on average over images like those of the validation split; not in "
        "each group, and not after a change of site, device or population.",
        *([f"- Fewer than {FEW} instances, so the figures may be chance: {', '.join(few)}."] if few else []),
    ]


def _covered(row: Mapping[str, Any]) -> tuple[str, str, str]:
    ends = row["covered_interval"]
    interval = f"{_percent(ends[0])} to {_percent(ends[1])}" if ends else NOTHING
    return _percent(row["covered"]), interval, f"{row['half_width_months']:.1f}"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    shown = [names, ["---"] * len(names), *rows]
    return [f"| {' | '.join(cells)} |" for cells in shown]


def _figure(value: float | None, digits: int = 2) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _mae_span(row: Mapping[str, Any]) -> str:
    low, high = row["mae_low"], row["mae_high"]
    return NOTHING if low is None else f"{low:.2f} to {high:.2f}"


def _ends(interval: Sequence[float] | None, digits: int = 2) -> str:
    return f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}" if interval else NOTHING
