"""The attention map over the image, as a DICOM secondary capture that every viewer shows.

The image is the one that the network saw, only larger. "Research use only" and the result are burned in below
it. Text that the source had burned into its pixels stays; BurnedInAnnotation is YES where the source says so.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset

from engine.delivery import uids
from engine.delivery.scored import MANUFACTURER, RESEARCH_USE, Scored
from engine.delivery.sr import part_10
from engine.dicom.identity import Identity, copy_into
from engine.dicom.write import SECONDARY_CAPTURE
from engine.imaging.overlay import overlay

SERIES_NUMBER = 9002
SIDE_PX = 768
_BAND = 12  # the band of text is this fraction of the height
_TEXT_RGB = (255, 214, 90)


def capture(
    scored: Scored, source: Identity, image_HW: NDArray[np.uint8], attention_hw: NDArray[np.uint8]
) -> bytes:
    """The Part 10 file: ``image_HW`` under ``attention_hw``, which covers the same field of view."""
    rgb_HW3 = captioned(overlay(image_HW, attention_hw), scored)
    data_set = _header(scored, source)
    data_set.Rows, data_set.Columns = rgb_HW3.shape[:2]
    data_set.SamplesPerPixel, data_set.PlanarConfiguration = rgb_HW3.shape[2], 0
    data_set.PhotometricInterpretation = "RGB"
    data_set.BitsAllocated = data_set.BitsStored = 8
    data_set.HighBit, data_set.PixelRepresentation = 7, 0
    pixels = rgb_HW3.tobytes()
    data_set.add_new(0x7FE00010, "OB", pixels + b"\0" * (len(pixels) % 2))
    copy_into(data_set, source)
    return part_10(data_set)


def captioned(rgb_HW3: NDArray[np.uint8], scored: Scored) -> NDArray[np.uint8]:
    """The picture with a black band below it that holds two lines of text, uint8 [H + H / 12, W, 3]."""
    height, width = rgb_HW3.shape[:2]
    band = max(height // _BAND, 24)
    canvas = Image.new("RGB", (width, height + band))
    canvas.paste(Image.fromarray(rgb_HW3), (0, 0))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=band * 0.34)
    result = f"{scored.model.task.answer.sentence(scored.row)} Attention map."
    for line, text in enumerate((RESEARCH_USE.upper(), result)):
        draw.text((band // 4, height + (line + 0.12) * band / 2), text, fill=_TEXT_RGB, font=font)
    return np.asarray(canvas, np.uint8)


def _header(scored: Scored, source: Identity) -> Dataset:
    model, data_set = scored.model, Dataset()
    day, time = model.scored_at.strftime("%Y%m%d"), model.scored_at.strftime("%H%M%S")
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.sop_class_uid
    reference.ReferencedSOPInstanceUID = source.sop_instance_uid
    facts = {
        "SOPClassUID": SECONDARY_CAPTURE,
        "SOPInstanceUID": scored.uid(uids.MAP),
        "SeriesInstanceUID": scored.series_uid(uids.MAP),
        "SeriesNumber": SERIES_NUMBER,
        "SeriesDescription": f"{RESEARCH_USE}: map, {model.task.name}",
        "InstanceNumber": 1,
        "Modality": "OT",
        "ConversionType": "WSD",
        "ImageType": ["DERIVED", "SECONDARY", "OTHER"],
        "DerivationDescription": f"Attention map of {model.name} over the image. {RESEARCH_USE}.",
        "BodyPartExamined": model.task.body_part,
        "PatientOrientation": "",
        "Laterality": "",
        "Manufacturer": MANUFACTURER,
        "ManufacturerModelName": model.name,
        "DeviceSerialNumber": model.sha256,
        "SoftwareVersions": model.version,
        "SourceImageSequence": [reference],
        "InstanceCreationDate": day, "InstanceCreationTime": time,
        "SeriesDate": day, "SeriesTime": time,
        "ContentDate": day, "ContentTime": time,
    }  # fmt: skip
    if source.has_burned_in_text:
        facts["BurnedInAnnotation"] = "YES"
    for keyword, value in facts.items():
        setattr(data_set, keyword, value)
    return data_set
