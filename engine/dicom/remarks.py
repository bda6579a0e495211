"""What a user may want to know of how a file was read: the codes of the column ``remarks``.

A remark is no fault: the instance is scored. Codes are short, never text of the file.
"""

from __future__ import annotations

REMARKS: dict[str, str] = {
    "border": "A border of one grey runs around the film; it does not count for the contrast.",
    "padding": "Pixels of the padding value do not count for the contrast, and are black.",
    "pixel_aspect": "The pixels are not square; the film is shown in its true proportions.",
    "shutter": "Pixels that the display shutter hides do not count for the contrast, and are black.",
}
"""Code -> one plain sentence."""
