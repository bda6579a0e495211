"""A scored instance as DICOM structured report: TID 1500 Measurement Report, Comprehensive SR.

The measurements of the task (``Answer.measurements``), each with its source image: a number is a NUM item
with its UCUM unit, and with a point on the image where it has one (SCOORD); a code is a qualitative
evaluation. Marked as research use in code, text and series description, and as PRELIMINARY and UNVERIFIED.
Nothing in the object depends on the clock: the same row gives the same bytes. Its dates and times are those
at which the scoring was begun, UTC.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import highdicom.sr as hd
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian

from engine.delivery import uids
from engine.delivery.scored import MANUFACTURER, RESEARCH_USE, Model, Scored
from engine.dicom.identity import Identity, copy_into
from engine.dicom.write import IMPLEMENTATION_UID
from engine.evaluation.answer import Code, Measurement

SERIES_NUMBER = 9001
SCHEME = "99OSTEORAY"
"""Our private coding scheme."""

_RESEARCH = hd.CodedConcept("research-use", SCHEME, RESEARCH_USE)
_INTENDED_USE = hd.CodedConcept("intended-use", SCHEME, "Intended use")
_NO_UNIT = Code("1", "UCUM", "no units")
_PIXEL_CENTRE = 0.5
"""SCOORD counts from the corner of the top-left pixel (PS3.3 C.18.6), ``point_xy`` from its centre."""
_EXPECTED = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""What highdicom asks of evidence."""


def report(scored: Scored, source: Identity) -> bytes:
    """The Part 10 file of the report, in the study of ``source``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what highdicom says of odd values would quote them
        document = _document(scored, source)
        _settle(document, scored.model)
        copy_into(document, source)
        return part_10(document)


def part_10(data_set: Dataset) -> bytes:
    """The data set as a file, Explicit VR Little Endian, behind a preamble of zeros."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = data_set.SOPClassUID
    meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
    meta.TransferSyntaxUID = UID(ExplicitVRLittleEndian)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    data_set.file_meta = meta
    stream = io.BytesIO()
    data_set.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _document(scored: Scored, source: Identity) -> Dataset:
    model = scored.model
    return hd.ComprehensiveSR(
        evidence=[_evidence(source)],
        content=_content(scored, source),
        series_instance_uid=scored.series_uid(uids.SR),
        series_number=SERIES_NUMBER,
        sop_instance_uid=scored.uid(uids.SR),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        specific_character_set="ISO_IR 192",
        series_description=f"{RESEARCH_USE}: {model.task.name}",
        manufacturer_model_name=model.name,
        software_versions=model.version,
        device_serial_number=model.sha256,
    )


def _evidence(source: Identity) -> Dataset:
    """The source as highdicom wants it, without a patient: ``copy_into`` adds who it is, unchecked."""
    evidence = Dataset()
    for keyword in _EXPECTED:
        setattr(evidence, keyword, "")
    evidence.SOPClassUID, evidence.SOPInstanceUID = source.sop_class_uid, source.sop_instance_uid
    evidence.StudyInstanceUID = source.study_instance_uid
    evidence.SeriesInstanceUID = source.series_instance_uid
    return evidence


def _content(scored: Scored, source: Identity) -> hd.MeasurementReport:
    model, task, measurements = scored.model, scored.model.task, scored.measurements
    device = hd.DeviceObserverIdentifyingAttributes(
        uid=uids.device_uid(model.sha256),
        name="osteoray",
        manufacturer_name=MANUFACTURER,
        model_name=model.name,
        serial_number=model.sha256,
    )
    group = hd.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.TrackingIdentifier(
            uid=uids.tracking_uid(scored.sop_instance_uid, model.sha256, task.name), identifier=task.name
        ),
        finding_type=_concept(measurements[0].name),
        finding_sites=[hd.FindingSite(_concept(task.anatomy))],
        algorithm_id=hd.AlgorithmIdentification(
            name=model.name, version=model.version, parameters=[f"model_sha256={model.sha256}", RESEARCH_USE]
        ),
        measurements=[
            _number(one, one.value, source) for one in measurements if not isinstance(one.value, Code)
        ],
        qualitative_evaluations=[
            hd.QualitativeEvaluation(name=_INTENDED_USE, value=_RESEARCH),
            *(
                hd.QualitativeEvaluation(name=_concept(one.name), value=_concept(one.value))
                for one in measurements
                if isinstance(one.value, Code)
            ),
        ],
        source_images=[hd.SourceImageForMeasurementGroup(source.sop_class_uid, source.sop_instance_uid)],
    )
    return hd.MeasurementReport(
        observation_context=hd.ObservationContext(
            observer_device_context=hd.ObserverContext(
                observer_type=codes.DCM.Device, observer_identifying_attributes=device
            )
        ),
        procedure_reported=_concept(task.procedure),
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
    )


def _number(one: Measurement, value: float, source: Identity) -> hd.Measurement:
    """A NUM item (TID 300), inferred from the image, or from a point on it."""
    image = (source.sop_class_uid, source.sop_instance_uid)
    place: dict[str, Any] = {"referenced_images": [hd.SourceImageForMeasurement(*image)]}
    if one.point_xy is not None:
        point = hd.CoordinatesForMeasurement(
            graphic_type=hd.GraphicTypeValues.POINT,
            graphic_data=np.array([one.point_xy]) + _PIXEL_CENTRE,
            source_image=hd.SourceImageForRegion(*image),
        )
        place = {"referenced_coordinates": [point]}
    return hd.Measurement(
        name=_concept(one.name),
        value=round(value, one.decimals),
        unit=_concept(one.unit or _NO_UNIT),
        derivation=_concept(one.derivation) if one.derivation else None,
        **place,
    )


def _concept(code: Code) -> hd.CodedConcept:
    return hd.CodedConcept(code.value, code.scheme, code.meaning)


def _settle(document: Dataset, model: Model) -> None:
    """Take the clock and the library's own marks out: what is left is decided by the row."""
    day, time = model.scored_at.strftime("%Y%m%d"), model.scored_at.strftime("%H%M%S")
    for moment in ("InstanceCreation", "Content", "Series"):
        setattr(document, f"{moment}Date", day)
        setattr(document, f"{moment}Time", time)
    # highdicom lists itself as contributing and may state a time zone, which would move the study's time.
    for keyword in ("ContributingEquipmentSequence", "TimezoneOffsetFromUTC"):
        if keyword in document:
            delattr(document, keyword)
