"""What each task does with what a header says: a line of ``header_facts.csv`` is one header.

``facts`` are elements, with several values between backslashes; an item of a sequence is code/scheme/meaning,
with its modifier behind a +, and ``frame:`` puts an element into the functional groups. A task's column says
``named`` or ``open`` where it takes the film, else the reason. ``row`` is what then stands in the columns,
and the remarks.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.dicom.remarks import REMARKS
from engine.errors import FilteredError
from engine.ingest.instance import Parsed, parse_instance, prepare, rule_from_facts
from engine.ingest.routing import route
from engine.tasks import TASKS, task_named
from tests.fixtures.dicom_fixture import image, item, picture

TABLE = Path(__file__).with_name("header_facts.csv")
COLUMNS = {
    "body_part_examined": "part", "anatomic_region": "region", "described_body_part": "described",
    "view_position": "view", "laterality": "side", "patient_sex": "sex", "modality": "modality",
}  # fmt: skip
USUAL = {"sex": "F", "modality": "DX"}


def lines() -> list[dict[str, str]]:
    with TABLE.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def coded(text: str) -> Any:
    value, scheme, meaning = text.partition("+")[0].split("/")
    found = item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)
    if "+" in text:
        found.AnatomicRegionModifierSequence = [coded(text.partition("+")[2])]
    return found


def film(facts: str) -> bytes:
    elements: dict[str, Any] = {"SpecificCharacterSet": "ISO_IR 192"}
    size = (96, 80)
    for fact in filter(None, facts.split("; ")):
        keyword, _, text = fact.partition("=")
        of_frame, keyword = keyword.startswith("frame:"), keyword.removeprefix("frame:")
        values = text.split("\\")
        value: Any = [coded(one) for one in values] if keyword.endswith("Sequence") else values
        if keyword == "Size":
            size = (int(values[0]), int(values[1]))
        elif of_frame:
            anatomy = item(FrameAnatomySequence=[item(**{keyword: value})])
            elements["SharedFunctionalGroupsSequence"] = [anatomy]
        else:
            elements[keyword] = value if len(values) > 1 or keyword.endswith("Sequence") else text
    return image(picture(size), **elements)


def parsed(facts: str) -> Parsed:
    return parse_instance(film(facts), b"s" * 32)


def ending(instance: Parsed, name: str) -> tuple[str, dict[str, Any]]:
    """How a task ends with it, and the columns of its row."""
    rule = rule_from_facts(task_named(name).rule.facts())  # as a bundle brings it
    (found,) = route(instance.columns, [rule])
    if isinstance(found, FilteredError):
        return found.reason, instance.columns
    prepared = prepare(instance, rule)
    assert prepared.image_HW.any()
    return "named" if rule.names(instance.columns) else "open", prepared.columns


def row_of(columns: dict[str, Any]) -> str:
    stated = [
        f"{short}={columns[name]}"
        for name, short in COLUMNS.items()
        if columns[name] is not None and columns[name] != USUAL.get(short)
    ]
    return " ".join([*stated, *columns["remarks"]])


@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
@pytest.mark.parametrize("line", lines(), ids=lambda line: line["facts"])
def test_a_header_ends_as_the_table_says(line: dict[str, str]) -> None:
    instance = parsed(line["facts"])
    ends = {name: ending(instance, name) for name in TASKS}
    assert {name: end for name, (end, _) in ends.items()} == {name: line[name] for name in TASKS}
    taken = [columns for end, columns in ends.values() if end in {"named", "open"}]
    assert line["row"] == row_of((taken or [instance.columns])[0])


def test_the_table_is_as_wide_as_the_issue_asks() -> None:
    counts = Counter(line["facts"].partition("=")[0] for line in lines())
    assert counts["BodyPartExamined"] >= 100
    assert counts["AnatomicRegionSequence"] >= 20
    for keyword, least in (("ViewPosition", 20), ("PatientSex", 8), ("Modality", 20), ("Laterality", 5)):
        assert counts[keyword] >= least
    known = {word for line in lines() for word in line["row"].split() if "=" not in word}
    assert known <= set(REMARKS)


def test_a_right_hand_is_seen_as_a_left_one() -> None:
    rule = task_named("hand-age").rule
    left, right = (prepare(parsed(f"ImageLaterality={side}"), rule) for side in "LR")
    assert np.array_equal(left.image_HW, right.image_HW[:, ::-1])
    corner = np.array([[3.0, 5.0]])
    assert right.geometry.to_original(right.geometry.to_network(corner)) == pytest.approx(corner)
