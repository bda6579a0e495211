"""osteoray: from a DICOM archive of bone images to scored, audited results. Research use only."""

__version__ = "0.1.0"
