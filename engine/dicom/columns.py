"""Header elements -> the columns of ``schema.HEADER_FIELDS``: what an image is, and what it says it shows.

What is free text in a file leaves this module as a known word (``allowed_values``, ``sites``), or not at all.
Where several elements, or several values of one, speak of the same fact, all of them stand in the column.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydicom.dataset import Dataset

from engine.dicom import allowed_values, colour, header, sites
from engine.dicom.parse import PARSER_ERRORS, element_value, quiet

_PHOTOMETRIC = colour.GREY | colour.YBR | colour.RETIRED | {colour.PALETTE, colour.RGB}
_OF_SERIES = ("SeriesDescription", "ProtocolName", "PerformedProcedureStepDescription")
_OF_STUDY = ("StudyDescription", "RequestedProcedureDescription")
_BOTH = {"L", "R"}


def columns(elements: Dataset, transfer_syntax_uid: str, salt: bytes) -> dict[str, Any]:
    """The header columns of ``schema.HEADER_FIELDS``.

    Raises:
        HeaderError: SOP instance or class UID is missing or malformed.
    """
    shown, remarks = _shown(elements)
    row, column, source = header.spacing(elements)
    modalities = header.words(elements, "Modality")
    photometric = header.text(elements, "PhotometricInterpretation") or ""
    return {
        "sop_instance_uid": header.uid(elements, "SOPInstanceUID"),
        "sop_class_uid": header.uid(elements, "SOPClassUID"),
        "study_instance_uid": header.uid_or_none(elements, "StudyInstanceUID"),
        "series_instance_uid": header.uid_or_none(elements, "SeriesInstanceUID"),
        "transfer_syntax_uid": transfer_syntax_uid,
        "modality": allowed_values.joined(filter(None, map(allowed_values.modality, modalities))),
        "manufacturer": allowed_values.maker(header.text(elements, "Manufacturer")),
        "photometric_interpretation": photometric.upper() if photometric.upper() in _PHOTOMETRIC else None,
        "rows": header.integer(elements, "Rows", 0),
        "columns": header.integer(elements, "Columns", 0),
        "bits_stored": header.integer(elements, "BitsStored", 0),
        **shown,
        "patient_key": header.patient_key(elements, salt),
        "age_months": header.age_months(elements),
        "spacing_row_mm": row,
        "spacing_column_mm": column,
        "spacing_source": source,
        "image_position_patient": header.numbers(elements, "ImagePositionPatient", 3),
        "image_orientation_patient": header.numbers(elements, "ImageOrientationPatient", 6),
        "is_localizer": "LOCALIZER" in header.words(elements, "ImageType"),
        "remarks": remarks,
    }


def _shown(elements: Dataset) -> tuple[dict[str, Any], list[str]]:
    """Body parts, view, side and sex; and remarks on what is not known of them."""
    typed = [sites.named(word) for word in header.words(elements, "BodyPartExamined")]
    part = allowed_values.joined(one for text in typed for one in text.parts)
    view, sex = _view(elements), sex_of(elements)
    side, has_other_sides = _laterality(elements, typed)
    intents = header.words(elements, "PresentationIntentType")
    remarks = {
        "body_part_unknown": part is None and bool(header.text(elements, "BodyPartExamined")),
        "for_processing": any("PROCESSING" in intent for intent in intents),
        "laterality_disagrees": has_other_sides,
        "sex_unknown": sex not in {"F", "M"},
        "view_unknown": view is None and bool(header.text(elements, "ViewPosition")),
    }
    return {
        "body_part_examined": part,
        "anatomic_region": allowed_values.joined(_coded(elements, "AnatomicRegionSequence")),
        "described_body_part": _described(elements),
        "view_position": view,
        "laterality": side,
        "patient_sex": sex,
    }, sorted(code for code, holds in remarks.items() if holds)


def sex_of(elements: Dataset) -> str | None:
    """PatientSex as F, M or O (PS3.3 C.7.1.1); None where it is anything else, or two of them."""
    values = {allowed_values.sex(word) for word in header.words(elements, "PatientSex")}
    return values.pop() if len(values) == 1 else None


def laterality(elements: Dataset) -> str | None:
    """L, R, B (both) or U (unpaired), by the first that says it; None where nothing does.

    In this order: the image, its frame, its series, the code of its region, the words of its body part, and
    the descriptions of its series.
    """
    return _laterality(elements, [sites.named(w) for w in header.words(elements, "BodyPartExamined")])[0]


def _laterality(elements: Dataset, typed: list[sites.Named]) -> tuple[str | None, bool]:
    """The side, and whether another element says another one."""
    said = [
        *(_sides(header.words(elements, f"{of}Laterality")) for of in ("Image", "Frame", "")),
        {side for item in _items(elements, "AnatomicRegionSequence") for side in _side_codes(item)},
        {side for one in typed for side in one.sides},
    ]
    prose = {side for keyword in _OF_SERIES for side in _prose(elements, keyword).sides}
    said += [prose] if len(prose) == 1 and prose < _BOTH else []
    found = ["B" if "B" in sides or sides >= _BOTH else min(sides) for sides in said if sides]
    side = next((one for one in found if one != "U"), found[0] if found else None)
    return side, len(set(found) - {"U"}) > 1


def _sides(values: list[str]) -> set[str]:
    return {"U" for value in values if value == "U"} | {
        side for value in values for side in sites.named(value).sides
    }


def _side_codes(region: Dataset) -> Iterator[str]:
    for modifier in _items(region, "AnatomicRegionModifierSequence"):
        side = next(filter(None, map(sites.side_of, _code_values(modifier))), None)
        if side:
            yield side


def _described(elements: Dataset) -> str | None:
    """Body parts that the descriptions of the series name, else those of the study."""
    for keywords in (_OF_SERIES, _OF_STUDY):
        parts = [part for keyword in keywords for part in _prose(elements, keyword).parts]
        if parts:
            return allowed_values.joined(parts)
    return None


def _prose(elements: Dataset, keyword: str) -> sites.Named:
    return sites.named(header.text(elements, keyword) or "", is_prose=True)


def _view(elements: Dataset) -> str | None:
    typed = "/".join(header.words(elements, "ViewPosition"))
    found = [allowed_values.view(typed)]
    for item in _items(elements, "ViewCodeSequence"):
        known = next(filter(None, map(allowed_values.view_of_code, _code_values(item))), None)
        found.append(known or allowed_values.view(header.text(item, "CodeMeaning")))
    return allowed_values.joined(term for terms in found if terms for term in terms.split("\\"))


def _coded(elements: Dataset, keyword: str) -> Iterator[str]:
    """Terms of the codes of a sequence (PS3.3 8.8); of a code that is not known, by its meaning."""
    for item in _items(elements, keyword):
        known = next(filter(None, map(sites.term_of, _code_values(item))), None)
        yield from (known,) if known else sites.named(header.text(item, "CodeMeaning") or "").parts


def _code_values(item: Dataset) -> list[str]:
    return [header.text(item, keyword) or "" for keyword in ("CodeValue", "LongCodeValue")]


def _items(elements: Dataset, keyword: str) -> list[Dataset]:
    value = element_value(elements, keyword)
    try:
        with quiet():
            return [item for item in value or () if isinstance(item, Dataset)]
    except PARSER_ERRORS:
        return []
