"""How good predicted ages are, as figures: errors, agreement, uncertainty, and errors by sex and age band."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from engine.evaluation import metrics
from engine.evaluation.agreement import ICC, bland_altman, icc_2_1
from engine.evaluation.answer import TRAINING_MEANS, Facts, Figure, Figures, Group
from engine.evaluation.held_out import Bools, HeldOut, by_sex
from engine.tasks.ages.accuracy import PREDICTED, SD, TRUTH, bands, error_figures, errors, figure
from engine.tasks.ages.calibration import LOGITS, calibration_from_facts, negative_log_likelihood, tempered_sd


def error(held: HeldOut) -> NDArray[np.float64]:
    """Absolute errors [N], months."""
    errors_N: NDArray[np.float64] = np.abs(errors(held))
    return errors_N


def figures(held: HeldOut, calibration: Facts) -> Figures:
    """The mean absolute error and its kin, agreement, and what the calibration adds.

    The negative log likelihood and the sd before tempering need the logits in ``held.raw``.
    """
    headline, *more = error_figures(held)
    groups = [
        Group(
            name=name.capitalize(),
            heading=heading,
            instances=int(members_N.sum()),
            patients=len(np.unique(held.patients_N[members_N])),
            figures=error_figures(held.chosen(members_N)),
        )
        for heading, name, members_N in _groups(held)
    ]
    further = (*_agreement(held), *_uncertainty(held, calibration), *_baselines(held, calibration))
    return Figures(headline=headline, more=(*more, *further), groups=tuple(groups))


def _groups(held: HeldOut) -> Iterator[tuple[str, str, Bools]]:
    """Heading, name and members [N]."""
    rest_N = np.ones(len(held.uids_N), bool)
    for name, members_N in by_sex(held):
        rest_N &= ~members_N
        yield "By sex", name, members_N
    if rest_N.any():
        yield "By sex", "not stated", rest_N
    yield from (("By true bone age", name, members_N) for name, members_N in bands(held))


def _agreement(held: HeldOut) -> tuple[Figure, ...]:
    """ICC(2,1), and the change of the error with age, whose interval takes instances as independent."""
    predicted_N, truth_N = held.predicted[PREDICTED], held.truth[TRUTH]
    pairs_N2 = np.stack([predicted_N, truth_N], axis=1).astype(np.float64)
    icc = metrics.bootstrap_by_patient(pairs_N2, held.patients_N, statistic=ICC)
    agreement = bland_altman(predicted_N, truth_N)
    words = "Change of the error per month of age"
    return (
        figure("icc", "Agreement for one image, ICC(2,1)", icc_2_1(pairs_N2), icc, unit="", decimals=3),
        figure("slope", words, agreement.slope, agreement.slope_interval, decimals=3),
    )


def _uncertainty(held: HeldOut, calibration: Facts) -> Iterator[Figure]:
    yield figure("mean_sd_months", "Mean stated sd", float(np.mean(held.predicted[SD])), decimals=2)
    logits_NK = held.raw.get(LOGITS)
    if logits_NK is None or not calibration:
        return
    temperature = calibration["temperature"]
    untempered = float(tempered_sd(logits_NK, 1.0).mean())
    yield figure("mean_sd_untempered_months", "The same at temperature 1", untempered, decimals=2)
    for key, words, at in (
        ("negative_log_likelihood", "Negative log likelihood of the true month", temperature),
        ("negative_log_likelihood_untempered", "The same at temperature 1", 1.0),
    ):
        value = negative_log_likelihood(logits_NK, held.truth[TRUTH], at)
        yield figure(key, words, value, unit="", decimals=3)


def _baselines(held: HeldOut, calibration: Facts) -> Iterator[Figure]:
    mean = calibration.get(TRAINING_MEANS, {}).get(TRUTH)
    if mean is not None:
        value = float(np.abs(held.truth[TRUTH] - np.float32(mean)).mean())
        yield figure("mean_predictor_mae_months", "Error of always guessing the mean training age", value)
    if calibration:
        corrected_N = calibration_from_facts(calibration).corrected(held.predicted[PREDICTED])
        value = metrics.mae(corrected_N, held.truth[TRUTH])
        words = "Mean absolute error less the linear bias of the validation split (not applied)"
        yield figure("corrected_mae_months", words, value, decimals=2)
