"""Folds for cross-validation: by patient, stratified by target and sex, and steady when patients join.

Every patient has a fold of its own by hash, whatever else is in the set: the same child lands in the same
fold of the hand films and of the knee films. Strata are balanced by moving as few patients as possible.
Legend: N samples, P patients.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

SLACK = 0.1
"""How far a fold may exceed its equal share of a stratum before patients move on."""
FEWEST_FOLDS = 2

Stratum = tuple[int, str]
_DIGEST_BYTES = 8


def hash_of_patient(patient: str) -> int:
    """A number of 64 bits from the patient's key; independent of the bits that divide train from test."""
    digest = hashlib.blake2b(patient.encode(), digest_size=_DIGEST_BYTES, person=b"osteoray-folds").digest()
    return int.from_bytes(digest, "big")


def folds_of(
    patients_N: ArrayLike, strata_N: ArrayLike, sexes_N: ArrayLike, *, folds: int
) -> NDArray[np.int64]:
    """Fold 0 .. ``folds`` - 1 of each sample, [N]; all samples of a patient share one.

    A patient's stratum is its sex and the lowest of ``strata_N``. Within a stratum, patients go to the fold
    their hash names, in the order of their hash, until that fold holds its equal share and SLACK; who comes
    later goes to the emptiest. So no fold exceeds that bound, the order of rows does not matter, and a
    patient changes its fold only if it is one of those few, or becomes one.

    Raises:
        ValueError: ``folds`` is below 2.
    """
    if folds < FEWEST_FOLDS:
        raise ValueError(f"{folds} folds do not divide anything: at least {FEWEST_FOLDS}")
    patients: NDArray[Any] = np.asarray(patients_N)
    members: defaultdict[Stratum, list[str]] = defaultdict(list)
    for patient, stratum in _strata(patients, np.asarray(strata_N), np.asarray(sexes_N)).items():
        members[stratum].append(patient)
    fold_of: dict[str, int] = {}
    for names in members.values():
        fold_of |= _dealt(names, folds)
    return np.array([fold_of[patient] for patient in patients.tolist()], np.int64)


def _strata(patients_N: NDArray[Any], strata_N: NDArray[Any], sexes_N: NDArray[Any]) -> dict[str, Stratum]:
    strata: dict[str, Stratum] = {}
    for patient, number, sex in zip(patients_N.tolist(), strata_N.tolist(), sexes_N.tolist(), strict=True):
        stratum = (int(number), str(sex or ""))
        strata[patient] = min(stratum, strata.get(patient, stratum))
    return strata


def _dealt(patients: list[str], folds: int) -> dict[str, int]:
    """Fold of each patient of one stratum."""
    hashes = sorted((hash_of_patient(patient), patient) for patient in patients)
    bound = math.ceil((1 + SLACK) * len(patients) / folds)
    held: Counter[int] = Counter()
    dealt: dict[str, int] = {}
    moved: list[tuple[int, str]] = []
    for number, patient in hashes:
        fold = number % folds
        if held[fold] < bound:
            dealt[patient] = fold
            held[fold] += 1
        else:
            moved.append((number, patient))
    for number, patient in moved:
        # the emptiest; of equals the next one after its own, so that all are filled alike
        dealt[patient] = min(range(folds), key=lambda place: (held[place], (place - number) % folds))
        held[dealt[patient]] += 1
    return dealt
