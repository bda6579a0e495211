"""Archives that we make: phantoms, and public data sets converted to DICOM."""
