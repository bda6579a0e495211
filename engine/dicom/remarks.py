"""What a user may want to know of how a file was read: the codes of the column ``remarks``.

A remark is no fault: the instance is scored. Codes are short, never text of the file.
"""

from __future__ import annotations

REMARKS: dict[str, str] = {
    "bits_above_stored": "Values need more bits than BitsStored says; they are taken as they lie.",
    "body_part_unknown": "BodyPartExamined holds words that we do not know; it counts as not stated.",
    "border": "A border of one grey runs around the film; it does not count for the contrast.",
    "for_processing": "The pixels are raw values of the detector, not made for display.",
    "high_bit": "HighBit says other bits than the film lies in; the lowest ones are read.",
    "high_bits": "Bits beyond BitsStored hold something else than the film; they are left out.",
    "laterality_disagrees": "The header names two sides; that of the image counts, else the first one.",
    "mirrored": "The film was mirrored: the network knows the other side alone.",
    "padding": "Pixels of the padding value do not count for the contrast, and are black.",
    "pixel_aspect": "The pixels are not square; the film is shown in its true proportions.",
    "sex_unknown": "PatientSex is neither M nor F; a network that asks for it was told that it is unknown.",
    "shutter": "Pixels that the display shutter hides do not count for the contrast, and are black.",
    "stream_precision": "The code stream has fewer bits than BitsStored says; the stream is believed.",
    "stream_sign": "The code stream has another sign than PixelRepresentation says; the stream is believed.",
    "view_unknown": "ViewPosition holds words that we do not know; it counts as not stated.",
    "voi_function": "VOILUTFunction is unknown, or the window too narrow for it; a linear one is used.",
    "window_ignored": "The file's window or VOI LUT shows next to nothing of the film; all values are shown.",
}
"""Code -> one plain sentence."""
