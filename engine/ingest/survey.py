"""What a source holds, told from headers alone: for ``--dry-run``. Writes nothing.

Only the head of a file is read, in the child that decodes, by several threads at once, since the time goes
into waiting for a disk or a server. A few instances are read and decoded in full, to say how long all of them
will take.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine import sources
from engine.dicom.decoders import require_decoder
from engine.errors import FilteredError, InstanceError, MultiFrameError
from engine.ingest import routing
from engine.ingest.decode_process import Isolation, reader
from engine.ingest.instance import InputRule
from engine.ingest.sample import NO_SALT, Head, Reading, Sample, promised
from engine.ingest.throttle import Meter
from engine.store import passed_over

MALFORMED = "malformed"
"""Counted in the place of a UID or code that is none: such text may be anything."""
_CODE_CHARACTERS = 16
_AT_ONCE = 256
_PROBED = 12
_ASKED = 100

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Taken:
    """A rule that takes an instance, why (``engine.ingest.routing``), and BodyPartExamined or nothing."""

    rule: int
    route: str
    body_part: str


@dataclass(slots=True, kw_only=True)
class Survey:
    """Counts over all members of a source."""

    planned: int = 0
    shards: int = 0
    size_bytes: int = 0
    """Of the members whose size the source says."""
    unsized: int = 0
    fits: int = 0
    """Instances that some task takes, as far as their header says."""
    taken: Counter[Taken] = field(default_factory=Counter)
    """The same by rule, reason and body part: an instance is counted for each task that takes it."""
    sop_classes: Counter[str] = field(default_factory=Counter)
    transfer_syntaxes: Counter[str] = field(default_factory=Counter)
    body_parts: Counter[str] = field(default_factory=Counter)
    """BodyPartExamined as it stands in the header; empty where it says none."""
    filtered: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    passed_over: dict[str, int] = field(default_factory=dict)
    """What has no row, by kind: links and their like."""
    headers_per_second: float = 0.0
    probe: list[Sample] = field(default_factory=list)
    """A few instances, read and decoded in full."""
    decoded_per_second: float | None = None
    """One core, measured on the probe; None where nothing fits."""
    eta_s: float | None = None
    """Time that an ingest on all cores of this machine takes, after its start."""

    def by(self, rule: int) -> Counter[Taken]:
        """What the rule at this place takes."""
        return Counter({taken: count for taken, count in self.taken.items() if taken.rule == rule})


def survey(
    source: str, rules: Sequence[InputRule], shard_size: int | None = None, *, route: routing.Open = "all",
    on_plan: Callable[[int], None] | None = None, on_progress: OnProgress | None = None,
) -> Survey:  # fmt: skip
    """Count what lies in ``source`` and what of it each of the ``rules``, one or several, takes.

    What only decoding finds out (damaged pixels) is not counted.

    Raises:
        UsageError, StorageError: the source cannot be listed.
    """
    plan = sources.plan(source, shard_size, on_plan, series_of(source, rules), apart=True)
    found = Survey(planned=plan.num_rows, shards=plan["shard"][-1].as_py() + 1)
    found.passed_over = passed_over.of(plan.schema)
    reading = Reading(source=source, rules=tuple(rules), salt=b"survey", route=route)
    probes = [_Probe(most=max(_PROBED // len(rules), 1)) for _ in rules]
    began = time.perf_counter()
    for done, (path, size, data) in enumerate(_heads(source, plan), start=1):
        found.unsized += size < 0
        found.size_bytes += max(size, 0)
        for place in _count(path, data, reading, found):
            probes[place].offer(path)
        if on_progress:
            on_progress(done, plan.num_rows)
    found.headers_per_second = found.planned / max(time.perf_counter() - began, 1e-9)
    paths = list(dict.fromkeys(path for probe in probes for path in probe.paths))
    if paths:
        _decode(paths, reading, found)
    return found


class Named(NamedTuple):
    """How many members were ``looked`` at, how many of them have a UID, and how many of those are known."""

    looked: int
    instances: int
    known: int


def named(source: str, listing: pa.Table, uids: Container[str], per_second: float | None = None) -> Named:
    """Whether ``uids`` are those of a source, by the heads of some members, evenly spread over a listing."""
    places = np.unique(np.linspace(0, listing.num_rows - 1, _ASKED).astype(int))
    heads = _heads(source, listing.take(pa.array(places)), per_second)
    found = [head[0]["sop_instance_uid"] for _, _, head in heads if isinstance(head, tuple)]
    return Named(len(places), len(found), sum(uid in uids for uid in found))


def series_of(
    source: str, rules: Sequence[InputRule], per_second: float | None = None
) -> Callable[[pa.Table], pa.Table] | None:
    """What fills the column ``series`` of a listing; None where no rule takes series.

    It reads the head of each member, at most ``per_second``, unless the source knows its series.
    """
    takes_series = any(rule.grain == "series" for rule in rules)
    return partial(_with_series, source, per_second) if takes_series else None


def _with_series(source: str, per_second: float | None, listing: pa.Table) -> pa.Table:
    if pc.any(pc.not_equal(listing["series"], "")).as_py():
        return listing
    heads = _heads(source, listing, per_second)
    series = pa.array([_series(data) for _, _, data in heads], pa.string())
    place = listing.column_names.index("series")
    return listing.set_column(place, listing.schema.field("series"), series)


def _series(data: Head) -> str:
    """SeriesInstanceUID; empty where the header has none or cannot be read."""
    return (data[0]["series_instance_uid"] or "") if isinstance(data, tuple) else ""


@dataclass(slots=True)
class _Probe:
    """At most so many paths, spread evenly over all that were offered."""

    most: int
    paths: list[str] = field(default_factory=list)
    stride: int = 1
    offered: int = 0

    def offer(self, path: str) -> None:
        if self.offered % self.stride == 0:
            self.paths.append(path)
        self.offered += 1
        if len(self.paths) > self.most:
            self.paths, self.stride = self.paths[::2], 2 * self.stride


def _heads(source: str, plan: pa.Table, per_second: float | None = None) -> Iterator[tuple[str, int, Head]]:
    """Path, size and header of every member, in the order of the plan: read in the child that decodes."""
    reading = Reading(source=source, rules=(), salt=NO_SALT)
    meter = Meter(per_second)
    at_once = min(_AT_ONCE, max(int(per_second or _AT_ONCE), 1))
    for start in range(0, plan.num_rows, at_once):
        rows = plan.slice(start, at_once)
        paths = rows["path"].to_pylist()
        for _ in paths:
            meter.take()
        found = reader(Isolation()).headers(reading, paths)
        yield from zip(paths, rows["size_bytes"].to_pylist(), found, strict=True)


def _uid(text: str) -> str:
    return text if re.fullmatch(r"[0-9.]{1,64}", text, re.ASCII) else MALFORMED


def _code(text: str) -> str:
    """A coded string (PS3.5 6.2): 16 characters at most, none of which moves a cursor."""
    return text if len(text) <= _CODE_CHARACTERS and text.isprintable() else MALFORMED


def _count(path: str, data: Head, reading: Reading, found: Survey) -> list[int]:
    """Put one member into the counts; the places of the rules that take it."""
    try:
        if not isinstance(data, tuple):
            raise data
        columns, frames = data
        found.sop_classes[_uid(columns["sop_class_uid"])] += 1
        found.transfer_syntaxes[_uid(columns["transfer_syntax_uid"])] += 1
        body_part = _code(columns["body_part_examined"] or "")
        found.body_parts[body_part] += 1
        routes = dict(enumerate(routing.route(columns, reading.rules, reading.route)))
        taken = {place: reason for place, reason in routes.items() if isinstance(reason, str)}
        if not taken:
            raise routing.furthest([one for one in routes.values() if isinstance(one, FilteredError)])
        if frames > 1:
            raise MultiFrameError("several frames")
        require_decoder(columns["transfer_syntax_uid"])
    except (FilteredError, InstanceError) as refused:
        error = promised(refused, reading.source, path)
        ends = found.filtered if isinstance(error, FilteredError) else found.quarantined
        ends[error.reason] += 1
    else:
        found.fits += 1
        found.taken.update(Taken(place, reason, body_part) for place, reason in taken.items())
        return list(taken)
    return []


def _decode(paths: list[str], reading: Reading, found: Survey) -> None:
    """Measure real reading on a few instances: the first one alone starts the process that decodes."""
    reading_process = reader(Isolation())
    reading_process.read(reading, paths[:1])
    began = time.perf_counter()
    outcomes = [outcome for of_path in reading_process.read(reading, paths) for outcome in of_path]
    wall_s = max(time.perf_counter() - began, 1e-9)
    found.probe = [outcome for outcome in outcomes if not isinstance(outcome, InstanceError | FilteredError)]
    found.decoded_per_second = len(paths) / wall_s
    found.eta_s = found.fits / found.decoded_per_second / (os.cpu_count() or 1)
