"""What a network is told beside the image: codes, missing values, and hiding in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.errors import CovariateError, UnknownNameError, UsageError
from engine.ingest.covariates import (
    SEX,
    Covariate,
    chosen,
    columns,
    hidden,
    names_of,
    read_covariate_table,
    sources,
    table_columns,
    table_values,
    unknown,
    widths,
)

CALCIUM = Covariate(
    name="calcium",
    source="table:serum_calcium",
    encode=lambda value: (0.0, 1.0) if value is None else (value / 10, 0.0),
    withheld=True,
)
BOTH = (SEX, CALCIUM)


def test_sex_knows_only_two_codes() -> None:
    rows = [{"patient_sex": code} for code in ("M", "F", "O", "", None, "m")]
    assert columns(rows, (SEX,)).tolist() == [[1], [-1], [0], [0], [0], [0]]


def test_columns_stand_in_the_order_of_the_names() -> None:
    rows = [{"patient_sex": "F", "serum_calcium": 60.0}]
    assert columns(rows, BOTH).tolist() == [[-1, 6, 0]]
    assert columns(rows, BOTH[::-1]).tolist() == [[6, 0, -1]]
    assert sources(BOTH) == ["patient_sex", "serum_calcium"]
    assert (names_of(BOTH), widths(BOTH)) == (("sex", "calcium"), (1, 2))
    assert table_columns(BOTH) == ("serum_calcium",)


@pytest.mark.parametrize("given", [(), (SEX,), BOTH])
def test_no_samples_and_no_covariates_keep_their_shape(given: tuple[Covariate, ...]) -> None:
    assert columns([], given).shape == (0, len(unknown(given)))
    assert columns([{}, {}], given).tolist() == [unknown(given).tolist()] * 2
    assert columns([{}], given).dtype == np.float32


def test_hiding_takes_what_may_be_withheld_of_the_chosen_samples() -> None:
    both_NQ = columns([{"patient_sex": "M", "serum_calcium": 20.0}] * 2, BOTH)
    assert hidden(both_NQ, BOTH, np.array([True, False])).tolist() == [[1, 0, 1], [1, 2, 0]]
    assert hidden(both_NQ, BOTH, np.array([True, False])).dtype == np.float32


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    assert chosen(BOTH, ("calcium", "sex")) == BOTH[::-1]
    with pytest.raises(UnknownNameError, match="calcium"):
        chosen(BOTH, ("sex", "calcum"))


BOUNDED = Covariate(
    name="calcium", source="table:calcium_mmol_l", encode=lambda value: (value or 0.0,), unit="mmol/l",
    low=1.0, high=4.0,
)  # fmt: skip


def test_table_values_have_the_precision_of_a_table() -> None:
    assert table_values({"calcium_mmol_l": 2.3}, (SEX, BOUNDED)) == {"calcium_mmol_l": float(np.float32(2.3))}
    for given in ({}, {"calcium_mmol_l": None}):
        assert table_values(given, (SEX, BOUNDED)) == {"calcium_mmol_l": None}
    assert table_values({}, (SEX,)) == {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"calcium_mmol_l": 0.9}, "outside 1 to 4 mmol/l"),
        ({"calcium_mmol_l": 4.1}, "outside 1 to 4 mmol/l"),
        ({"calcium_mmol_l": "2"}, "is no number"),
        ({"calcium_mmol_l": True}, "is no number"),
        ({"calcium_mmol_l": float("nan")}, "is no number"),
        ({"patient_sex": 1.0}, "no covariate of this name; this model takes calcium_mmol_l"),
    ],
)
def test_table_values_that_cannot_be_are_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(CovariateError, match=words):
        table_values(given, (SEX, BOUNDED))


def test_a_covariate_table_is_read_by_column(tmp_path: Path) -> None:
    path = tmp_path / "labs.csv"
    path.write_text("sop_instance_uid,calcium_mmol_l,other\n1.2,2.3,x\n1.3,,y\n")
    found = read_covariate_table(path, (SEX, BOUNDED))
    assert found == {"1.2": {"calcium_mmol_l": float(np.float32(2.3))}, "1.3": {"calcium_mmol_l": None}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sop_instance_uid,calcium\n1.2,2.3\n", "covariate table .* has no column calcium_mmol_l"),
        ("sop_instance_uid,calcium_mmol_l\n1.2,high\n", "no number"),
        ("sop_instance_uid,calcium_mmol_l\n1.2,9000\n", "outside"),
        ("sop_instance_uid,calcium_mmol_l\n1.2,2\n1.2,2\n", "twice"),
    ],
)
def test_a_senseless_covariate_table_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "labs.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        read_covariate_table(path, (SEX, BOUNDED))
    with pytest.raises(UsageError, match="nothing takes a covariate of a table"):
        read_covariate_table(path, (SEX,))
