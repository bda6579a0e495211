"""What a task answers, as plain functions and columns: the contract between a task and the engine.

No torch here: scoring, reports and deliveries read an Answer without it. How an answer is learnt is
``engine.training.learning``. Legend: B instances of a batch, N instances of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.evaluation.held_out import Bools, HeldOut

Raw = Mapping[str, NDArray[Any]]
"""Outputs of the deployed graph by name, first axis B."""
Row = Mapping[str, Any]
"""One sample (header columns, ``original_to_network``, table covariates) or one row of predictions."""
Facts = Mapping[str, Any]
"""JSON-able facts."""
TRAINING_MEANS = "training_means"
"""In a calibration: the mean of each label over the training split."""
FEW = 20
"""Below this many instances the figures of a group may be chance."""
Values = Sequence[Any] | NDArray[Any]
"""One column [B] of rows; None where a nullable column has no value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of the predictions table, of the HTTP response and of the tables for people."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str
    decimals: int | None = 2
    """In tables and captures for people; None writes the value as it is."""
    nullable: bool = False

    def field(self) -> pa.Field:
        """The column of a Parquet table."""
        return pa.field(self.name, self.type, nullable=self.nullable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One check of a compiled engine against torch: ``departure`` above ``limit`` refuses the engine.

    ``departure`` takes the outputs of torch, those of the engine and the labels of the same samples by column
    (NaN where one is absent).
    """

    name: str
    unit: str
    limit: float
    departure: Callable[[Raw, Raw, Raw], float]


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept of DICOM and FHIR: value, coding scheme, meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measured or judged value of an instance, for SR and FHIR.

    A number has a UCUM ``unit``; a Code is a qualitative evaluation. ``point_xy`` is where a number was
    measured, (column, row) in original pixels, zero at the centre of the top-left one.
    """

    name: Code
    value: float | Code
    unit: Code | None = None
    derivation: Code | None = None
    point_xy: tuple[float, float] | None = None
    words: str = ""
    """``name`` in words for FHIR; empty takes its meaning."""
    unit_words: str = ""
    """``unit`` in words for FHIR; empty takes its meaning."""
    decimals: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number about held-out predictions, with its 95 % interval; None where the data do not say."""

    key: str
    words: str
    value: float | None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    decimals: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Figures of a part of the instances, such as one sex or age band; ``heading`` opens a block of rows."""

    name: str
    heading: str
    instances: int
    patients: int | None = None
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How good an answer is: the headline (lower is better), further figures, and the same by group."""

    headline: Figure
    more: tuple[Figure, ...] = ()
    groups: tuple[Group, ...] = ()

    def facts(self) -> dict[str, Any]:
        """JSON-able facts; ``figures_from_facts`` reads them back."""
        return asdict(self)


def figures_from_facts(facts: Facts) -> Figures:
    """The Figures that ``Figures.facts`` described."""

    def read(figures: Iterable[Facts]) -> tuple[Figure, ...]:
        return tuple(Figure(**figure) for figure in figures)

    groups = [Group(**{**group, "figures": read(group["figures"])}) for group in facts["groups"]]
    (headline,) = read([facts["headline"]])
    return Figures(headline=headline, more=read(facts["more"]), groups=tuple(groups))


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A paragraph of a report, under a heading of its own where it has a ``title``."""

    words: str
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table of a report: column headings and rows of cells that are already words; ``note`` goes below."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    small: tuple[bool, ...] = ()
    """By row, whether it is of so few instances that it may be chance; empty where none is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A plot of a report, drawn by ``engine.report.plots``: its kind, words of the axes, and the numbers."""

    kind: Literal["scatter", "difference", "histogram", "matrix", "curve", "bars"]
    title: str
    x: str
    y: str
    series: Mapping[str, NDArray[Any]]
    """Arrays by name; which names a kind takes stands beside its drawing."""
    note: str = ""


Block = Text | Grid | Plot


def _no_bands(held: HeldOut) -> Iterable[tuple[str, Bools]]:
    """No group but those of sex."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer of one kind of task. See the fields; each is used where its comment says."""

    outputs: tuple[str, ...]
    """Outputs of the deployed graph of its own; ``attention`` (optional) and ``embedding`` follow."""
    columns: tuple[Column, ...]
    """Of the predictions, beside header and provenance."""
    value: str | None
    """The column of which histogram, drift, changes and the distance of two models are drawn."""
    doubt: str
    """The column that is larger where the answer is less sure: abstention, least sure cases."""
    rows: Callable[[Raw, Sequence[Row], Facts], dict[str, Values]]
    """Graph outputs, samples and calibration to exactly ``columns``."""
    gates: tuple[Gate, ...]
    """All must hold when a run is exported."""
    error: Callable[[HeldOut], NDArray[np.float64]]
    """[N] per instance, not below zero, lower is better: comparisons, worst cases."""
    error_unit: str = ""
    bands: Callable[[HeldOut], Iterable[tuple[str, Bools]]] = _no_bands
    """Groups in which two models are compared, beside those of sex: name and members [N]."""
    figures: Callable[[HeldOut, Facts], Figures]
    """Of held-out predictions and the calibration: run.json, card, report, studies."""
    blocks: Callable[[HeldOut, Facts], list[Block]]
    """The task's own part of a report."""
    measurements: Callable[[Row], list[Measurement]]
    """Of a row of predictions: SR and FHIR."""
    sentence: Callable[[Row], str]
    """Of a row of predictions, for captions: "Bone age 124 months, sd 9"."""

    def unit_of(self, column: str | None) -> str:
        """The unit of a column; empty where there is none."""
        return next((one.unit for one in self.columns if one.name == column), "")
