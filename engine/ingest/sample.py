"""One member of a source -> a sample for each rule that takes it: what the decode worker does for a path.

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

from engine import sources
from engine.dicom.header import num_frames
from engine.dicom.parse import Limits
from engine.errors import (
    AlreadyScoredError,
    CompanionError,
    DecoderMemoryError,
    FilteredError,
    InstanceError,
    NotDicomError,
)
from engine.imaging.boxes import Crop, crop_from_facts
from engine.ingest import deidentified, reuse, routing
from engine.ingest.instance import InputRule, Parsed, parse_instance, prepare, rule_from_facts
from engine.store.files import sha256_of_bytes

NO_SALT = bytes(32)
"""Where the patient's key that is made with it is thrown away."""
Row = dict[str, Any]
Sample = tuple[Row, NDArray[np.uint8]]
"""Header columns, ``content_sha256`` and ``original_to_network``; and the network's image [rows, columns].
Of a series (``engine.ingest.series``) the image is [slices, rows, columns].

``rule`` is the place of the rule that took it, ``route`` the reason (``engine.ingest.routing``).
With an export of de-identified files, the columns also hold what ``deidentified.export`` gave.
"""
HEAD_BYTES = 256 << 10
"""Nearly every header lies in so many first bytes of its file."""
Head = tuple[Row, int] | InstanceError | FilteredError
"""Header columns and number of frames of one member, or why there are none."""
Outcome = Sample | InstanceError | FilteredError
"""What one rule makes of one member: a sample, or the typed error that says why there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What turns a path of ``source`` into a sample; ``salt`` is for the patients' keys."""

    source: str
    rules: tuple[InputRule, ...]
    """Of the models, in the order in which they were named; a member is read once for all of them."""
    salt: bytes
    route: routing.Open = "all"
    """Which rules take it where the header leaves the body part open (``engine.ingest.routing``)."""
    limits: Limits = Limits()
    deidentified: Path | None = None
    """Folder that takes a de-identified file of each sample."""
    known: Path | None = None
    """Index of what was scored before (``engine.ingest.reuse``); its bytes are not decoded again."""
    crop: Crop | None = None
    """The part of each instance that is shown; None is all of it."""

    def facts(self) -> dict[str, Any]:
        """JSON-able facts; ``reading_from_facts`` reads them back. They hold the salt: never log them."""
        return {
            "source": self.source,
            "rules": [rule.facts() for rule in self.rules],
            "salt": base64.b64encode(self.salt).decode(),
            "route": self.route,
            "limits": asdict(self.limits),
            "deidentified": str(self.deidentified) if self.deidentified else None,
            "known": str(self.known) if self.known else None,
            "crop": self.crop.facts() if self.crop else None,
        }


def reading_from_facts(facts: Mapping[str, Any]) -> Reading:
    """The Reading that ``Reading.facts`` described."""
    return Reading(
        source=facts["source"],
        rules=tuple(rule_from_facts(one) for one in facts["rules"]),
        salt=base64.b64decode(facts["salt"]),
        route=facts["route"],
        limits=Limits(**facts["limits"]),
        deidentified=Path(facts["deidentified"]) if facts["deidentified"] else None,
        known=Path(facts["known"]) if facts["known"] else None,
        crop=crop_from_facts(facts["crop"]) if facts["crop"] else None,
    )


def samples(path: str, reading: Reading) -> list[Outcome]:
    """Read and prepare the member ``path`` of the source; an outcome for each rule of the reading."""
    try:
        data = sources.read(reading.source, path, max_bytes=reading.limits.file_bytes)
    except (FilteredError, InstanceError) as error:
        return [error] * len(reading.rules)
    return [
        promised(outcome, reading.source, path) if isinstance(outcome, CompanionError) else outcome
        for outcome in samples_of(data, reading)
    ]


def header(path: str, source: str, limits: Limits) -> Head:
    """Columns and number of frames of ``path``; where its head does not hold them, from all of it.

    No key of a patient comes of it, so no salt is needed.
    """
    try:
        data = sources.head(source, path, HEAD_BYTES)
        try:
            parsed = parse_instance(data, NO_SALT, limits)
        except InstanceError:
            if len(data) < HEAD_BYTES:
                raise
            data = sources.read(source, path, max_bytes=limits.file_bytes)
            parsed = parse_instance(data, NO_SALT, limits)
        return parsed.columns, num_frames(parsed.data_set.header)
    except (FilteredError, InstanceError) as error:
        return error
    except MemoryError:
        return _no_memory()


def promised(error: FilteredError | InstanceError, source: str, path: str) -> FilteredError | InstanceError:
    """The error; another kind of file where the source or its name says DICOM is a lost instance."""
    if not isinstance(error, CompanionError) or not sources.promises_dicom(source, path):
        return error
    lost = NotDicomError(f"{error}, though its name or source says DICOM: fetch it again from its source")
    lost.content_sha256 = error.content_sha256
    return lost


def samples_of(data: bytes, reading: Reading) -> list[Outcome]:
    """Prepare the bytes of one file; an outcome for each rule of the reading."""
    digest = sha256_of_bytes(data)
    try:
        outcomes = _outcomes(data, digest, reading)
    except (FilteredError, InstanceError) as error:
        outcomes = [error] * len(reading.rules)
    except MemoryError:
        outcomes = [_no_memory()] * len(reading.rules)
    for outcome in outcomes:
        if isinstance(outcome, FilteredError | InstanceError):
            outcome.content_sha256 = digest
    return outcomes


def _outcomes(data: bytes, digest: str, reading: Reading) -> list[Outcome]:
    if len(reading.rules) == 1 and reading.route != "named" and _is_known(digest, 0, reading):
        return [_known(routing.ONLY_FIT)]  # the rule took these bytes before: no header need be parsed again
    parsed = parse_instance(data, reading.salt, reading.limits)
    routes = routing.route(parsed.columns, reading.rules, reading.route)
    outcomes = [_outcome(parsed, place, route, digest, reading) for place, route in enumerate(routes)]
    if reading.deidentified and any(isinstance(outcome, tuple) for outcome in outcomes):
        exported = deidentified.export(reading.deidentified, data, reading.salt, reading.limits)
        for outcome in outcomes:
            if isinstance(outcome, tuple):
                outcome[0][deidentified.FOLDER] = exported
    return outcomes


def _outcome(
    parsed: Parsed, place: int, route: str | FilteredError, digest: str, reading: Reading
) -> Outcome:
    """What one rule makes of an instance; the frame is decoded once for all that see it alike."""
    if isinstance(route, FilteredError):
        return route
    if _is_known(digest, place, reading):
        return _known(route)
    try:
        instance = prepare(parsed, reading.rules[place], reading.crop)
    except (FilteredError, InstanceError) as error:
        return error
    except MemoryError:
        return _no_memory()
    row = {
        **instance.columns,
        "rule": place,
        "route": route,
        "content_sha256": digest,
        "original_to_network": instance.geometry.matrix_33.reshape(-1).tolist(),
    }
    return row, instance.image_HW


def _is_known(digest: str, place: int, reading: Reading) -> bool:
    """Whether the model of a rule has scored these bytes before."""
    return reading.known is not None and reuse.is_known(reading.known, digest, place)


def _known(route: str) -> AlreadyScoredError:
    error = AlreadyScoredError("the same bytes were scored before")
    error.route = route
    return error


def _no_memory() -> DecoderMemoryError:
    return DecoderMemoryError("decoding asked for more memory than there is for one file")
