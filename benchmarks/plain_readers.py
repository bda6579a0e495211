"""What people read DICOM with today, one file at a time, as a child process of ``benchmarks.ingest``.

Runs in an interpreter of its own with ``pip install pydicom pylibjpeg[all] opencv-python-headless monai`` and
nothing of osteoray (one of those plugins is GPL, so it is no dependency of ours). Each line on standard input
is a path; each line on standard output the seconds that reading and resizing it took, or ``failed``.

    python benchmarks/plain_readers.py (pydicom|monai) SIZE
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any


def pydicom_reader(size: int) -> Callable[[str], Any]:
    """``pixel_array`` with the plugins that pydicom chooses, then OpenCV's area resize."""
    import cv2
    import pydicom

    cv2.setNumThreads(1)
    return lambda path: cv2.resize(
        pydicom.dcmread(path).pixel_array, (size, size), interpolation=cv2.INTER_AREA
    )


def monai_reader(size: int) -> Callable[[str], Any]:
    """MONAI's ``LoadImage`` and area ``Resize``, all defaults."""
    import torch
    from monai.transforms import Compose, LoadImage, Resize

    torch.set_num_threads(1)
    return Compose([LoadImage(image_only=True, ensure_channel_first=True), Resize((size, size), mode="area")])


READERS = {"pydicom": pydicom_reader, "monai": monai_reader}


def main() -> None:
    """Answer every path with a time."""
    read = READERS[sys.argv[1]](int(sys.argv[2]))
    for line in sys.stdin:
        started = time.perf_counter()
        try:
            read(line.rstrip("\n"))
            answer = f"{time.perf_counter() - started:.6f}"
        except Exception as error:  # noqa: BLE001  a reader that fails is part of what is measured
            answer = f"failed {type(error).__name__}"
        print(answer, flush=True)


if __name__ == "__main__":
    main()
