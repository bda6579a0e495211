"""What real archives also hold: five files that are no usable radiograph, each for another reason."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.dicom.write import (
    DX_FOR_PRESENTATION,
    SECONDARY_CAPTURE,
    Facts,
    uid_from,
    write_instance,
    write_photo,
)
from engine.phantom.hand import draw_hand


def write_faults(out: Path, seed: int) -> int:
    """Write the five into folders like those of the instances, and return how many files that were.

    A note (text), an empty file, a DICOM file cut within its pixels, a colour photograph as DICOM Secondary
    Capture, and a JPEG photograph. None has a row in labels.csv.
    """
    rng = np.random.default_rng([seed, 3])
    folder = out / f"study-{rng.bytes(6).hex()}"
    folder.mkdir()
    (folder / "README.txt").write_text("Films of this study are in the other building.\n", encoding="utf-8")
    (folder / "IM0001").write_bytes(b"")
    _write_truncated(folder / "IM0002.dcm", seed, rng)
    photo_HW3 = _photo(rng)
    write_photo(folder / "IM0003", photo_HW3, _facts(seed, "photo", SECONDARY_CAPTURE, "XC"))
    (folder / "hand.jpg").write_bytes(cv2.imencode(".jpg", photo_HW3[..., ::-1])[1].tobytes())
    return len(list(folder.iterdir()))


def _write_truncated(path: Path, seed: int, rng: np.random.Generator) -> None:
    facts = _facts(seed, "truncated", DX_FOR_PRESENTATION, "DX")
    write_instance(path, draw_hand(100.0, "F", rng, 256), facts, syntax="explicit")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])


def _facts(seed: int, name: str, sop_class_uid: str, modality: str) -> Facts:
    return Facts(
        sop_instance_uid=uid_from("phantom", "fault", str(seed), name, "instance"),
        study_instance_uid=uid_from("phantom", "fault", str(seed), "study"),
        series_instance_uid=uid_from("phantom", "fault", str(seed), name, "series"),
        patient_id=f"phantom-{seed}-fault",
        sop_class_uid=sop_class_uid,
        modality=modality,
        body_part_examined="HAND",
    )


def _photo(rng: np.random.Generator) -> NDArray[np.uint8]:
    """A snapshot of a hand on a green cloth, [480, 360, 3] red, green, blue."""
    hand_HW = cv2.resize(draw_hand(190.0, "M", rng, 480), (360, 480)).astype(np.float32) / 4095
    skin_HW = np.clip(cv2.GaussianBlur(hand_HW, (0, 0), 6) * 3, 0, 1)[..., None]
    cloth, skin = np.array([40.0, 110.0, 70.0]), np.array([224.0, 172.0, 140.0])
    photo_HW3: NDArray[np.uint8] = (cloth + (skin - cloth) * skin_HW).astype(np.uint8)
    return photo_HW3
