"""What a result object says: one scored instance, and the model that scored it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from engine.errors import TableError

RESEARCH_USE = "Research use only, not for diagnosis"
MANUFACTURER = "osteoray"
INTERVAL_COLUMNS = ("interval_low_months", "interval_high_months")
COLUMNS = (
    "instance_index", "path", "shard", "sop_instance_uid", "content_sha256", "model_sha256",
    "predicted_months", "sd_months", *INTERVAL_COLUMNS,
)  # fmt: skip
"""Of the predictions, those that a ``Scored`` is made of; tables of earlier versions have no interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """What a task measures: (code, scheme, meaning) of the quantity, and the body part as DICOM names it."""

    code: tuple[str, str, str]
    body_part: str


BONE_AGE = ("85151-9", "LN", "XR Bone age")
QUANTITIES: dict[str, Quantity] = {
    "hand-age": Quantity(code=BONE_AGE, body_part="HAND"),
    "knee-age": Quantity(code=BONE_AGE, body_part="KNEE"),
}
"""Task -> what it measures, in months."""
_NO_MODEL = "the manifest does not say which model scored: score into a new folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The model behind a score folder. ``scored_at`` is when its scoring was begun: stable over resumes."""

    sha256: str
    task: str
    name: str
    version: str
    scored_at: datetime

    @property
    def quantity(self) -> Quantity:
        """What its task measures."""
        return QUANTITIES[self.task]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One row of predictions, and the digest of the model that made it.

    ``interval`` is (low, high) in months where that model is calibrated.
    """

    instance_index: int
    path: str
    shard: int
    sop_instance_uid: str
    content_sha256: str
    model_sha256: str
    months: float
    sd_months: float
    interval: tuple[float, float] | None = None


class Models:
    """The models that a score folder's manifest names, one or several."""

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        """Read their facts.

        Raises:
            TableError: the manifest lacks a fact, or a task gives no result that can be delivered.
        """
        try:
            self._by_digest = {
                facts["model_sha256"]: Model(
                    sha256=facts["model_sha256"],
                    task=facts["task"]["name"],
                    name=f"osteoray {facts['task']['name']} {facts.get('backbone', 'model')}",
                    version=str(facts.get("code_version", manifest["code_version"])),
                    scored_at=datetime.fromisoformat(manifest["started"]),
                )
                for facts in manifest["models"]
            }
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise TableError(_NO_MODEL) from error
        if not self._by_digest:
            raise TableError(_NO_MODEL)
        for model in self._by_digest.values():
            if model.task not in QUANTITIES:
                raise TableError(f"task '{model.task}' has no result that can be delivered yet")

    @property
    def scored_at(self) -> datetime:
        """When the scoring was begun."""
        return next(iter(self._by_digest.values())).scored_at

    def of(self, scored: Scored) -> Model:
        """The model that made this row.

        Raises:
            TableError: the manifest does not name it.
        """
        if scored.model_sha256 not in self._by_digest:
            raise TableError(_NO_MODEL)
        return self._by_digest[scored.model_sha256]


def scored_of(row: Mapping[str, Any]) -> Scored:
    """The row of a predictions table."""
    low, high = (row.get(name) for name in INTERVAL_COLUMNS)
    return Scored(
        instance_index=row["instance_index"],
        path=row["path"],
        shard=row["shard"],
        sop_instance_uid=row["sop_instance_uid"],
        content_sha256=row["content_sha256"],
        model_sha256=row["model_sha256"],
        months=float(row["predicted_months"]),
        sd_months=float(row["sd_months"]),
        interval=None if low is None or high is None else (float(low), float(high)),
    )
