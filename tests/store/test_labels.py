"""The label table: joined by SOP instance UID, refused where it would mislead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import NoLabelError, UsageError
from engine.store.labels import Label, Labels, label_columns, read_label_table

NAMES = ("bone_age_months",)
AGE = Label(name="bone_age_months", kind="number", unit="months", required=True)


def read_labels(path: Path, names: tuple[str, ...]) -> Labels:
    return read_label_table(path, [replace(AGE, name=name) for name in names])


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
        (
            "sop_instance_uid,bone_age_months\n1.2,old\n",
            r"cannot be read: a value is no number .row 2, column bone_age",
        ),
        ("sop_instance_uid,bone_age_months\n1.2,inf\n", "not finite in column bone_age_months"),
        ("sop_instance_uid,bone_age_months\n1.2,3,4\n", "cannot be read: row 2 is too long"),
        ("", "cannot be read: it is empty"),
        ("sop_instance_uid,bone_age_months\n1.2,3\n1.2,4\n", "twice"),
    ],
)
def test_misleading_tables_are_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_labels(table(tmp_path, text), NAMES)


def test_an_empty_value_is_no_number(tmp_path: Path) -> None:
    labels = read_labels(table(tmp_path, "sop_instance_uid,bone_age_months\n1.2,\n1.3,9\n"), NAMES)
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


ROWS = (("1.2.3", "96.5", "test"), ("1.2.4", "12", "train"))
FILM = {"1.2.3": 96.5, "1.2.4": 12.0}
UNITS = replace(AGE, low=0.0, high=240.0, doubted_below=20.0)


def written(
    path: Path, *, separator: str = ",", uid: str = "{}", encoding: str = "utf-8", head: str = ""
) -> Path:
    lines = [["sop_instance_uid", "bone_age_months", "split"]]
    lines += [[uid.format(name), months, split] for name, months, split in ROWS]
    text = "\r\n".join(separator.join(line) for line in lines) + "\r\n"
    path.write_bytes((head + text).encode(encoding))
    return path


@pytest.mark.parametrize(
    ("way", "mended"),
    [
        ({}, ""),
        ({"encoding": "utf-8-sig"}, ""),
        ({"encoding": "utf-16"}, ""),
        ({"head": "\n"}, ""),
        ({"separator": ";"}, "2 rows that another sign"),
        ({"separator": "\t"}, "2 rows that another sign"),
        ({"separator": ";", "head": "sep=;\r\n", "encoding": "utf-8-sig"}, "2 rows that another sign"),
        ({"uid": " {} "}, "2 UIDs in quotes"),
        ({"uid": "'{}"}, "2 UIDs in quotes"),
        ({"uid": "'{}'"}, "2 UIDs in quotes"),
        ({"uid": "\u2019{}"}, "2 UIDs in quotes"),
        ({"uid": "{}\xa0"}, "2 UIDs in quotes"),
        ({"uid": '"{}"'}, ""),
        ({"uid": '=""{}""'}, "2 UIDs in quotes"),
        ({"uid": '"=""{}"""'}, "2 UIDs in quotes"),
        ({"uid": '"{} "'}, "2 UIDs in quotes"),
    ],
)
def test_what_a_spreadsheet_does_is_mended_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, way: dict[str, str], mended: str
) -> None:
    found = read_labels(written(tmp_path / "l.csv", **way), NAMES)
    assert {uid: values["bone_age_months"] for uid, values in found.values_by_uid.items()} == FILM
    assert found.split_by_uid == {"1.2.3": "test", "1.2.4": "train"}
    assert mended in caplog.text
    assert bool(mended) == bool(caplog.text)


def test_decimal_commas_stand_between_semicolons(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = table(tmp_path, "sop_instance_uid;bone_age_months\n1.2.3;96,5\n1.2.4;12\n\n;\n")
    assert {uid: values[NAMES[0]] for uid, values in read_labels(path, NAMES).values_by_uid.items()} == FILM
    assert "1 decimal commas" in caplog.text


def test_a_validation_split_is_known_by_its_words(tmp_path: Path) -> None:
    rows = "".join(f"1.{n},9{n},{word}\n" for n, word in enumerate(("val", "Validation", "VALID")))
    path = table(tmp_path, f"sop_instance_uid,bone_age_months,split\n{rows}")
    assert set(read_labels(path, NAMES).split_by_uid.values()) == {"val"}


@pytest.mark.parametrize("split", ["TRAIN", "Train", " train ", "Training"])
def test_a_split_is_known_in_any_case(tmp_path: Path, caplog: pytest.LogCaptureFixture, split: str) -> None:
    path = table(tmp_path, f"sop_instance_uid,bone_age_months,split\n1.2,96,{split}\n1.3,9,\n")
    assert read_labels(path, NAMES).split_by_uid == {"1.2": "train", "1.3": None}
    assert ("1 splits in another spelling" in caplog.text) == (split.strip() != "train")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sop_instance_uid,bone_age_months,split\n1.2,96,Canary\n", "1 row.* neither train, val nor test"),
        ("sop_instance_uid,bone_age_months\n1.28408E+15,96\n", "spreadsheet rounded .*row 2"),
        ("sop_instance_uid;bone_age_months\n1,28408E+15;96\n", "spreadsheet rounded .*row 2"),
        ("sop_instance_uid,bone_age_months\n,96\n1.3,9\n", "1 row.* without a SOP instance UID"),
        ("sop_instance_uid,bone_age_months\n'1.2,96\n1.2,9\n", "twice"),
        ("sop_instance_uid,bone_age_months\n", "has no value of bone_age_months"),
        ("sop_instance_uid,bone_age_months\n1.2,\n1.3,NA\n", "has no value of bone_age_months"),
        ('sop_instance_uid,bone_age_months\n1.2,"96,5"\n', "a value is no number"),
        ("sop_instance_uid,bone_age_months\n1.2,1e999\n", "not finite"),
        ("sop_instance_uid,bone_age_months,bone_age_months\n1.2,9,10\n", "stand twice"),
        ('sop_instance_uid,bone_age_months\n1.2,"96\n', "quotes do not close"),
        ("PK\3\4\0\0", "no text; save it as CSV"),
        ("sep=;\n", "no column sop_instance_uid"),
        ("Canary^Name,7\n1.2,9\n", "no column sop_instance_uid"),
    ],
)
def test_what_cannot_be_told_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as refused:
        read_labels(table(tmp_path, text), NAMES)
    assert "Canary" not in str(refused.value)


@pytest.mark.parametrize("months", ["3650", "-1", "241"])
def test_a_value_out_of_range_asks_for_the_unit(tmp_path: Path, months: str) -> None:
    path = table(tmp_path, f"sop_instance_uid,bone_age_months\n1.2,96\n1.3,{months}\n")
    with pytest.raises(UsageError, match="1 of 2 values .* outside 0 to 240 months"):
        read_label_table(path, [UNITS])


@pytest.mark.parametrize(("values", "warns"), [(("8.5", "17.9"), True), (("8.5", "20"), False)])
def test_months_that_may_be_years_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, values: tuple[str, str], warns: bool
) -> None:
    path = table(tmp_path, "sop_instance_uid,bone_age_months\n1.2,{}\n1.3,{}\n".format(*values))
    assert len(read_label_table(path, [UNITS]).values_by_uid) == 2
    assert ("2 values of bone_age_months, all of them below 20 months" in caplog.text) == warns
