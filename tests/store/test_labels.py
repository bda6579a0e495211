"""The label table: joined by SOP instance UID, refused where it would mislead."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import NoLabelError, UsageError
from engine.store.labels import Label, label_columns, read_label_table, read_labels

NAMES = ("bone_age_months",)


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    return path


def test_values_and_split_are_joined(tmp_path: Path) -> None:
    path = table(tmp_path, "sop_instance_uid,bone_age_months,split\n1.2,96.5,test\n1.3,12,train\n")
    labels = read_labels(path, NAMES)
    assert label_columns(labels, "1.2", NAMES) == {"bone_age_months": 96.5, "split": "test"}
    assert label_columns(labels, "1.3", NAMES) == {"bone_age_months": 12.0, "split": "train"}


def test_split_is_optional_and_uids_stay_text(tmp_path: Path) -> None:
    labels = read_labels(table(tmp_path, "sop_instance_uid,bone_age_months\n1.10,96\n"), NAMES)
    assert label_columns(labels, "1.10", NAMES) == {"bone_age_months": 96.0, "split": None}


def test_without_a_table_nothing_is_filtered() -> None:
    assert label_columns(None, "1.2", NAMES) == {"bone_age_months": None, "split": None}


def test_an_instance_without_a_row_is_filtered(tmp_path: Path) -> None:
    labels = read_labels(table(tmp_path, "sop_instance_uid,bone_age_months\n1.2,96\n"), NAMES)
    with pytest.raises(NoLabelError):
        label_columns(labels, "1.4", NAMES)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sop_instance_uid,age\n1.2,3\n", "no column bone_age_months"),
        ("uid,bone_age_months\n1.2,3\n", "no column sop_instance_uid"),
        ("sop_instance_uid,bone_age_months\n1.2,old\n", r"cannot be read: a value is no number.*column #1"),
        ("sop_instance_uid,bone_age_months\n1.2,inf\n", "not finite in column bone_age_months"),
        ("sop_instance_uid,bone_age_months\n1.2,3,4\n", r"cannot be read: .*Row #2"),
        ("", "cannot be read"),
        ("sop_instance_uid,bone_age_months\n1.2,3\n1.2,4\n", "twice"),
    ],
)
def test_misleading_tables_are_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_labels(table(tmp_path, text), NAMES)


def test_an_empty_value_is_no_number(tmp_path: Path) -> None:
    labels = read_labels(table(tmp_path, "sop_instance_uid,bone_age_months\n1.2,\n"), NAMES)
    assert label_columns(labels, "1.2", NAMES) == {"bone_age_months": None, "split": None}


@pytest.mark.parametrize("row", ["1.2,Canary^Name", "1.2,3,Canary^Name"])
def test_a_refusal_quotes_no_value_of_the_table(tmp_path: Path, row: str) -> None:
    path = table(tmp_path, f"sop_instance_uid,bone_age_months\n{row}\n")
    with pytest.raises(UsageError) as refused:
        read_labels(path, NAMES)
    assert "Canary" not in str(refused.value)


def test_no_such_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.csv cannot be read: "):
        read_labels(tmp_path / "absent.csv", NAMES)


def test_the_columns_of_a_label_follow_its_kind(tmp_path: Path) -> None:
    box = Label(name="roi", kind="box")
    stage = Label(name="stage", kind="class", required=True)
    assert stage.columns == ("stage",)
    assert box.columns == ("roi_left", "roi_top", "roi_right", "roi_bottom")
    assert Label(name="apex", kind="point").columns == ("apex_x", "apex_y")
    text = "sop_instance_uid,stage,roi_left,roi_top,roi_right,roi_bottom\n1.2,3,4.5,0,9,8\n1.3,,,,,\n"
    found = read_label_table(table(tmp_path, text), (stage, box))
    edges = ("roi_left", "roi_top", "roi_right", "roi_bottom")
    assert found.values_by_uid["1.2"] == {"stage": 3.0, **dict(zip(edges, (4.5, 0.0, 9.0, 8.0), strict=True))}
    assert found.values_by_uid["1.3"] == dict.fromkeys(("stage", *edges))
    alone = read_label_table(table(tmp_path, "sop_instance_uid,stage\n1.2,3\n"), (stage, box))
    assert alone.values_by_uid["1.2"] == {"stage": 3.0, **dict.fromkeys(edges)}
    with pytest.raises(UsageError, match="no column stage"):
        read_label_table(table(tmp_path, "sop_instance_uid,roi_left\n1.2,4.5\n"), (stage, box))


@pytest.mark.parametrize(
    ("header", "row", "says"),
    [
        ("stage", "2.5", "no whole number from 0 for stage"),
        ("stage", "-1", "no whole number from 0 for stage"),
        ("stage,apex_x", "2,3.5", "a point with one coordinate for apex"),
        ("stage,roi_left", "2,4.5", "a box without four edges.* for roi"),
        (
            "stage,roi_left,roi_top,roi_right,roi_bottom",
            "2,5,0,4,9",
            "right edge left of its .* for roi",
        ),
    ],
)
def test_a_value_that_its_kind_does_not_have_is_refused(
    tmp_path: Path, header: str, row: str, says: str
) -> None:
    labels = (
        Label(name="stage", kind="class", required=True),
        Label(name="apex", kind="point"),
        Label(name="roi", kind="box"),
    )
    path = table(tmp_path, f"sop_instance_uid,{header}\n1.2,{row}\n")
    with pytest.raises(UsageError, match=says):
        read_label_table(path, labels)
