"""Two trained networks on the same held-out instances, and folds put together to one table.

A is the network that hopes to be better (the distilled student), B the one it must beat (the same student
alone), T a teacher. Differences are A minus B in months: negative when A is better. Intervals and p values
come from resamples of whole patients; pairs stay together. Legend: N instances in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import TableError
from engine.evaluation import metrics
from engine.evaluation.held_out import HeldOut, groups
from engine.evaluation.metrics import Floats, Statistic
from engine.tasks.ages.accuracy import accuracy, ends, known, mean_error

_STUDENT, _ALONE, _TEACHER = 0, 1, 2


def _gap_closed(means_DF: Floats, _counts_D: Floats) -> Floats:
    gap_D = means_DF[:, _ALONE] - means_DF[:, _TEACHER]
    gained_D = means_DF[:, _ALONE] - means_DF[:, _STUDENT]
    share_D: Floats = np.divide(gained_D, gap_D, out=np.full_like(gap_D, np.nan), where=gap_D > 0)
    return share_D


GAP_CLOSED = Statistic(np.abs, _gap_closed)
"""Of errors [N, (A, B, T)]: (MAE B - MAE A) / (MAE B - MAE T); NaN where the teacher is no better than B."""


def compare(a: HeldOut, b: HeldOut, teacher: HeldOut | None = None) -> dict[str, Any]:
    """Facts of a comparison on the instances that all hold, overall and by group.

    P values are adjusted by Holm over the overall difference and those of the groups. With a ``teacher`` also
    how near each is to it, and the share of the gap between B and the teacher that A closes: without an
    interval where the teacher is no better than B in some resample.

    Raises:
        TableError: no instance is in all, or one has two truths or two patients.
    """
    tables = [a, b] if teacher is None else [a, b, teacher]
    shared = aligned(tables)
    rows = [("all", np.ones(len(shared[0].uids_N), np.bool_)), *groups(shared[0])]
    differences = [_difference(name, *(table.chosen(rows_N) for table in shared)) for name, rows_N in rows]
    adjusted = metrics.holm([row["p_value"] for row in differences])
    apart_N = shared[0].predicted_N - shared[1].predicted_N
    return {
        "instances": len(shared[0].uids_N),
        "patients": len(set(shared[0].patients_N.tolist())),
        "not_in_both": sum(len(table.uids_N) - len(shared[0].uids_N) for table in tables[:2]),
        "differences": [
            {**row, "p_value": known(row["p_value"]), "p_holm": known(p)}
            for row, p in zip(differences, adjusted, strict=True)
        ],
        "between": _distance(apart_N, shared[0].patients_N),
        "teacher": _against_teacher(*shared) if teacher else None,
    }


def aligned(tables: Sequence[HeldOut]) -> list[HeldOut]:
    """The instances that all tables hold, in the order of the first.

    Raises:
        TableError: there is none, or an instance has two truths or two patients.
    """
    common = set.intersection(*(set(table.uids_N.tolist()) for table in tables))
    if not common:
        raise TableError(
            "no held-out instance is in both runs: were they trained on the same data and split?"
        )
    order = [uid for uid in tables[0].uids_N.tolist() if uid in common]
    shared = []
    for table in tables:
        place = {uid: row for row, uid in enumerate(table.uids_N.tolist())}
        shared.append(table.chosen(np.array([place[uid] for uid in order])))
    first = shared[0]
    for other in shared[1:]:
        if (first.truth_N != other.truth_N).any() or (first.patients_N != other.patients_N).any():
            raise TableError(
                "an instance has another truth or patient in the other run: train both on one data"
            )
    return shared


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """One run of a cross-validation: which fold it held out, of what data, and its predictions there."""

    fold: int
    folds: int
    data_sha256: str
    held: HeldOut


def out_of_fold(runs: Sequence[Fold]) -> tuple[HeldOut, NDArray[np.int32], dict[str, Any]]:
    """All predictions by networks that did not see the instance, the fold of each [N], and their facts.

    Raises:
        TableError: the runs are not all folds of one division of one data set, or an instance is in two.
    """
    if not runs:
        raise TableError("no fold was given")
    divisions = {(run.folds, run.data_sha256) for run in runs}
    if len(divisions) != 1:
        raise TableError("these runs are no folds of one division: train all with the same data and folds")
    folds = runs[0].folds
    if sorted(run.fold for run in runs) != list(range(folds)):
        raise TableError(
            f"give each of the folds 0..{folds - 1} once, not {sorted(run.fold for run in runs)}"
        )
    ordered = sorted(runs, key=lambda run: run.fold)
    joined = HeldOut(
        **{
            name: np.concatenate([getattr(run.held, name) for run in ordered])
            for name in HeldOut.__dataclass_fields__
        }
    )
    if len(set(joined.uids_N.tolist())) != len(joined.uids_N):
        raise TableError("an instance is held out in two folds: the runs divide the data differently")
    fold_N = np.concatenate([np.full(len(run.held.uids_N), run.fold, np.int32) for run in ordered])
    if _spread_over_folds(joined.patients_N, fold_N):
        raise TableError("a patient is in two folds: the runs divide the data differently")
    facts = {
        "folds": folds,
        **accuracy(joined),
        "by_fold": [
            {"fold": run.fold, "instances": len(run.held.uids_N), **mean_error(run.held)} for run in ordered
        ],
    }
    return joined, fold_N, facts


def _spread_over_folds(patients_N: NDArray[Any], fold_N: NDArray[np.int32]) -> bool:
    pairs = set(zip(patients_N.tolist(), fold_N.tolist(), strict=True))
    return len(pairs) > len({patient for patient, _ in pairs})


def _difference(name: str, a: HeldOut, b: HeldOut, *_: HeldOut) -> dict[str, Any]:
    paired = metrics.paired_bootstrap(a.errors_N, b.errors_N, a.patients_N)
    return {
        "group": name,
        "instances": paired.instances,
        "mae_a": metrics.mae(a.predicted_N, a.truth_N),
        "mae_b": metrics.mae(b.predicted_N, b.truth_N),
        "difference": paired.difference,
        "interval": ends(paired.interval),
        "p_value": paired.p_value,
    }


def _against_teacher(a: HeldOut, b: HeldOut, teacher: HeldOut) -> dict[str, Any]:
    errors_N3 = np.stack([a.errors_N, b.errors_N, teacher.errors_N], axis=1)
    gap = metrics.bootstrap_by_patient(errors_N3, a.patients_N, statistic=GAP_CLOSED)
    maes_13 = np.abs(errors_N3).mean(axis=0, keepdims=True)
    from_a_N, from_b_N = a.predicted_N - teacher.predicted_N, b.predicted_N - teacher.predicted_N
    nearer = metrics.paired_bootstrap(from_a_N, from_b_N, a.patients_N)
    return {
        **mean_error(teacher),
        "gap_months": float(maes_13[0, _ALONE] - maes_13[0, _TEACHER]),
        "gap_closed": known(float(_gap_closed(maes_13, np.ones(1))[0])),
        "gap_closed_interval": ends(gap),
        "fidelity_a": _distance(from_a_N, a.patients_N),
        "fidelity_b": _distance(from_b_N, a.patients_N),
        "fidelity_difference": nearer.difference,
        "fidelity_interval": ends(nearer.interval),
    }


def _distance(apart_N: NDArray[Any], patients_N: NDArray[Any]) -> dict[str, Any]:
    """Mean and 95th percentile of how far two predictions of an instance lie apart, months."""
    interval = metrics.bootstrap_by_patient(apart_N, patients_N, statistic=metrics.MEAN_ABSOLUTE)
    return {
        "mae_months": float(np.abs(apart_N).mean()),
        "mae_interval": ends(interval),
        "p95_months": float(np.percentile(np.abs(apart_N), 95)),
    }
