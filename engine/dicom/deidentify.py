"""A DICOM file of a patient -> one of nobody: PS3.15 Annex E, Basic Application Level Confidentiality.

Everything but the pixel data is written anew: elements that ``deid_profile`` lets pass, at any depth of
sequences, and a file meta group of our own behind a preamble of zeros. Private elements, curves, overlays
and whatever follows the pixel data are gone, and so is text beside coded pixels (``coded_text``). Pixels are
copied byte by byte and never decoded, so text that was burned into them stays: ``burned_in`` says what is
known of that.

- UIDs: HMAC-SHA256 under the salt, so studies, series and references stay together over files and runs.
- Dates: all of a patient go back by the same whole number of days, 1 to 10 years; times of day stay.
- PatientID and PatientName: the ``patient_key`` that the tables carry.
- Sex and age are retained. An age that only dates gave is written as PatientAge.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr, write_dataset, write_file_meta_info

from engine.dicom import allowed_values, element_scan
from engine.dicom import deid_values as values
from engine.dicom.coded_text import without_text
from engine.dicom.colour import HALVED_CHROMA
from engine.dicom.deid_profile import BINARY_VRS, KEPT_TEXT, NUMBER_VRS, Action, action_of, is_taken, vr_of
from engine.dicom.header import TAGS, age_months, integer, num_frames, patient_key, text
from engine.dicom.parse import (  # fmt: skip
    PARSER_ERRORS,
    DataSet,
    Limits,
    element_value,
    elements_found,
    parse,
    quiet,
    require_pixels,
)
from engine.dicom.part10 import (
    DEFLATED,
    EXPLICIT_BE,
    EXPLICIT_LE,
    IMPLICIT_LE,
    Inflater,
    is_little_endian,
    read_meta,
)
from engine.dicom.pixel_element import split_items
from engine.dicom.write import SECONDARY_CAPTURE, file_meta
from engine.errors import HeaderError, TruncatedError

_METHODS = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    ("113108", "Retain Patient Characteristics Option"),
)
_STANDARD_SCHEMES = frozenset(
    {
        "ACR", "BI", "C4", "C5", "DCM", "FMA", "HL7", "I10", "I10P", "I9", "I9C", "ICDO3", "ISO3166_1",
        "ISO639_1", "ISO639_2", "LN", "MA", "MDC", "NCIT", "NEU", "RADLEX", "RXNORM", "SCT", "SNM3", "SRT",
        "UBERON", "UCUM", "UMLS",
    }
)  # fmt: skip
"""Coding schemes of standards bodies; a code of any other scheme is text of the site."""
_NATIVE = frozenset({IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, DEFLATED})
_SCREEN_WORDS = ("SCREEN", "CAPTURE", "SNAPSHOT", "REPORT")
_KNOWN_WORDS = {
    0x00080060: lambda typed: allowed_values.modality(typed) or "OT",  # of type 1
    0x00080070: allowed_values.maker,
    0x00180015: allowed_values.body_part,
    0x00185101: allowed_values.view,
}
"""Modality, Manufacturer, BodyPartExamined, ViewPosition: what was typed there may be a name."""
_SEQUENCE_END, _ITEM_TAG, _ITEM_HEAD = (0xFFFE, 0xE0DD), (0xFFFE, 0xE000), 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Deidentified:
    """A Part 10 file of nobody, its new names, and whether text is burned in: yes, no or unknown."""

    data: bytes
    patient_key: str
    study_instance_uid: str
    sop_instance_uid: str
    burned_in: str


@dataclass(frozen=True, slots=True)
class _Whole:
    """All public elements before the pixel element, how they are written, and that element's tag and VR."""

    header: Dataset
    is_implicit: bool
    is_little: bool
    pixel_tag: tuple[int, int]
    pixel_vr: bytes


class _Taken(frozenset[int]):
    """All tags that are looked at; the walk passes over the others."""

    def __contains__(self, tag: object) -> bool:
        return isinstance(tag, int) and is_taken(tag)


def deidentified(data: bytes, salt: bytes, limits: Limits | None = None) -> Deidentified:
    """De-identify one image; what the guarded reader refuses is refused.

    Raises:
        InstanceError: the bytes cannot be used, or cannot be written anew (its ``reason`` says why).
        SopClassFilteredError: the file is a DICOMDIR.
    """
    caps = limits or Limits()
    image = parse(data, TAGS, caps)
    require_pixels(image)
    whole = _whole(data, image, caps)
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        if not text(whole.header, keyword) and keyword in image.header:
            whole.header[keyword] = image.header[keyword]  # of the file meta
    pseudonyms = values.Pseudonyms(salt, patient_key(image.header, salt))
    try:
        with quiet():
            header = _item(whole.header, pseudonyms)
            _state(header, image.header, pseudonyms)
            correct_ambiguous_vr(header, whole.is_little)
            syntax = _syntax(image, whole)
            parts = (_meta(header, syntax), _written(header, syntax), _pixels(image, whole, syntax))
    except PARSER_ERRORS as error:
        raise HeaderError(f"the header cannot be written anew ({type(error).__name__})") from error
    return Deidentified(
        data=b"".join(parts),
        patient_key=pseudonyms.patient_key,
        study_instance_uid=text(header, "StudyInstanceUID")
        or pseudonyms.uid(f"study of {header.SOPInstanceUID}"),
        sop_instance_uid=str(header.SOPInstanceUID),
        burned_in=burned_in(whole.header),
    )


def burned_in(header: Dataset) -> str:
    """Whether text is burned into the pixels: ``yes`` or ``no`` as the file says, else ``unknown``.

    A "no" is not taken from secondary captures and screenshots, whose tools say so unasked.
    """
    said = text(header, "BurnedInAnnotation")
    if said == "YES":
        return "yes"
    kind = "\\".join(values.texts(element_value(header, "ImageType"))).upper()
    is_capture = (text(header, "SOPClassUID") or "").startswith(SECONDARY_CAPTURE)
    is_doubtful = is_capture or any(word in kind for word in _SCREEN_WORDS)
    return "no" if said == "NO" and not is_doubtful else "unknown"


def _whole(data: bytes, image: DataSet, limits: Limits) -> _Whole:
    """All that ``is_taken``, under the caps that hold for any header."""
    view = memoryview(data)
    meta = read_meta(view)
    start = meta.start
    if image.transfer_syntax_uid == DEFLATED:
        deflated = view[start:]
        inflater = Inflater(deflated, limits.inflated(len(deflated)))
        inflater.grow_to(limits.inflated(len(deflated)))
        view, start = memoryview(inflater.data), 0
    is_little = is_little_endian(view[start:], meta.transfer_syntax_uid)
    found = element_scan.find(view, start, _Taken(), limits, is_little=is_little)
    if found.pixel_at is None:
        raise TruncatedError("the file ends within its header: copy it again from its source")
    header = elements_found(view, found, is_little=is_little)
    at = found.pixel_at
    group, element = struct.unpack_from("<HH" if is_little else ">HH", view, at)
    return _Whole(header, found.is_implicit, is_little, (group, element), bytes(view[at + 4 : at + 6]))


def _item(source: Dataset, pseudonyms: values.Pseudonyms) -> Dataset:
    """The elements that pass, of a data set or a sequence item."""
    clean = Dataset()
    for tag in sorted(source.keys()):
        action = action_of(int(tag))
        vr = vr_of(tag)
        if action is Action.REMOVE or vr is None:
            continue
        if action in {Action.EMPTY, Action.DUMMY}:
            value = values.dummy(vr) if action is Action.DUMMY and vr != "SQ" else [] if vr == "SQ" else ""
            clean.add(DataElement(tag, vr.partition(" ")[0], value))
            continue
        try:
            passed = _passed(source[tag], action, vr, pseudonyms)
        except PARSER_ERRORS:
            continue  # no value that can be read: nothing to keep
        if passed is not None:
            clean.add(passed)
    return clean


def _passed(
    element: DataElement, action: Action, vr: str, pseudonyms: values.Pseudonyms
) -> DataElement | None:
    """The element with its new or checked value; None where nothing of it may stay."""
    tag = element.tag
    if action is Action.UID:
        return DataElement(tag, "UI", values.mapped(element.value, pseudonyms.uid))
    if action is Action.SHIFT:
        new = pseudonyms.date if vr == "DA" else pseudonyms.date_time
        return DataElement(tag, vr, values.mapped(element.value, new))
    if action is Action.ENTER:
        if element.VR != "SQ":
            return None
        inner = [_item(item, pseudonyms) for item in element.value if _is_standard(item)]
        return DataElement(tag, "SQ", inner)
    return _checked(element, vr)


def _checked(element: DataElement, vr: str) -> DataElement | None:
    """A kept element under the dictionary's VR, or its own where both are numbers or the former is open."""
    if element.VR == "SQ":
        return None
    if element.tag in _KNOWN_WORDS:
        known = _KNOWN_WORDS[element.tag](next(iter(values.texts(element.value)), None))
        return DataElement(element.tag, vr, known or "")
    if element.tag in KEPT_TEXT:
        found = [one for one in values.texts(element.value) if one.isprintable()]
        return DataElement(element.tag, vr, found)
    own = element.VR if vr in BINARY_VRS or " or " in vr else vr
    allowed = {vr, *vr.split(" or ")} | (NUMBER_VRS if vr in NUMBER_VRS else frozenset())
    value = values.kept(element.value, own) if own in allowed else None
    return None if value is None else DataElement(element.tag, own, value)


def _is_standard(item: Dataset) -> bool:
    """Whether an item is no code, or one of a public scheme: the meaning of others is text of the site."""
    if not any(name in item for name in ("CodeValue", "LongCodeValue", "URNCodeValue", "CodeMeaning")):
        return True
    return (text(item, "CodingSchemeDesignator") or "") in _STANDARD_SCHEMES


def _state(header: Dataset, original: Dataset, pseudonyms: values.Pseudonyms) -> None:
    """Write who the patient is now, and what was done."""
    header.SpecificCharacterSet = "ISO_IR 192"
    header.PatientID = header.PatientName = pseudonyms.patient_key
    months, age = age_months(original), text(header, "PatientAge")
    if age:
        header.PatientAge = values.capped_age(age)
    elif months is not None:
        header.PatientAge = values.age_string(months)
    header.PatientIdentityRemoved = "YES"
    header.DeidentificationMethod = ["PS3.15 E.1 Basic Profile", "pixel data not searched for text"]
    header.DeidentificationMethodCodeSequence = [_code(*method) for method in _METHODS]
    header.LongitudinalTemporalInformationModified = "MODIFIED"


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _syntax(image: DataSet, whole: _Whole) -> str:
    """The new file's transfer syntax: as the data lie, where they are deflated or not as stated."""
    if image.is_encapsulated != (image.transfer_syntax_uid not in _NATIVE):
        raise HeaderError("the pixel data are not encapsulated as the transfer syntax says")
    if image.is_encapsulated:
        return image.transfer_syntax_uid
    if not whole.is_little:
        return EXPLICIT_BE
    return IMPLICIT_LE if whole.is_implicit else EXPLICIT_LE


def _meta(header: Dataset, syntax: str) -> bytes:
    """Preamble, prefix and file meta group, all of our own making."""
    meta = file_meta(header.SOPClassUID, header.SOPInstanceUID, syntax)
    meta.ImplementationVersionName = "OSTEORAY"
    stream = DicomBytesIO()
    stream.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(stream, meta)
    return bytes(stream.getvalue())


def _written(header: Dataset, syntax: str) -> bytes:
    stream = DicomBytesIO()
    stream.is_implicit_VR = syntax == IMPLICIT_LE
    stream.is_little_endian = syntax != EXPLICIT_BE
    write_dataset(stream, header)
    return bytes(stream.getvalue())


def _pixels(image: DataSet, whole: _Whole, syntax: str) -> bytes:
    """The pixel element: the frames as they were, nothing beside, between or behind them."""
    value = require_pixels(image)
    order = ">" if syntax == EXPLICIT_BE else "<"
    tag = struct.pack(order + "HH", *whole.pixel_tag)
    if image.is_encapsulated:
        end = struct.pack("<HHI", *_SEQUENCE_END, 0)
        items = _without_table(image, without_text(image.transfer_syntax_uid, value[: _items_end(value)]))
        return b"".join((tag, b"OB\0\0", struct.pack("<I", element_scan.UNDEFINED), items, end))
    value = value[: _native_bytes(image.header)]
    padded = bytes(value) + b"\0" * (len(value) % 2)
    length = struct.pack(order + "I", len(padded))
    if syntax == IMPLICIT_LE:
        return b"".join((tag, length, padded))
    vr = whole.pixel_vr if whole.pixel_vr in {b"OB", b"OF", b"OD"} else b"OW"
    return b"".join((tag, vr, b"\0\0", length, padded))


def _native_bytes(header: Dataset) -> int:
    """How long bare frames are (PS3.5 8.1.1); what lies behind them is no pixel.

    Raises:
        HeaderError: the header does not say.
    """
    is_halved = text(header, "PhotometricInterpretation") == HALVED_CHROMA
    samples = 2 if is_halved else max(integer(header, "SamplesPerPixel", 1), 1)
    pixels = integer(header, "Rows") * integer(header, "Columns") * num_frames(header)
    return -(-pixels * samples * integer(header, "BitsAllocated") // 8)


def _without_table(image: DataSet, items: bytes) -> bytes:
    """The items; an offset table that does not lead to fragments is left empty."""
    table, fragments = split_items(memoryview(items))
    begin = fragments[0][0] - _ITEM_HEAD
    starts = {start - _ITEM_HEAD - begin for start, _ in fragments}
    number = num_frames(image.header)
    offsets = [at for (at,) in struct.iter_unpack("<I", table[: len(table) // 4 * 4])]
    if len(table) == 4 * number and set(offsets) <= starts:
        return items
    return struct.pack("<HHI", *_ITEM_TAG, 0) + items[begin:]


def _items_end(value: memoryview) -> int:
    """Where offset table and fragments end (PS3.5 A.4): at the delimiter, if there is one."""
    _, fragments = split_items(value)
    if not fragments:
        raise TruncatedError("the encapsulated pixel data holds no frame: copy the file again")
    return fragments[-1][1]
