"""One member of a source -> one sample row: what the reading process does for each path, and nothing else.

What it needs to know travels to another process as JSON, so this module knows no labels, tables or Ray.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import deidentified, reuse, sources
from engine.boxes import Crop, crop_from_facts
from engine.dicom.guard import Limits
from engine.errors import DecoderMemoryError, FilteredError, InstanceError
from engine.instance import InputRule, prepare, rule_from_facts
from engine.manifest import sha256_of_bytes

Row = dict[str, Any]
Sample = tuple[Row, NDArray[np.uint8]]
"""Header columns, ``content_sha256`` and ``original_to_network``; and the network's image [rows, columns].

With an export of de-identified files, the columns also hold what ``deidentified.export`` gave.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What turns a path of ``source`` into a sample; ``salt`` is for the patients' keys."""

    source: str
    rule: InputRule
    salt: bytes
    limits: Limits = Limits()
    deidentified: Path | None = None
    """Folder that takes a de-identified file of each sample."""
    known: Path | None = None
    """Index of what was scored before (``engine.reuse``); its bytes are not decoded again."""
    crop: Crop | None = None
    """The part of each instance that is shown; None is all of it."""

    def facts(self) -> dict[str, Any]:
        """JSON-able facts; ``reading_from_facts`` reads them back. They hold the salt: never log them."""
        return {
            "source": self.source,
            "rule": self.rule.facts(),
            "salt": base64.b64encode(self.salt).decode(),
            "limits": asdict(self.limits),
            "deidentified": str(self.deidentified) if self.deidentified else None,
            "known": str(self.known) if self.known else None,
            "crop": self.crop.facts() if self.crop else None,
        }


def reading_from_facts(facts: Mapping[str, Any]) -> Reading:
    """The Reading that ``Reading.facts`` described."""
    return Reading(
        source=facts["source"],
        rule=rule_from_facts(facts["rule"]),
        salt=base64.b64decode(facts["salt"]),
        limits=Limits(**facts["limits"]),
        deidentified=Path(facts["deidentified"]) if facts["deidentified"] else None,
        known=Path(facts["known"]) if facts["known"] else None,
        crop=crop_from_facts(facts["crop"]) if facts["crop"] else None,
    )


def sample(path: str, reading: Reading) -> Sample:
    """Read and prepare the member ``path`` of the source.

    Raises:
        InstanceError, FilteredError: the member gives no sample (its ``reason`` says why).
    """
    data = sources.read(reading.source, path, max_bytes=reading.limits.file_bytes)
    if reading.known:
        reuse.require_unknown(reading.known, sha256_of_bytes(data))
    return sample_of(data, reading)


def sample_of(data: bytes, reading: Reading) -> Sample:
    """Prepare the bytes of one file.

    Raises:
        InstanceError, FilteredError: the bytes give no sample (its ``reason`` says why).
    """
    try:
        instance = prepare(data, reading.rule, reading.salt, reading.limits, reading.crop)
    except MemoryError as error:
        raise DecoderMemoryError("decoding asked for more memory than there is for one file") from error
    except (FilteredError, InstanceError) as error:
        error.content_sha256 = sha256_of_bytes(data)
        raise
    row = {
        **instance.columns,
        "content_sha256": instance.content_sha256,
        "original_to_network": instance.geometry.matrix_33.reshape(-1).tolist(),
    }
    if reading.deidentified:
        row[deidentified.FOLDER] = deidentified.export(
            reading.deidentified, data, reading.salt, reading.limits
        )
    return row, instance.image_HW
