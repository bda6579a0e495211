"""A scored instance as DICOM structured report: TID 1500 Measurement Report, Comprehensive SR.

Bone age and its standard deviation in months (UCUM ``mo``), the interval where the model has one, each
traced to the source image, the algorithm and the device; marked research use in code, text and series
description, and PRELIMINARY and UNVERIFIED. Nothing in the object depends on the clock: the same row gives
the same bytes. Its own dates and times are those at which the scoring was begun, UTC.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import highdicom.sr as hd
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian

from engine.delivery import uids
from engine.delivery.scored import MANUFACTURER, RESEARCH_USE, Model, Scored
from engine.dicom.identity import Identity, copy_into
from engine.dicom.write import IMPLEMENTATION_UID

SERIES_NUMBER = 9001
SCHEME = "99OSTEORAY"
"""Our private coding scheme; all its codes are in this module."""

_RESEARCH = hd.CodedConcept("research-use", SCHEME, RESEARCH_USE)
_INTENDED_USE = hd.CodedConcept("intended-use", SCHEME, "Intended use")
_LOW = hd.CodedConcept("interval-low", SCHEME, "Lower bound of prediction interval")
_HIGH = hd.CodedConcept("interval-high", SCHEME, "Upper bound of prediction interval")
_MONTHS = hd.CodedConcept("mo", "UCUM", "month")
_PROCEDURE = hd.CodedConcept("24724-7", "LN", "XR Bones Views for bone age")
_FINDING_SITES = {
    "HAND": hd.CodedConcept("85562004", "SCT", "Hand"),
    "KNEE": hd.CodedConcept("72696002", "SCT", "Knee"),
}
_DECIMALS = 2
_EXPECTED = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""What highdicom asks of evidence."""


def report_uid(scored: Scored, model: Model) -> str:
    """SOP instance UID of the report of ``scored``."""
    return uids.result_uid(scored.sop_instance_uid, model.sha256, model.task, uids.SR)


def report(scored: Scored, model: Model, source: Identity) -> bytes:
    """The Part 10 file of the report, in the study of ``source``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what highdicom says of odd values would quote them
        document = _document(scored, model, source)
        _settle(document, model)
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


def _document(scored: Scored, model: Model, source: Identity) -> Dataset:
    return hd.ComprehensiveSR(
        evidence=[_evidence(source)],
        content=_content(scored, model, source),
        series_instance_uid=uids.series_uid(scored.sop_instance_uid, model.sha256, model.task, uids.SR),
        series_number=SERIES_NUMBER,
        sop_instance_uid=report_uid(scored, model),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        specific_character_set="ISO_IR 192",
        series_description=f"{RESEARCH_USE}: {model.task}",
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
    evidence.StudyInstanceUID, evidence.SeriesInstanceUID = (
        source.study_instance_uid,
        source.series_instance_uid,
    )
    return evidence


def _content(scored: Scored, model: Model, source: Identity) -> hd.MeasurementReport:
    uid = uids.device_uid(model.sha256)
    device = hd.DeviceObserverIdentifyingAttributes(
        uid=uid,
        name="osteoray",
        manufacturer_name=MANUFACTURER,
        model_name=model.name,
        serial_number=model.sha256,
    )
    group = hd.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.TrackingIdentifier(
            uid=uids.tracking_uid(scored.sop_instance_uid, model.sha256, model.task), identifier=model.task
        ),
        finding_type=hd.CodedConcept(*model.quantity.code),
        finding_sites=[hd.FindingSite(_FINDING_SITES[model.quantity.body_part])],
        algorithm_id=hd.AlgorithmIdentification(
            name=model.name,
            version=model.version,
            parameters=[f"model_sha256={model.sha256}", RESEARCH_USE],
        ),
        measurements=_measurements(scored, model, source),
        qualitative_evaluations=[hd.QualitativeEvaluation(name=_INTENDED_USE, value=_RESEARCH)],
        source_images=[hd.SourceImageForMeasurementGroup(source.sop_class_uid, source.sop_instance_uid)],
    )
    return hd.MeasurementReport(
        observation_context=hd.ObservationContext(
            observer_device_context=hd.ObserverContext(
                observer_type=codes.DCM.Device, observer_identifying_attributes=device
            )
        ),
        procedure_reported=_PROCEDURE,
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
    )


def _measurements(scored: Scored, model: Model, source: Identity) -> list[hd.Measurement]:
    age = hd.CodedConcept(*model.quantity.code)
    image = [hd.SourceImageForMeasurement(source.sop_class_uid, source.sop_instance_uid)]

    def measured(name: hd.CodedConcept, months: float, **words: Any) -> hd.Measurement:
        return hd.Measurement(
            name=name, value=round(months, _DECIMALS), unit=_MONTHS, referenced_images=image, **words
        )

    rows = [
        measured(age, scored.months),
        measured(age, scored.sd_months, derivation=codes.SCT.StandardDeviation),
    ]
    if scored.interval:
        rows += [measured(_LOW, scored.interval[0]), measured(_HIGH, scored.interval[1])]
    return rows


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
