"""Every storage SOP class of an image, for tests of a rule that takes them all."""

from __future__ import annotations

from pydicom import uid

_WITH_PIXELS = {
    "CornealTopographyMapStorage", "EnhancedUSVolumeStorage", "LabelMapSegmentationStorage",
    "OphthalmicThicknessMapStorage", "ParametricMapStorage", "RTDoseStorage", "SegmentationStorage",
}  # fmt: skip


def _is_image(name: str) -> bool:
    return name.endswith("Storage") and ("Image" in name or name in _WITH_PIXELS)


IMAGES: tuple[str, ...] = tuple(
    sorted(str(value) for name, value in vars(uid).items() if isinstance(value, uid.UID) and _is_image(name))
)
