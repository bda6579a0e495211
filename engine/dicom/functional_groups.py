"""Enhanced multi-frame objects: the header as it holds for one frame (PS3.3 C.7.6.16).

What a classic object says once at the top, an enhanced one says in functional groups: shared by all
frames, or of each frame. ``of_frame`` lifts these elements to the top, so nobody else needs to know the
difference.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset

from engine.dicom.parse import PARSER_ERRORS, quiet
from engine.errors import HeaderError

GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")

_LIFTED: dict[str, tuple[str, ...]] = {
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    "FramePixelDataPropertiesSequence": ("ImagerPixelSpacing",),
    "FrameAnatomySequence": ("FrameLaterality", "AnatomicRegionSequence"),
}
"""Macro -> the elements that are read of it."""


def of_frame(header: Dataset, frame: int) -> Dataset:
    """The header with the elements of frame ``frame`` (from 0) at its top; those of the frame win.

    Raises:
        HeaderError: the functional groups cannot be parsed, or end before the frame.
    """
    if not any(keyword in header for keyword in GROUPS):
        return header
    is_implicit, is_little = header.original_encoding
    lifted = Dataset(header, parent_encoding=header.original_character_set)
    lifted.set_original_encoding(is_implicit, is_little, header.original_character_set)
    try:
        with quiet():
            for group in _groups(header, frame):
                for macro, keywords in _LIFTED.items():
                    for item in list(group.get(macro) or [])[:1]:
                        for keyword in keywords:
                            if keyword in item:
                                lifted[keyword] = item[keyword]
    except PARSER_ERRORS as error:
        raise HeaderError(f"the functional groups cannot be parsed ({type(error).__name__})") from error
    return lifted


def _groups(header: Dataset, frame: int) -> Iterator[Dataset]:
    shared, per_frame = (list(header.get(keyword) or []) for keyword in GROUPS)
    yield from shared[:1]
    if per_frame and frame >= len(per_frame):
        raise HeaderError("there are fewer functional groups than frames")
    yield from per_frame[frame : frame + 1]
