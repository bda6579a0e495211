"""Scores over HTTP, on Ray Serve.

In: a DICOM file, and covariates of a table if the task has any. Out: the row that ``score`` would write, as
JSON.
"""
