"""Why instances were not scored: what each reason in the tables of rejects means, and what to do."""

from __future__ import annotations

from typing import Any

import polars as pl

EXPLANATIONS: dict[str, tuple[str, str]] = {
    "empty_file": (
        "The file has no bytes.",
        "Fetch it again from the archive; an export or a copy was cut off.",
    ),
    "not_dicom": (
        "The file is not a DICOM file, or its name says so and its content does not.",
        "Fetch it again from the archive; what is an archive of its own must be unpacked.",
    ),
    "truncated": (
        "The file ends before its header or pixels do.",
        "Fetch it again from the archive; a copy was cut off.",
    ),
    "bad_header": (
        "A header element that is needed to decode or identify the image is missing or makes no sense.",
        "The message names the element; ask the sender of the image to correct it.",
    ),
    "over_limit": (
        "The file or its image is larger than the safety limit.",
        "Look at the file; if it is sound, raise the limit and score it again.",
    ),
    "unsupported_syntax": (
        "The image is compressed in a way for which no decoder is installed.",
        "Install the decoder, or have the archive send the image uncompressed.",
    ),
    "no_pixel_data": (
        "The header announces an image, but the file holds none.",
        "Fetch it again from the archive; some exports leave pixels out.",
    ),
    "pixel_decode": (
        "The compressed image is damaged, or is not what the header says.",
        "Fetch it again from the archive; if it stays, the stored image is damaged.",
    ),
    "source_read": (
        "The archive could not hand the file over.",
        "Check the connection and rights, then score with --retry source_read.",
    ),
    "decoder_crash": (
        "The program that decodes ended at this file; all other files were read.",
        "The file is damaged in an unusual way: fetch it again, and if it stays, send it to the makers.",
    ),
    "decoder_timeout": (
        "Reading and decoding the file took longer than its deadline.",
        "Check the connection to the archive and the load of the machine, then read it again.",
    ),
    "decoder_memory": (
        "Decoding the file asked for more memory than one file may take.",
        "Look at the file; if it is sound, read it on a machine with more memory.",
    ),
    "covariate": (
        "A value that was given beside the image is no number, or is out of its range.",
        "Mend it in the covariate table, then read the file again.",
    ),
    "sop_class": (
        "Not a kind of image that this model reads, for example a report or a CT slice.",
        "Nothing to do.",
    ),
    "not_grayscale": ("A colour image: a photograph or a screenshot, not a radiograph.", "Nothing to do."),
    "multi_frame": (
        "More than one frame, where the model takes a single projection image.",
        "Nothing to do; single projections of the same study are scored.",
    ),
    "no_label": (
        "A label table was given and has no row for this instance.",
        "Add the label if the instance belongs to the set.",
    ),
    "already_scored": (
        "The same bytes lie elsewhere in the archive and were scored there.",
        "Nothing to do.",
    ),
    "body_part": (
        "The header names a body part that this model does not read.",
        "Nothing to do if the header is right; else ask the sender to correct it, and score again.",
    ),
    "body_part_open": (
        "The header does not name a body part of exactly one model, and the run took only such instances.",
        "Ask the sender to fill in BodyPartExamined, and score again; or score without --route named.",
    ),
    "not_a_slice": (
        "It lies in no stack of slices: a localizer, a duplicate, another plane, or no position is stated.",
        "Nothing to do for localizers and duplicates; else ask the sender to send the whole header.",
    ),
    "part_of_series": (
        "A slice that went into the sample of its series.",
        "Nothing to do: the series ends in the row of its first slice.",
    ),
    "companion": (
        "Another kind of file that lies beside the images: a text, a picture, a PDF, a NIfTI volume.",
        "Nothing to do.",
    ),
    "modality": (
        "The header names a kind of imaging that this model does not read, such as CT or fluoroscopy.",
        "Nothing to do if the header is right; else ask the sender to correct Modality.",
    ),
    "view": (
        "The header names a view that this model does not read: lateral, oblique or axial.",
        "Nothing to do if the header is right; else ask the sender to correct ViewPosition.",
    ),
    "laterality": (
        "The header says that both sides are on one film.",
        "Send each side as an image of its own.",
    ),
    "for_processing": (
        "Raw values of the detector, which are made for processing, not for the eye.",
        "Have the archive send the image that is FOR PRESENTATION.",
    ),
    "too_small": (
        "The image has too few rows or columns to show what this model looks at.",
        "Send the image in its full size; a thumbnail or a test picture needs nothing.",
    ),
    "age_above_range": ("The patient is older than those the model is for.", "Nothing to do."),
    "blank": ("The image is all of one grey.", "Look at the film: it may not have been exposed."),
    "no_structure": (
        "The image is noise: neighbouring pixels do not resemble each other.",
        "Look at the film; the detector or the copy may be at fault.",
    ),
    "inverted": (
        "The middle is darker than its surroundings: black and white seem to be exchanged.",
        "Look at the film; ask the sender to correct PhotometricInterpretation.",
    ),
    "uncertain": (
        "The model was less sure than on nearly all images it was validated on.",
        "Look at the film: several hands, a cut or turned one, another body part, or a rare case.",
    ),
    "rotated": (
        "To the model it resembles images of the task that were turned by 90 or 180 degrees.",
        "Look at the film; turn it at the source and send it again.",
    ),
    "cropped": (
        "To the model it resembles a part of the images of the task.",
        "Look at the film: an exposure of a single finger or joint, or a cut in the copy.",
    ),
    "several_parts": (
        "To the model it resembles two images of the task side by side.",
        "Look at the film; both hands on one film must be sent as two images.",
    ),
    "out_of_distribution": (
        "The model saw nothing like it: it lies further out than nearly all images it was validated on.",
        "Look at the film: another body part, a foreign object, or another kind of scanner.",
    ),
    "foreign_archive": (
        "Most of the first films of this archive are unlike the training images: the run gives no score.",
        "Train on images like these; or judge scores of --accept-foreign against labels before any use.",
    ),
}
"""Reason to (meaning, action); a test holds this against the error tree."""

_UNKNOWN = ("A reason this version does not know.", "Read the message beside the file.")


def reason_rows(rejects: pl.DataFrame) -> list[dict[str, Any]]:
    """Reason, code, ``instances``, ``meaning`` and ``action`` of each, the most frequent first."""
    counts = rejects.group_by("reason", "code").agg(pl.len().alias("instances"))
    ordered = counts.sort(["instances", "reason", "code"], descending=[True, False, False])
    return [
        {**row, **dict(zip(("meaning", "action"), EXPLANATIONS.get(row["reason"], _UNKNOWN), strict=True))}
        for row in ordered.to_dicts()
    ]
