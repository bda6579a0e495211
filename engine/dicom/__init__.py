"""DICOM files: parsed under limits, decoded to pixels, de-identified, written. The only door to pydicom.

In: bytes that may be broken or hostile. Out: a header of whitelisted columns (``header``), display or
modality values of a frame (``pixels``), the identity that a result needs (``identity``), de-identified
files. Nothing else of a header leaves this room.
"""
