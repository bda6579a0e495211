"""The outbox: what is to be sent to one sink, and what was sent. A kill at any moment loses nothing.

    SCORES/outbox/<digest of sink>/outbox.sqlite3      one row an object, each change durable before the next
    SCORES/outbox/<digest of sink>/.leases             held while somebody sends (``engine.store.lease``)

An object is ``pending``, ``sent`` or ``failed``. It is marked as sent after the sink confirmed it: a kill in
between sends it again under the same UID, which makes no second object. After a transient failure
(``sink.TRANSIENT``) it stays pending, with a wait that doubles; after ``ATTEMPTS`` of them, or a refusal, it
has failed with its reason. No row holds identity: a UID of ours, and the instance's number in the ledger.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

from engine.delivery.sink import SENT, TRANSIENT, SendResult
from engine.errors import StorageError, TableError
from engine.store.files import PRIVATE, now, sha256_of_bytes

PENDING, FAILED = "pending", "failed"
STATES = (PENDING, SENT, FAILED)
ATTEMPTS = 5
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0
CONFLICT = "uid_conflict"
"""Two instances of different bytes share a SOP instance UID, so their results would share one, too."""

_PRIMARY = 0xFF  # of an extended error code of SQLite
_REFUSED_BY_DISK = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    uid TEXT PRIMARY KEY, kind TEXT NOT NULL, task TEXT NOT NULL, instance_index INTEGER NOT NULL,
    shard INTEGER NOT NULL, content_sha256 TEXT NOT NULL, state TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '', attempts INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL DEFAULT 0, ended TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS conflicts (
    instance_index INTEGER NOT NULL, uid TEXT NOT NULL, PRIMARY KEY (instance_index, uid)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_state ON objects (state, shard, instance_index, task, kind);
"""


_ITEM = "uid, kind, task, instance_index, shard, content_sha256"


@dataclass(frozen=True, slots=True)
class OutboxItem:
    """One object to be sent: its UID and kind, and the task and instance that it is the result of."""

    uid: str
    kind: str
    task: str
    instance_index: int
    shard: int
    content_sha256: str


def place(scores: Path, sink: str) -> Path:
    """The folder of the outbox of one sink; ``sink`` is the address, or the whole path of a folder."""
    return scores / "outbox" / sha256_of_bytes(sink.encode())[:16]


class Outbox:
    """An open outbox. For one thread; hold the folder's lease."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Take a connection that ``opened`` made."""
        self._db = connection

    def add(self, items: Iterable[OutboxItem]) -> None:
        """Add what is to be sent. A known item stays; one of other bytes under its UID is a conflict."""
        for item in items:
            fresh = self._db.execute(
                f"INSERT OR IGNORE INTO objects ({_ITEM}, state) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*astuple(item), PENDING),
            ).rowcount
            if not fresh:
                self._note_conflict(item)
        self._db.commit()

    def retry(self, reasons: Iterable[str]) -> None:
        """Make failed objects pending again: after transient failures, and those of ``reasons``."""
        wanted = set(reasons)
        rows = self._db.execute("SELECT DISTINCT reason FROM objects WHERE state = ?", (FAILED,)).fetchall()
        for (reason,) in rows:
            if (
                reason.partition(":")[0] in TRANSIENT
                or reason in wanted
                or reason.partition(":")[2] in wanted
            ):
                self._db.execute(
                    "UPDATE objects SET state = ?, attempts = 0, due = 0 WHERE state = ? AND reason = ?",
                    (PENDING, FAILED, reason),
                )
        self._db.commit()

    def due(self, count: int, busy: frozenset[str], at: float | None = None) -> list[OutboxItem]:
        """Up to ``count`` pending objects whose wait is over, in the order of shards, none of ``busy``."""
        rows = self._db.execute(
            f"SELECT {_ITEM} FROM objects WHERE state = ? AND NOT due BETWEEN ? AND ? "
            "ORDER BY shard, instance_index, task, kind LIMIT ?",
            (PENDING, *_later(time.time() if at is None else at), count + len(busy)),
        )
        return [OutboxItem(*row) for row in rows if row[0] not in busy][:count]

    def wait_s(self) -> float | None:
        """Seconds until the next pending object is due, at most ``LONGEST_WAIT_S``; None without one."""
        now_s = time.time()
        (first,) = self._db.execute(
            "SELECT MIN(CASE WHEN due BETWEEN ? AND ? THEN due ELSE 0 END) FROM objects WHERE state = ?",
            (*_later(now_s), PENDING),
        ).fetchone()
        return None if first is None else max(first - now_s, 0.0)

    def settle(self, item: OutboxItem, result: SendResult) -> str:
        """Write down the result of one attempt, durably; returns the state that the object has now."""
        (attempts,) = self._db.execute(
            "SELECT attempts + 1 FROM objects WHERE uid = ?", (item.uid,)
        ).fetchone()
        state, due, reason = SENT, 0.0, result.reason
        if result.verdict != SENT:
            reason = f"{result.verdict}:{result.reason}"
            is_over = result.verdict not in TRANSIENT or attempts >= ATTEMPTS
            state = FAILED if is_over else PENDING
            due = time.time() + min(FIRST_WAIT_S * 2 ** (attempts - 1), LONGEST_WAIT_S)
        self._db.execute(
            "UPDATE objects SET state = ?, reason = ?, attempts = ?, due = ?, ended = ? WHERE uid = ?",
            (state, reason, attempts, due, now() if state != PENDING else "", item.uid),
        )
        self._db.commit()
        return state

    def counts(self) -> dict[str, int]:
        """Objects by state, and the instances whose results cannot have a UID of their own."""
        found = dict(self._db.execute("SELECT state, COUNT(*) FROM objects GROUP BY state").fetchall())
        (conflicts,) = self._db.execute("SELECT COUNT(*) FROM conflicts").fetchone()
        return {**{state: int(found.get(state, 0)) for state in STATES}, CONFLICT: int(conflicts)}

    def failures(self) -> dict[str, int]:
        """Failed objects by reason."""
        rows = self._db.execute(
            "SELECT reason, COUNT(*) FROM objects WHERE state = ? GROUP BY reason ORDER BY reason", (FAILED,)
        )
        return {str(reason): int(count) for reason, count in rows}

    def _note_conflict(self, item: OutboxItem) -> None:
        (known,) = self._db.execute(
            "SELECT content_sha256 FROM objects WHERE uid = ?", (item.uid,)
        ).fetchone()
        if known != item.content_sha256:
            self._db.execute("INSERT OR IGNORE INTO conflicts VALUES (?, ?)", (item.instance_index, item.uid))


def _later(now_s: float) -> tuple[float, float]:
    """Times of objects that are not due yet; one that lies beyond was set before the clock was put back."""
    return math.nextafter(now_s, math.inf), now_s + LONGEST_WAIT_S


@contextmanager
def opened(folder: Path) -> Iterator[Outbox]:
    """The outbox in ``folder``, made where there is none.

    Raises:
        TableError: the file is no outbox, or was damaged.
        StorageError: the disk is full, read-only or broken.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "outbox.sqlite3"
    try:
        path.touch(PRIVATE)  # what SQLite puts beside it has the same mode
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_SCHEMA)
            yield Outbox(connection)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & _PRIMARY in _REFUSED_BY_DISK:
            raise StorageError(
                f"the disk refuses {path} ({error}): mend that, then give the same command again to go on"
            ) from error
        raise TableError(
            f"{path} is no outbox or was damaged: remove it and deliver again, no object will be doubled"
        ) from error
