"""Scores -> objects -> a sink: what is scored is sent once, in any number of runs.

Objects are built one after the other from the source file and its row, and sent by a few threads. The
source is read again through the guard: its digest must be that of the bytes which were scored.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine import sources
from engine.delivery import outbox, secondary_capture, sr, uids
from engine.delivery.dimse import Dimse, is_dimse
from engine.delivery.folder import Folder
from engine.delivery.outbox import Outbox, Parcel
from engine.delivery.scored import COLUMNS, Models, Scored, scored_of
from engine.delivery.sink import REFUSED, SENT, UNREACHABLE, Answer, Sink
from engine.delivery.stow import Stow, is_stow
from engine.dicom.identity import Identity, identity
from engine.errors import FilteredError, InstanceError, SinkError, UsageError
from engine.ingest.decode_process import Isolation, Reader
from engine.ingest.instance import rule_from_facts
from engine.ingest.sample import Reading
from engine.store import lease, ledger, schema
from engine.store.files import MANIFEST_NAME, read_json, sha256_of_bytes

OnProgress = Callable[[int, int], None]

FORMS = (
    "Folder; dicomweb+http(s)://host/path (STOW-RS; OSTEORAY_DICOMWEB_TOKEN, or _USER and _PASSWORD); "
    "dimse://host:port/AET (C-STORE)"
)
GIVE_UP_AFTER = 20
"""Attempts in a row that reached nobody: the sink is down, and asking on would take the night."""

_NO_SALT = bytes(32)  # the patient's key that the reader makes with it is thrown away


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of sink: how it is told from others, and how it is opened."""

    name: str
    fits: Callable[[str], bool]
    open: Callable[[str], Sink]


SINKS: tuple[Kind, ...] = (
    Kind("stow", is_stow, Stow),
    Kind("dimse", is_dimse, Dimse),
    Kind("folder", lambda to: "://" not in to, Folder),
)
"""One line for each kind; the first that fits is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is sent, and how: ``kinds`` of ``uids.KINDS``, reasons to try again, threads."""

    kinds: tuple[str, ...] = (uids.SR,)
    retry: tuple[str, ...] = ()
    threads: int = 4


def deliver(scores: Path, to: str, options: Options, on_progress: OnProgress | None = None) -> dict[str, Any]:
    """Send the results of every scored instance of ``scores`` that ``to`` does not have yet.

    Returns objects by state (``pending``, ``sent``, ``failed``), ``uid_conflict``, ``sent_this_run`` and
    ``failures`` by reason.

    Raises:
        UsageError: ``to`` is no sink, or ``scores`` no score folder.
        SinkError: the sink takes nothing; what was sent is noted, the same call goes on.
        LeaseHeldError: another delivery to this sink is under way.
        TableError: a table or the outbox is damaged.
    """
    kind = kind_of(to)
    maker = Maker(scores)
    known_as = to if "://" in to else str(Path(to).resolve())
    folder = outbox.place(scores, known_as)
    with lease.hold(folder), outbox.opened(folder) as box:
        box.add(maker.parcels(options.kinds))
        box.retry(options.retry)
        sink = kind.open(to)
        try:
            sent = _Sending(box, maker, sink, options.threads, on_progress).run()
        finally:
            sink.close()
            maker.close()
        return {**box.counts(), "sent_this_run": sent, "failures": box.failures()}


def kind_of(to: str) -> Kind:
    """The kind of sink that ``to`` names.

    Raises:
        UsageError: none.
    """
    kind = next((kind for kind in SINKS if kind.fits(to)), None)
    if kind is None:
        raise UsageError(f"--to takes: {FORMS}")
    return kind


class Maker:
    """Builds the object of a parcel from a score folder and its source."""

    def __init__(self, scores: Path) -> None:
        """Read the manifest.

        Raises:
            TableError: there is none, or it names no model.
            UsageError: the folder is of another verb.
        """
        manifest = read_json(scores / MANIFEST_NAME)
        if manifest.get("kind") != "score":
            raise UsageError(f"{scores} is no folder of `osteoray score`: there is nothing to deliver")
        self._scores = scores
        self._models = Models(manifest)
        self._rules = {model["model_sha256"]: model["task"]["rule"] for model in manifest["models"]}
        self._source = str(manifest["source"])
        self._shard: tuple[int, dict[int, dict[str, Any]]] = (-1, {})
        self._reader: Reader | None = None
        self._last: tuple[int, Identity] | None = None

    def parcels(self, kinds: tuple[str, ...]) -> Iterator[Parcel]:
        """One parcel for each scored instance that counts (no superseded version) and each kind."""
        for row in scored_rows(self._scores):
            for kind in kinds:
                model = self._models.of(row)
                uid = uids.result_uid(row.sop_instance_uid, model.sha256, model.task, kind)
                yield Parcel(uid, kind, row.instance_index, row.shard, row.content_sha256)

    def make(self, parcel: Parcel) -> bytes | Answer:
        """The Part 10 file, or why there is none."""
        row = self._row(parcel)
        if row is None:
            return Answer(REFUSED, "row_is_gone")
        scored = scored_of(row)
        try:
            source = self._identity(scored)
            if source is None:
                return Answer(REFUSED, "source_changed")
            if parcel.kind == uids.MAP:
                return self._capture(scored, row, source)
            return sr.report(scored, self._models.of(scored), source)
        except (InstanceError, FilteredError) as error:
            return Answer(REFUSED, error.reason)

    def close(self) -> None:
        """End the process that decodes."""
        if self._reader is not None:
            self._reader.close()

    def _row(self, parcel: Parcel) -> dict[str, Any] | None:
        if self._shard[0] != parcel.shard:
            table = ledger.read_table(self._scores / "shards" / f"{parcel.shard:05d}" / "predictions.parquet")
            maps_Nhw = schema.tensor_values(table["attention_map"])
            rows = table.drop_columns(["attention_map"]).to_pylist()
            by_index = {
                row["instance_index"]: {**row, "map": m} for row, m in zip(rows, maps_Nhw, strict=True)
            }
            self._shard = (parcel.shard, by_index)
        return self._shard[1].get(parcel.instance_index)

    def _identity(self, scored: Scored) -> Identity | None:
        """Of the source file; None where its bytes are no longer those that were scored."""
        if self._last is None or self._last[0] != scored.instance_index:
            data = sources.read(self._source, scored.path)
            if sha256_of_bytes(data) != scored.content_sha256:
                return None
            self._last = (scored.instance_index, identity(data))
        return self._last[1]

    def _capture(self, scored: Scored, row: Mapping[str, Any], source: Identity) -> bytes | Answer:
        """The picture is decoded in a process of its own, as in scoring, only larger."""
        rule = rule_from_facts(self._rules[scored.model_sha256])
        height, width = rule.view.size_HW
        scale = secondary_capture.SIDE_PX / max(height, width)
        view = dataclasses.replace(rule.view, size_HW=(round(height * scale), round(width * scale)))
        reading = Reading(source=self._source, rule=dataclasses.replace(rule, view=view), salt=_NO_SALT)
        self._reader = self._reader or Reader(Isolation())
        (outcome,) = self._reader.read(reading, [scored.path])
        if isinstance(outcome, InstanceError | FilteredError):
            return Answer(REFUSED, outcome.reason)
        model = self._models.of(scored)
        return secondary_capture.capture(scored, model, source, outcome[1], np.asarray(row["map"]))


def scored_rows(scores: Path) -> Iterator[Scored]:
    """Every scored row that counts, shard after shard; rows of superseded versions are left out.

    Raises:
        TableError: a table cannot be read.
    """
    gone = set(ledger.superseded(scores).to_pylist())
    for path in ledger.tables_of(scores, "predictions"):
        table = ledger.read_present(path, COLUMNS)
        for row in table.to_pylist():
            if row["instance_index"] not in gone:
                yield scored_of(row)


class _Sending:
    """The loop: build what is due, let threads send it, write down each answer."""

    def __init__(
        self, box: Outbox, maker: Maker, sink: Sink, threads: int, on_progress: OnProgress | None
    ) -> None:
        self._box, self._maker, self._sink = box, maker, sink
        self._threads, self._on_progress = threads, on_progress
        self._under_way: dict[Future[Answer], Parcel] = {}
        self._reached_nobody = 0
        counts = box.counts()
        self._total = sum(counts[state] for state in outbox.STATES)
        self._ended = self._total - counts[outbox.PENDING]
        self._sent = 0

    def run(self) -> int:
        """Objects that were sent now.

        Raises:
            SinkError: the sink takes nothing.
        """
        self._report()
        with ThreadPoolExecutor(self._threads) as pool:
            while self._fill(pool) or self._under_way:
                if self._under_way:
                    self._collect()
        return self._sent

    def _fill(self, pool: ThreadPoolExecutor) -> bool:
        """Give the threads something to do; sleeps until something is due; False when all has ended."""
        room = 2 * self._threads - len(self._under_way)
        busy = frozenset(parcel.uid for parcel in self._under_way.values())
        parcels = self._box.due(room, busy)
        for parcel in parcels:
            made = self._maker.make(parcel)
            if isinstance(made, Answer):
                self._settle(parcel, made)
            else:
                self._under_way[pool.submit(self._sink.send, parcel.uid, made)] = parcel
        if parcels or self._under_way:
            return True
        wait_s = self._box.wait_s()
        if wait_s is None:
            return False
        time.sleep(wait_s)
        return True

    def _collect(self) -> None:
        done, _ = wait(self._under_way, return_when=FIRST_COMPLETED)
        for future in done:
            parcel = self._under_way.pop(future)
            answer = future.result()
            self._reached_nobody = self._reached_nobody + 1 if answer.verdict == UNREACHABLE else 0
            self._settle(parcel, answer)
        if self._reached_nobody >= GIVE_UP_AFTER:
            raise SinkError(
                f"the sink could not be reached {self._reached_nobody} times in a row: check it and give the "
                "same command again, what was sent is noted"
            )

    def _settle(self, parcel: Parcel, answer: Answer) -> None:
        state = self._box.settle(parcel, answer)
        if state != outbox.PENDING:
            self._ended += 1
            self._sent += state == SENT
            self._report()

    def _report(self) -> None:
        if self._on_progress:
            self._on_progress(self._ended, self._total)
