"""Drift: how the predictions of an archive differ from those on the split that the model was validated on.

The bundle holds the deciles of its validation split. If nothing drifted, a tenth of the archive lies between
each two of them. How far it does not is told by the population stability index, the sum over the ten bins of
(found - 0.1) ln(found / 0.1): below 0.1 is usually called stable, above 0.25 a shift. It says that something
differs, the patients or the images, not that the model is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from engine.evaluation.answer import Answer, Plot
from engine.evaluation.metrics import Floats
from engine.report import plots

STABLE, SHIFTED = 0.1, 0.25
LEAST = 100
"""Below so many scored instances the index is chance."""
_BINS = 10
_SMALLEST_SHARE = 1e-3


def drift(
    predictions: pl.DataFrame, answer: Answer, calibration: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Predictions held against the deciles of the model's calibration; None where it has none of them.

    ``rows`` hold the deciles 10, 50, 90 of a column then and now, and the index; ``is_small`` where there are
    too few instances to say anything.
    """
    rows: list[dict[str, Any]] = []
    shares: dict[str, Floats] = {}
    for column, decile_name in ((answer.value, "validation_value"), (answer.doubt, "validation_doubt")):
        deciles = list((calibration or {}).get(decile_name) or [])
        values_N = predictions[column].to_numpy() if column else np.zeros(0)
        values_N = values_N[np.isfinite(values_N)]
        if len(deciles) != _BINS + 1 or not len(values_N):
            continue
        words = next(one.meaning for one in answer.columns if one.name == column)
        unit = answer.unit_of(column)
        shares_B = bin_shares(values_N, deciles)
        shares[words] = 100 * shares_B
        index = stability_index(shares_B)
        rows.append(
            {
                "name": f"{words}, {unit}" if unit else words,
                "then": (deciles[1], deciles[5], deciles[9]),
                "now": tuple(float(value) for value in np.percentile(values_N, (10, 50, 90))),
                "index": index,
                "verdict": "stable" if index < STABLE else "shifted" if index > SHIFTED else "some change",
            }
        )
    if not rows:
        return None
    plot = Plot(
        kind="bars",
        title="Share of the archive in each tenth of the validation split",
        x="Tenth of the validation split, from lowest to highest",
        y="% of this archive",
        series={"names": np.arange(1, _BINS + 1), **shares, "reference": np.array([100 / _BINS])},
    )
    return {"rows": rows, "plot": plots.draw(plot, "drift"), "is_small": len(predictions) < LEAST}


def bin_shares(values_N: Floats, deciles: Sequence[float]) -> Floats:
    """Share of the values between each two deciles [10]; those beyond the ends are in the first and last bin.

    Values equal to a decile that several bins share are spread over those bins.
    """
    inner = np.asarray(deciles[1:-1], np.float64)
    low_N, high_N = np.searchsorted(inner, values_N, "left"), np.searchsorted(inner, values_N, "right")
    shares_B = np.zeros(_BINS)
    spans, counts = np.unique(low_N * _BINS + high_N, return_counts=True)
    for span, count in zip(spans, counts, strict=True):
        low, high = divmod(span, _BINS)
        shares_B[low : high + 1] += count / (high - low + 1)
    return np.asarray(shares_B / len(values_N), np.float64)


def stability_index(shares_B: Floats) -> float:
    """The population stability index of shares [10] against a tenth each."""
    expected = 1 / len(shares_B)
    found_B = np.maximum(shares_B, _SMALLEST_SHARE)
    return float(((found_B - expected) * np.log(found_B / expected)).sum())
