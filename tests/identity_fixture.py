"""Files of a marked patient: every element that may speak of one holds a mark that a search can find."""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset

from tests.dicom_fixture import item

MARK = "QXMARK"

PERSONS = (
    "PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName",
    "ReferringPhysicianName", "PerformingPhysicianName", "NameOfPhysiciansReadingStudy", "PhysiciansOfRecord",
    "OperatorsName",
    "RequestingPhysician", "ResponsiblePerson", "ScheduledPerformingPhysicianName", "EvaluatorName",
)  # fmt: skip
TEXTS = (
    "PatientID", "OtherPatientIDs", "IssuerOfPatientID", "PatientAddress", "PatientTelephoneNumbers",
    "PatientComments", "MedicalRecordLocator", "MilitaryRank", "EthnicGroup", "Occupation",
    "AdditionalPatientHistory", "CountryOfResidence", "RegionOfResidence", "PatientReligiousPreference",
    "AccessionNumber", "StudyID", "AdmissionID", "InstitutionName", "InstitutionAddress",
    "InstitutionalDepartmentName", "StationName", "StudyDescription", "SeriesDescription", "ImageComments",
    "ProtocolName", "RequestedProcedureDescription", "RequestedProcedureID", "PerformedProcedureStepID",
    "DeviceSerialNumber", "CurrentPatientLocation", "DerivationDescription", "RequestAttributesComment",
    "DetectorID", "ContactDisplayName", "ProtocolElementName", "WindowCenterWidthExplanation",
    "Manufacturer", "BodyPartExamined", "ViewPosition",
)  # fmt: skip


def mark(number: int, where: str = "") -> str:
    """The mark of element ``number``: at most 16 characters, so that every text VR takes it."""
    return f"{MARK}{where}{number:03d}"


def marks() -> dict[str, str]:
    """Keyword -> its marked value, for 48 elements of the top level."""
    named = {keyword: f"{mark(i)}^{mark(i, 'G')}" for i, keyword in enumerate(PERSONS)}
    return named | {
        keyword: mark(100 + i) for i, keyword in enumerate(TEXTS) if keyword != "RequestAttributesComment"
    }


def identify(data_set: Dataset, *, charset: str = "ISO_IR 192", name: str = "") -> Dataset:
    """Put the marks into a data set: top level, sequences, private blocks, odd VRs; dates of 2017."""
    data_set.SpecificCharacterSet = charset
    for keyword, value in marks().items():
        setattr(data_set, keyword, value)
    if name:
        data_set.PatientName = name
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(data_set, keyword, "20170415")
    data_set.PatientBirthDate, data_set.AcquisitionDateTime = "20070309", "20170415101112.5+0100"
    data_set.StudyTime = "101112"
    data_set.FrameOfReferenceUID, data_set.DeviceUID = "1.2.826.0.77.1", "1.2.826.0.77.2"
    _add_sequences(data_set)
    _add_private(data_set, 800)
    data_set.add_new(0x50000022, "LO", mark(701))  # curve description
    data_set.add_new(0x60000022, "LO", mark(702))  # overlay description
    data_set.add_new(0x60004000, "LT", mark(703))
    data_set.add_new(0x00187030, "LO", mark(704))  # numbers by the dictionary, text by their own VR
    data_set.add_new(0x00189999, "LO", mark(705))  # in no dictionary
    data_set.add_new(0x00540016, "OB", mark(706).encode())  # a sequence by the dictionary
    return data_set


def _add_sequences(data_set: Dataset) -> None:
    code = item(CodeValue=mark(610), CodingSchemeDesignator="99LOCAL", CodeMeaning=mark(611))
    known = item(CodeValue="85151006", CodingSchemeDesignator="SCT", CodeMeaning="Hand")
    known.PatientName = mark(612)
    data_set.AnatomicRegionSequence = [known]
    data_set.ProcedureCodeSequence = [code]
    data_set.RequestAttributesSequence = [
        item(RequestedProcedureID=mark(601), ScheduledProcedureStepID=mark(602))
    ]
    data_set.OtherPatientIDsSequence = [item(PatientID=mark(603), TypeOfPatientID="TEXT")]
    data_set.ReferencedStudySequence = [
        item(ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1", ReferencedSOPInstanceUID="1.2.3")
    ]
    inner = item(ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.1", ReferencedSOPInstanceUID="1.2.3.4")
    inner.PersonName, inner.InstitutionName = mark(604), mark(605)
    _add_private(inner, 820)
    outer = item(SeriesInstanceUID="1.2.3.1", ReferencedImageSequence=[inner])
    outer.SeriesDescription = mark(606)
    data_set.ReferencedSeriesSequence = [outer]
    data_set.OriginalAttributesSequence = [
        item(ModifiedAttributesSequence=[item(PatientName=mark(607))], SourceOfPreviousValues=mark(608))
    ]


def _add_private(data_set: Dataset, number: int) -> None:
    block: Any = data_set.private_block(0x0011, f"{MARK} CREATOR", create=True)
    block.add_new(1, "LO", mark(number))
    block.add_new(2, "SQ", [item(PatientName=mark(number + 1))])
    block.add_new(3, "UN", mark(number + 2).encode())
