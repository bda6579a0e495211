"""Scores leave the house: DICOM SR and captures through an outbox, tables, FHIR. All for research use only.

The only door to highdicom, pynetdicom and XlsxWriter.
"""
