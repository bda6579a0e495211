"""Two trained networks on the same held-out instances.

A is the network that hopes to be better (the distilled student), B the one it must beat (the same student
alone), T a teacher. Differences are A minus B in the unit of the answer's error: negative when A is better.
Intervals and p values come from resamples of whole patients; pairs stay together. Legend: N instances in
both, F networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import TableError
from engine.evaluation import metrics
from engine.evaluation.answer import Answer
from engine.evaluation.held_out import Bools, HeldOut, by_sex
from engine.evaluation.metrics import Floats, Statistic, bounds, known

_STUDENT, _ALONE, _TEACHER = 0, 1, 2


def _gap_closed(means_DF: Floats, _counts_D: Floats) -> Floats:
    gap_D = means_DF[:, _ALONE] - means_DF[:, _TEACHER]
    gained_D = means_DF[:, _ALONE] - means_DF[:, _STUDENT]
    share_D: Floats = np.divide(gained_D, gap_D, out=np.full_like(gap_D, np.nan), where=gap_D > 0)
    return share_D


GAP_CLOSED = Statistic(lambda errors_N3: errors_N3, _gap_closed)
"""Of errors [N, (A, B, T)]: (B - A) / (B - T) of their means; NaN where the teacher is no better than B."""


def compare(answer: Answer, a: HeldOut, b: HeldOut, teacher: HeldOut | None = None) -> dict[str, Any]:
    """Facts of a comparison on the instances that all hold, overall, by sex and by the answer's bands.

    P values are adjusted by Holm over the overall difference and those of the groups. With a ``teacher`` also
    how near each is to it, and the share of the gap between B and the teacher that A closes: without an
    interval where the teacher is no better than B in some resample. Distances are those of the answer's
    ``value``, and None where it has none.

    Raises:
        TableError: no instance is in all, or one has two truths or two patients.
    """
    tables = [a, b] if teacher is None else [a, b, teacher]
    shared = aligned(tables)
    first = shared[0]
    errors_FN = np.stack([answer.error(table) for table in shared])
    rows = [("all", np.ones(len(first.uids_N), np.bool_)), *by_sex(first), *answer.bands(first)]
    differences = [_difference(name, errors_FN, first.patients_N, members_N) for name, members_N in rows]
    adjusted = metrics.holm([row["p_value"] for row in differences])
    return {
        "instances": len(first.uids_N),
        "patients": len(set(first.patients_N.tolist())),
        "not_in_both": sum(len(table.uids_N) - len(first.uids_N) for table in tables[:2]),
        "unit": answer.error_unit,
        "differences": [
            {**row, "p_value": known(row["p_value"]), "p_holm": known(p)}
            for row, p in zip(differences, adjusted, strict=True)
        ],
        "between": distance(answer, first, shared[1]),
        "teacher": _against_teacher(answer, shared, errors_FN) if teacher else None,
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
        labels = first.truth.keys() & other.truth.keys()
        is_same = all(np.array_equal(first.truth[n], other.truth[n], equal_nan=True) for n in labels)
        if not is_same or (first.patients_N != other.patients_N).any():
            raise TableError(
                "an instance has another truth or patient in the other run: train both on one data"
            )
    return shared


def distance(answer: Answer, a: HeldOut, b: HeldOut) -> dict[str, Any] | None:
    """Mean, its interval by patient, and 95th percentile of how far the values of aligned tables lie apart.

    None where the answer has no value to compare.
    """
    if answer.value is None:
        return None
    apart_N = np.abs(_apart(answer.value, a, b))
    interval = metrics.bootstrap_by_patient(apart_N, a.patients_N, statistic=metrics.MEAN)
    return {
        "instances": len(apart_N),
        "mean": float(apart_N.mean()),
        "mean_interval": bounds(interval),
        "p95": float(np.percentile(apart_N, 95)),
    }


def _apart(value: str, a: HeldOut, b: HeldOut) -> NDArray[Any]:
    apart_N: NDArray[Any] = a.predicted[value] - b.predicted[value]
    return apart_N


def _difference(name: str, errors_FN: Floats, patients_N: NDArray[Any], members_N: Bools) -> dict[str, Any]:
    of_a_N, of_b_N = errors_FN[:2, members_N]
    paired = metrics.paired_bootstrap(of_a_N, of_b_N, patients_N[members_N])
    return {
        "group": name,
        "instances": paired.instances,
        "error_a": float(of_a_N.mean()),
        "error_b": float(of_b_N.mean()),
        "difference": paired.difference,
        "interval": bounds(paired.interval),
        "p_value": paired.p_value,
    }


def _against_teacher(answer: Answer, shared: Sequence[HeldOut], errors_FN: Floats) -> dict[str, Any]:
    a, b, teacher = shared
    gap = metrics.bootstrap_by_patient(errors_FN.T, a.patients_N, statistic=GAP_CLOSED)
    means_13 = np.ascontiguousarray(errors_FN.T).mean(axis=0, keepdims=True)
    own = metrics.bootstrap_by_patient(errors_FN[_TEACHER], a.patients_N, statistic=metrics.MEAN)
    facts = {
        "error": known(float(errors_FN[_TEACHER].mean())),
        "error_interval": bounds(own),
        "gap": float(means_13[0, _ALONE] - means_13[0, _TEACHER]),
        "gap_closed": known(float(_gap_closed(means_13, np.ones(1))[0])),
        "gap_closed_interval": bounds(gap),
        "fidelity": None,
    }
    if answer.value is None:
        return facts
    nearer = metrics.paired_bootstrap(
        np.abs(_apart(answer.value, a, teacher)), np.abs(_apart(answer.value, b, teacher)), a.patients_N
    )
    return {
        **facts,
        "fidelity": {
            "a": distance(answer, a, teacher),
            "b": distance(answer, b, teacher),
            "difference": nearer.difference,
            "interval": bounds(nearer.interval),
        },
    }
