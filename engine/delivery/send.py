"""Sends the results of a score folder to a sink. Each result is sent once, in any number of runs.

Objects are built one after the other from the source file and its row, and sent by a few threads. The source
file is read again; its digest must be that of the bytes which were scored.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import sources
from engine.delivery import outbox, secondary_capture, sr, uids
from engine.delivery.dimse import SCHEME, Dimse
from engine.delivery.folder import Folder
from engine.delivery.outbox import Outbox, OutboxItem
from engine.delivery.scored import MAP, Models, Scored
from engine.delivery.sink import REFUSED, SENT, UNREACHABLE, SendResult, Sink
from engine.delivery.stow import Stow
from engine.dicom.identity import Identity, identity
from engine.errors import FilteredError, InstanceError, SinkError, UsageError
from engine.evaluation.answer import Row
from engine.ingest.decode_process import Isolation, Reader
from engine.ingest.instance import rule_from_facts
from engine.sources.dicomweb import SCHEMES
from engine.store import lease, ledger, schema
from engine.store.files import sha256_of_bytes

OnProgress = Callable[[int, int], None]

FORMS = (
    "Folder; dicomweb+http(s)://host/path (STOW-RS; OSTEORAY_DICOMWEB_TOKEN, or _USER and _PASSWORD); "
    "dimse://host:port/AET (C-STORE)"
)
GIVE_UP_AFTER = 20
"""Attempts in a row that reached nobody: the sink is down, so the delivery ends."""

_ITEM_COLUMNS = (
    "instance_index", "path", "shard", "sop_instance_uid", "content_sha256", "model_sha256",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of sink: which addresses it takes, and how it is opened."""

    name: str
    fits: Callable[[str], bool]
    open: Callable[[str], Sink]


SINKS: tuple[Kind, ...] = (
    Kind("stow", lambda to: to.startswith(SCHEMES), Stow),
    Kind("dimse", lambda to: to.startswith(SCHEME), Dimse),
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
    builder = ResultBuilder(scores)
    known_as = to if "://" in to else str(Path(to).resolve())
    folder = outbox.place(scores, known_as)
    with lease.hold(folder), outbox.opened(folder) as box:
        box.add(builder.items(options.kinds))
        box.retry(options.retry)
        sink = kind.open(to)
        try:
            sent = _Sending(box, builder, sink, options.threads, on_progress).run()
        finally:
            sink.close()
            builder.close()
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


class ResultBuilder:
    """Builds the DICOM object of an outbox item, from a score folder and its source."""

    def __init__(self, scores: Path) -> None:
        """Read the manifest.

        Raises:
            TableError: there is none, or it names no model.
            UsageError: the folder is of another verb.
        """
        self._scores, self._models = scores, Models(scores)
        manifest = self._models.manifest
        self._rules = {model["model_sha256"]: model["task"]["rule"] for model in manifest["models"]}
        self._source = str(manifest["source"])
        self._shard: tuple[int, dict[tuple[str, int], dict[str, Any]]] = (-1, {})
        self._reader: Reader | None = None
        self._last: tuple[int, Identity] | None = None

    def items(self, kinds: tuple[str, ...]) -> Iterator[OutboxItem]:
        """One item for each row of predictions that counts and each kind; superseded rows are left out.

        Raises:
            TableError: a table cannot be read.
        """
        for scored in self._models.results(_ITEM_COLUMNS):
            row, task = scored.row, scored.model.task.name
            for kind in kinds:
                place = (row["instance_index"], row["shard"], row["content_sha256"])
                yield OutboxItem(scored.uid(kind), kind, task, *place)

    def make(self, item: OutboxItem) -> bytes | SendResult:
        """The Part 10 file, or why there is none."""
        row = self._row(item)
        if row is None:
            return SendResult(REFUSED, "row_is_gone")
        scored = self._models.scored(row)
        try:
            source = self._identity(row)
            if source is None:
                return SendResult(REFUSED, "source_changed")
            return self._capture(scored, source) if item.kind == uids.MAP else sr.report(scored, source)
        except (InstanceError, FilteredError) as error:
            return SendResult(REFUSED, error.reason)

    def close(self) -> None:
        """End the process that decodes."""
        if self._reader is not None:
            self._reader.close()

    def _row(self, item: OutboxItem) -> dict[str, Any] | None:
        if self._shard[0] != item.shard:
            rows: dict[tuple[str, int], dict[str, Any]] = {}
            for path in sorted(ledger.shard_folder(self._scores, item.shard).glob("predictions*.parquet")):
                rows |= {(row["task"], row["instance_index"]): row for row in _rows_with_maps(path)}
            self._shard = (item.shard, rows)
        return self._shard[1].get((item.task, item.instance_index))

    def _identity(self, row: Row) -> Identity | None:
        """Of the source file; None where its bytes are no longer those that were scored."""
        if self._last is None or self._last[0] != row["instance_index"]:
            data = sources.read(self._source, row["path"])
            if sha256_of_bytes(data) != row["content_sha256"]:
                return None
            self._last = (row["instance_index"], identity(data))
        return self._last[1]

    def _capture(self, scored: Scored, source: Identity) -> bytes | SendResult:
        """The picture is decoded in a process of its own, as in scoring, only larger."""
        row = scored.row
        if row[MAP] is None:
            return SendResult(REFUSED, "no_map")
        rule = rule_from_facts(self._rules[scored.model.sha256])
        height, width = rule.view.size_HW
        scale = secondary_capture.SIDE_PX / max(height, width)
        view = dataclasses.replace(rule.view, size_HW=(round(height * scale), round(width * scale)))
        self._reader = self._reader or Reader(Isolation())
        (image,) = self._reader.images(self._source, dataclasses.replace(rule, view=view), [row["path"]])
        if isinstance(image, InstanceError | FilteredError):
            return SendResult(REFUSED, image.reason)
        return secondary_capture.capture(scored, source, image, row[MAP])


def _rows_with_maps(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a table of predictions, the map as uint8 [H, W]; None where the model makes none."""
    table = ledger.read_table(path)
    maps: Sequence[Any] = [None] * table.num_rows
    if MAP in table.column_names:
        maps = list(schema.tensor_values(table[MAP]))
        table = table.drop_columns([MAP])
    for row, attention_hw in zip(table.to_pylist(), maps, strict=True):
        yield {**row, MAP: attention_hw}


class _Sending:
    """The loop: build what is due, let threads send it, write down each result."""

    def __init__(
        self, box: Outbox, builder: ResultBuilder, sink: Sink, threads: int, on_progress: OnProgress | None
    ) -> None:
        self._box, self._builder, self._sink = box, builder, sink
        self._threads, self._on_progress = threads, on_progress
        self._under_way: dict[Future[SendResult], OutboxItem] = {}
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
        """Hand due items to the threads; sleeps until one is due; False when all have ended."""
        room = 2 * self._threads - len(self._under_way)
        busy = frozenset(item.uid for item in self._under_way.values())
        items = self._box.due(room, busy)
        for item in items:
            made = self._builder.make(item)
            if isinstance(made, SendResult):
                self._settle(item, made)
            else:
                self._under_way[pool.submit(self._sink.send, item.uid, made)] = item
        if items or self._under_way:
            return True
        wait_s = self._box.wait_s()
        if wait_s is None:
            return False
        time.sleep(wait_s)
        return True

    def _collect(self) -> None:
        done, _ = wait(self._under_way, return_when=FIRST_COMPLETED)
        for future in done:
            item = self._under_way.pop(future)
            result = future.result()
            self._reached_nobody = self._reached_nobody + 1 if result.verdict == UNREACHABLE else 0
            self._settle(item, result)
        if self._reached_nobody >= GIVE_UP_AFTER:
            raise SinkError(
                f"the sink could not be reached {self._reached_nobody} times in a row: check it and give the "
                "same command again, what was sent is noted"
            )

    def _settle(self, item: OutboxItem, result: SendResult) -> None:
        state = self._box.settle(item, result)
        if state != outbox.PENDING:
            self._ended += 1
            self._sent += state == SENT
            self._report()

    def _report(self) -> None:
        if self._on_progress:
            self._on_progress(self._ended, self._total)
