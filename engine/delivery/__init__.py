"""Results leave: DICOM SR and captures (sr, secondary_capture), FHIR bundles (fhir), CSV and XLSX (tables).

In: a score folder, and the source files again for the patient and study of DICOM objects. What a result says
comes from the task (``Answer.measurements``, ``sentence``, anatomy, procedure). Out: files, or objects sent
to a sink (folder, DICOMweb server, DICOM node) through an outbox that loses and doubles nothing. All are
marked for research use only.

The only door to highdicom, pynetdicom and XlsxWriter.
"""
