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

from engine import sources
from engine.dicom.parse import Limits
from engine.errors import AlreadyScoredError, DecoderMemoryError, FilteredError, InstanceError
from engine.imaging.boxes import Crop, crop_from_facts
from engine.ingest import deidentified, reuse, routing
from engine.ingest.instance import InputRule, open_instance, rule_from_facts, viewed
from engine.store.files import sha256_of_bytes

Row = dict[str, Any]
Sample = tuple[Row, NDArray[np.uint8]]
"""Header columns, ``content_sha256`` and ``original_to_network``; and the network's image [rows, columns].

``rule`` is the place of the rule that took it, ``route`` the reason (``engine.ingest.routing``).
With an export of de-identified files, the columns also hold what ``deidentified.export`` gave.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What turns a path of ``source`` into a sample; ``salt`` is for the patients' keys."""

    source: str
    rule: InputRule
    salt: bytes
    further_rules: tuple[InputRule, ...] = ()
    """Of the other bundles that a member may go to; one rule takes it, and shows it its way."""
    is_named: bool = False
    """Whether a rule takes only what its header names (``engine.ingest.routing``)."""
    limits: Limits = Limits()
    deidentified: Path | None = None
    """Folder that takes a de-identified file of each sample."""
    known: Path | None = None
    """Index of what was scored before (``engine.ingest.reuse``); its bytes are not decoded again."""
    crop: Crop | None = None
    """The part of each instance that is shown; None is all of it."""

    @property
    def rules(self) -> tuple[InputRule, ...]:
        """All rules, in the order in which their bundles were named."""
        return (self.rule, *self.further_rules)

    def facts(self) -> dict[str, Any]:
        """JSON-able facts; ``reading_from_facts`` reads them back. They hold the salt: never log them."""
        return {
            "source": self.source,
            "rules": [rule.facts() for rule in self.rules],
            "salt": base64.b64encode(self.salt).decode(),
            "is_named": self.is_named,
            "limits": asdict(self.limits),
            "deidentified": str(self.deidentified) if self.deidentified else None,
            "known": str(self.known) if self.known else None,
            "crop": self.crop.facts() if self.crop else None,
        }


def reading_from_facts(facts: Mapping[str, Any]) -> Reading:
    """The Reading that ``Reading.facts`` described."""
    rule, *further = (rule_from_facts(one) for one in facts["rules"])
    return Reading(
        source=facts["source"],
        rule=rule,
        further_rules=tuple(further),
        salt=base64.b64decode(facts["salt"]),
        is_named=facts["is_named"],
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
    return sample_of(sources.read(reading.source, path, max_bytes=reading.limits.file_bytes), reading)


def sample_of(data: bytes, reading: Reading) -> Sample:
    """Prepare the bytes of one file.

    Raises:
        InstanceError, FilteredError: the bytes give no sample (its ``reason`` says why).
    """
    digest = sha256_of_bytes(data)
    is_routed = bool(reading.further_rules) or reading.is_named
    try:
        if not is_routed:  # the rule took these bytes before: the header need not be parsed again
            _require_unknown(digest, routing.Route(0, routing.ONLY_FIT), reading)
        opened = open_instance(data, reading.salt, reading.limits)
        taken = routing.route(opened.columns, reading.rules, is_named=reading.is_named)
        if is_routed:
            _require_unknown(digest, taken, reading)
        instance = viewed(opened, reading.rules[taken.rule], digest, reading.limits, reading.crop)
    except MemoryError as error:
        raise DecoderMemoryError("decoding asked for more memory than there is for one file") from error
    except (FilteredError, InstanceError) as error:
        error.content_sha256 = digest
        raise
    row = {
        **instance.columns,
        "rule": taken.rule,
        "route": taken.reason,
        "content_sha256": instance.content_sha256,
        "original_to_network": instance.geometry.matrix_33.reshape(-1).tolist(),
    }
    if reading.deidentified:
        row[deidentified.FOLDER] = deidentified.export(
            reading.deidentified, data, reading.salt, reading.limits
        )
    return row, instance.image_HW


def _require_unknown(digest: str, taken: routing.Route, reading: Reading) -> None:
    """Return where the model of the rule that takes these bytes has not scored them before.

    Raises:
        AlreadyScoredError: it has; carries the route.
    """
    if reading.known and reuse.is_known(reading.known, digest, taken.rule):
        error = AlreadyScoredError("the same bytes were scored before")
        error.route = (taken.rule, taken.reason)
        raise error
