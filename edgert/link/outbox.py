"""Records that wait for the server's commit: numbered, stored, and kept until the watermark says that they are there.

One SQLite file in WAL mode, or memory alone, or memory that spills into the file when the server stays away. Sending is
left to `publisher`, what gives way to a full store to `room`.
"""

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from edgert.errors import BadInput
from edgert.host import boot_id
from edgert.link.numbers import Numbers, NumbersFile, mint_epoch
from edgert.link.ranges import Range, as_ranges, joined, without
from edgert.link.room import KEPT, PRIORITIES, Room, Run
from edgert.link.settings import LIMITS, Limits
from edgert.record import KINDS, Birth, Body, Details, Event, Events, Loss, Record, Schema, Stamp, Watermark
from edgert.wire import decode, encode, schema_hash

LOSSES_PER_RECORD = 500
NUMBERS_SUFFIX = ".numbers"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS record (seq INTEGER PRIMARY KEY, kind TEXT, priority INTEGER, put_ms INTEGER, payload BLOB);
CREATE TABLE IF NOT EXISTS lost (id INTEGER PRIMARY KEY, epoch BLOB, first INTEGER, last INTEGER, reason TEXT);
CREATE TABLE IF NOT EXISTS told (first INTEGER, last INTEGER);
"""
_PRAGMAS = (
    "auto_vacuum=INCREMENTAL",  # before the file has a page
    "journal_mode=WAL",
    "synchronous=NORMAL",
    "wal_autocheckpoint=64",
    "journal_size_limit=300000",
    "busy_timeout=5000",
)
_MOST_SEQ = (1 << 63) - 1

SPILL_AT = 0.8
"""An outbox that spills goes to disk at this share of what memory may hold."""

SPILL_AGAIN_S = 300.0
JUMP_S = 30.0
"""A wall clock that moves so much more or less than the monotonic one was set."""

FREE_PAGES = 256

T = TypeVar("T")

Sign = Callable[[str, bytes], bytes]
"""From a kind of record and the bytes to sign to a signature of 64 bytes."""


@dataclass(frozen=True)
class Waiting:
    """A stored record: its number, the kind that names its topic, and its bytes."""

    seq: int
    kind: str
    payload: bytes


@dataclass(frozen=True)
class Depth:
    """How much waits: records, bytes of payload, and how long the oldest has been there."""

    records: int
    bytes: int
    oldest_s: float


class Outbox:
    """The store of one device; `path` None keeps it in memory. Each method is one transaction, from any thread.

    What happens to the disk never ends in an error of `put`: the outbox goes on in memory under a new epoch, the file
    is renamed, and an event says so. What waits in memory is lost with the process, and declared at the next start
    where the numbers file could be written.
    """

    def __init__(
        self,
        path: Path | None,
        limits: Limits = LIMITS,
        clock: Callable[[], float] = time.time,
        *,
        sign: Sign | None = None,
        mono: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits, self._sign = limits, sign
        self._path, self._clock, self._mono, self._lock = path, clock, mono, threading.Lock()
        self._read_at = clock(), mono()
        self._spills = path is not None and limits.spill_s is not None
        self._schemas, self._online, self._sent = dict[bytes, Schema](), False, 0
        self._spill_again_s = 0.0
        self._file = None if path is None else NumbersFile(path.with_name(path.name + NUMBERS_SUFFIX))
        self._resets = list[tuple[str, str]]()
        self._open()
        with self._lock:
            self._tell_resets()

    @property
    def epoch(self) -> bytes:
        """The epoch of the numbers that are given now."""
        return self._numbers.epoch

    @property
    def following(self) -> int:
        """The number that the next record gets."""
        return self._numbers.following

    def put(self, items: Sequence[tuple[Stamp, Body]]) -> list[int]:
        """Number and store bodies in one transaction, drop what there is no room for, and return the numbers.

        BadInput for a body that no payload can hold; then none of them is stored.
        """
        with self._lock:
            numbers = self._sturdy(lambda: self._put(items))
            self._spill_if_due()
            return numbers

    def begin_sending(self) -> None:
        """Note that from now on all that is here, and all that comes, may reach the server: it is merged no more."""
        with self._lock:
            self._online = True
            self._sturdy(self._note_sent)

    def end_sending(self) -> None:
        """Note that what comes now stays here."""
        with self._lock:
            self._online = False

    def waiting(self, after: int, limit: int) -> list[Waiting]:
        """Return at most `limit` stored records whose number is above `after`, in order."""
        sql = "SELECT seq, kind, payload FROM record WHERE seq > ? ORDER BY seq LIMIT ?"
        with self._lock:
            return [Waiting(*row) for row in self._sturdy(lambda: self._read(sql, after, limit))]

    def settle(self, mark: Watermark) -> list[Range]:
        """Delete what a watermark says is committed; return what it misses of what is here.

        What it misses and is not here is lost, and will be declared. One of another epoch does nothing.
        """
        with self._lock:
            return self._sturdy(lambda: self._settle(mark))

    def is_old_copy(self, mark: Watermark, sent: int | None = None) -> bool:
        """Say whether the server has numbers that it cannot have from this store: then that is a copy from the past.

        `sent` is the highest number sent since the program began; None where all that were given may have been.
        """
        known = self.following if sent is None else max(self._began, sent + 1)
        return mark.epoch == self.epoch and mark.upto >= known

    def renumber(self, first: Sequence[tuple[Stamp, Body]] = ()) -> None:
        """Mint a new epoch that begins with `first`, and give all that waits new numbers in it."""
        with self._lock:
            self._sturdy(lambda: self._renumber(first))

    def declare(self, at: Stamp) -> list[int]:
        """Store records that declare what is lost, if anything is; return their numbers."""
        found = list[int]()
        while True:
            with self._lock:
                number = self._sturdy(lambda: self._declare(at))
            if number is None:
                return found
            found.append(number)

    def depth(self) -> Depth:
        """Return how much waits."""
        sql = "SELECT count(*), total(length(payload)), min(put_ms) FROM record"
        with self._lock:
            ((count, size, oldest),) = self._sturdy(lambda: self._read(sql))
        return Depth(count, int(size), 0.0 if oldest is None else max(0.0, self._clock() - oldest / 1000))

    def close(self) -> None:
        """Make all that was put durable, and close the file."""
        with self._lock:
            try:
                if self._spills and not self.on_disk:
                    self._to_disk()
                self._database.execute("PRAGMA synchronous=FULL")
                self._database.execute("INSERT OR REPLACE INTO meta VALUES ('clean', 1)")
            except (sqlite3.Error, OSError):
                pass  # the next start takes it for a crash, which costs numbers, not records
            self._database.close()

    def _open(self) -> None:
        """Open the file; where it is damaged another in its place; where there can be none, memory."""
        for attempt in (self._path, self._path, None):
            try:
                self.on_disk = attempt is not None
                self._connect(attempt)
            except (sqlite3.Error, OSError, ValueError, TypeError) as exc:
                self._set_aside(exc)
                continue
            return

    def _connect(self, path: Path | None) -> None:
        """Open a database, go on with its numbers, and declare lost what of earlier ones is not in it."""
        self._database = _opened(path)
        ((verdict,),) = self._read("PRAGMA quick_check(1)")
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        self._database.executescript(_SCHEMA)
        known, machine = dict(self._read("SELECT key, value FROM meta")), boot_id()
        epoch, following = known.get("epoch") or mint_epoch(), int(known.get("following", 1))
        given = dict(self._file.upto) if self._file is not None else {}
        upto = given.pop(epoch, 0)
        lost = [(other, 1, last) for other, last in given.items()]
        safe = known.get("clean") or (machine and machine == known.get("machine"))
        if upto >= following and not safe:
            lost.append((epoch, following, upto))
            following = upto + 1
        self.boot = int(known.get("boot", 0)) + 1
        self._sent = int(known.get("sent", 0))
        self._began = following
        self._numbers = Numbers(epoch, following, self._file, durable=self.on_disk)
        state = {"epoch": epoch, "following": following, "boot": self.boot, "clean": 0, "machine": machine}
        with self._transaction() as run:
            for item in state.items():
                run("INSERT OR REPLACE INTO meta VALUES (?, ?)", item)
            for other, first, last in lost:
                run("INSERT INTO lost (epoch, first, last, reason) VALUES (?, ?, ?, 'store')", (other, first, last))
        if path is not None and given and self._file is not None:
            self._database.execute("PRAGMA wal_checkpoint(FULL)")
            self._file.write({epoch: upto} if upto else {})
        if self._spills and path is not None and not self._read("SELECT 1 FROM record LIMIT 1"):
            self._to_memory()

    def _sturdy(self, action: Callable[[], T]) -> T:
        """Do something with the store; where its disk fails, once more in memory."""
        try:
            return action()
        except (sqlite3.Error, OSError) as exc:
            self._leave_disk(exc)
            return action()

    def _note_sent(self) -> None:
        self._sent = self.following - 1
        self._database.execute("PRAGMA synchronous=FULL")
        try:
            self._database.execute("INSERT OR REPLACE INTO meta VALUES ('sent', ?)", (self._sent,))
        finally:
            self._database.execute("PRAGMA synchronous=NORMAL")

    def _settle(self, mark: Watermark) -> list[Range]:
        if mark.epoch != self.epoch:
            return []
        upto = min(mark.upto, self.following - 1)
        missing = [(first, min(last, upto)) for first, last in mark.missing if first <= upto]
        here = as_ranges(seq for (seq,) in self._read("SELECT seq FROM record WHERE seq <= ?", upto))
        told = [*self._read("SELECT first, last FROM told"), *self._unsaid()]
        with self._transaction() as run:
            for first, last in without(here, missing):
                run("DELETE FROM record WHERE seq BETWEEN ? AND ?", (first, last))
            run("DELETE FROM told WHERE last <= ?", (min((first for first, _ in missing), default=upto + 1) - 1,))
            self._lose(run, without(without(missing, here), told), "store")
        self._give_back()
        if self._spills and self.on_disk and not self._read("SELECT 1 FROM record LIMIT 1"):
            self._to_memory()
        return without(here, without(here, missing))

    def _declare(self, at: Stamp) -> int | None:
        """Store one record that declares losses; None where there are none."""
        sql = "SELECT id, epoch, first, last, reason FROM lost ORDER BY id LIMIT ?"
        rows = self._read(sql, LOSSES_PER_RECORD)
        if not rows:
            return None
        losses = tuple(Loss(first, last, why, epoch) for _, epoch, first, last, why in rows)
        with self._transaction() as run:
            number = self._insert(run, Record(self.epoch, 0, self.boot, at, Events(lost=losses)))
            run("DELETE FROM lost WHERE id <= ?", (rows[-1][0],))
            for pair in joined((one.first, one.last) for one in losses if one.epoch == self.epoch):
                run("INSERT INTO told VALUES (?, ?)", pair)
        return number

    def _give_back(self) -> None:
        """Give pages that are no longer needed back to the disk, once there are many."""
        ((free,),) = self._read("PRAGMA freelist_count")
        if free >= FREE_PAGES:
            self._database.executescript("PRAGMA incremental_vacuum")  # `execute` would free one page

    def _spill_if_due(self) -> None:
        """Go to disk where the server stays away, or memory is full; where that fails, try again some minutes later."""
        if not self._spills or self.on_disk or self._clock() < self._spill_again_s:
            return
        ((size, oldest),) = self._read("SELECT total(length(payload)), min(put_ms) FROM record")
        waited_s = 0.0 if oldest is None else self._clock() - oldest / 1000
        assert self.limits.spill_s is not None, "_spills says it"
        if waited_s >= self.limits.spill_s or size > self.limits.ram_bytes * SPILL_AT:
            try:
                self._to_disk()
            except (sqlite3.Error, OSError) as exc:
                self._spill_again_s = self._clock() + SPILL_AGAIN_S
                why: Details = {"error": type(exc).__name__, "why": str(exc)[:200]}
                self._put([(Stamp(0, int(self._clock() * 1000)), Events((Event("outbox_spill_failed", 2, 0, why),)))])

    def _to_disk(self) -> None:
        """Write all that is in memory to the file, and go on there. sqlite3.Error where that is not possible."""
        target = _opened(self._path)
        try:
            self._database.backup(target)
            target.execute("INSERT OR REPLACE INTO meta VALUES ('machine', ?)", (boot_id(),))
        except sqlite3.Error:
            target.close()
            raise
        self._database.close()
        self._database, self.on_disk = target, True

    def _to_memory(self) -> None:
        """Go on in memory; the file keeps the epoch and the numbers, and knows that it is behind."""
        self._database.execute("INSERT OR REPLACE INTO meta VALUES ('machine', '')")
        memory = _opened(None)
        self._database.backup(memory)
        self._database.close()
        self._database, self.on_disk = memory, False

    def _put(self, items: Sequence[tuple[Stamp, Body]]) -> list[int]:
        with self._transaction() as run:
            records = [Record(self.epoch, 0, self.boot, at, body) for at, body in items]
            self._follow_clock(run)
            numbers = [self._insert(run, record) for record in records]
            self._make_room(run)
        return numbers

    def _follow_clock(self, run: Run) -> None:
        """Move what was put since the start where the wall clock jumped: nothing gets old by being given the time."""
        wall, mono = self._clock(), self._mono()
        jump_s = (wall - self._read_at[0]) - (mono - self._read_at[1])
        if abs(jump_s) > JUMP_S:
            run("UPDATE record SET put_ms = put_ms + ? WHERE seq >= ?", (int(jump_s * 1000), self._began))
        self._read_at = wall, mono

    def _insert(self, run: Run, record: Record) -> int:
        """Store a record under the next number."""
        kind = KINDS[type(record.body)]
        declares = isinstance(record.body, Events) and bool(record.body.lost)
        payload = encode(replace(record, epoch=self.epoch, seq=self.following), self._sign)
        number = self._numbers.take()
        if isinstance(record.body, Birth):
            self._schemas |= {schema_hash(schema): schema for schema in record.body.schemas}
        row = (number, kind, KEPT if declares else PRIORITIES[kind], int(self._clock() * 1000), payload)
        run("INSERT INTO record VALUES (?, ?, ?, ?, ?)", row)
        run("INSERT OR REPLACE INTO meta VALUES ('following', ?)", (self.following,))
        if self._online:
            self._sent = number
            run("INSERT OR REPLACE INTO meta VALUES ('sent', ?)", (number,))
        return number

    def _make_room(self, run: Run) -> None:
        """Merge and drop until what waits is young enough and fits, and note what went."""
        oldest_s = self._clock() - self.limits.max_age_s if self.limits.max_age_s else 0.0
        room = Room(run, lambda record: self._insert(run, record), self._schemas, self._sent)
        gone = room.clear(self._cap(run), int(oldest_s * 1000))
        for reason in {one.reason for one in gone}:
            self._lose(run, as_ranges(one.seq for one in gone if one.reason == reason), reason)

    def _cap(self, run: Run) -> int:
        """Return how many bytes of payload may wait."""
        if not self.on_disk and (not self._spills or self._clock() < self._spill_again_s):
            return self.limits.ram_bytes
        cap = self.limits.max_bytes
        if self.limits.min_free and self._path is not None:
            disk = shutil.disk_usage(self._path.parent)
            lacking = self.limits.min_free * disk.total - disk.free
            if lacking > 0:
                ((size,),) = run("SELECT total(length(payload)) FROM record").fetchall()
                cap = min(cap, max(0, int(size - lacking)))
        return cap

    def _lose(self, run: Run, ranges: Sequence[Range], reason: str) -> None:
        for first, last in ranges:
            row = (self.epoch, first, min(last, _MOST_SEQ), reason)
            run("INSERT INTO lost (epoch, first, last, reason) VALUES (?, ?, ?, ?)", row)

    def _unsaid(self) -> list[Range]:
        """Return the lost numbers of this epoch that are still to be declared."""
        return [(first, last) for first, last in self._read("SELECT first, last FROM lost WHERE epoch = ?", self.epoch)]

    def _records(self) -> list[Record]:
        """Return all that waits, readable again."""
        return [decode(payload, kind) for kind, payload in self._read("SELECT kind, payload FROM record ORDER BY seq")]

    def _renumber(self, first: Sequence[tuple[Stamp, Body]]) -> None:
        """Begin an epoch; of the old one what the lost store may have given besides will not come either."""
        new = [Record(self.epoch, 0, self.boot, at, body) for at, body in first]
        upto = self._file.upto.get(self.epoch, 0) if self._file is not None else 0
        beyond = [(self.epoch, self.following, upto, "store")] if upto >= self.following else []
        self._begin_epoch([*new, *self._records()], beyond)

    def _begin_epoch(self, records: Sequence[Record], lost: Sequence[tuple[bytes, int, int, str]]) -> None:
        """Store `records` under the numbers of a new epoch, in place of all that was there; their old ones are lost."""
        epochs = {record.epoch for record in records}
        given = {
            epoch: as_ranges(record.seq for record in records if record.epoch == epoch and record.seq)
            for epoch in epochs
        }
        lost = [*lost, *((epoch, *pair, "store") for epoch, ranges in given.items() for pair in ranges)]
        self._began = 1
        self._numbers = Numbers(mint_epoch(), 1, self._file, durable=self.on_disk)
        self._sent = 0
        with self._transaction() as run:
            run("DELETE FROM record")
            run("DELETE FROM meta WHERE key = 'sent'")
            run("DELETE FROM told")
            run("INSERT OR REPLACE INTO meta VALUES ('epoch', ?)", (self.epoch,))
            for row in lost:
                run("INSERT INTO lost (epoch, first, last, reason) VALUES (?, ?, ?, ?)", row)
            for record in records:
                self._insert(run, record)
            self._make_room(run)

    def _leave_disk(self, exc: Exception) -> None:
        """Go on in memory: what can still be read comes along, the rest is lost."""
        if not self.on_disk and not self._spills:
            raise exc
        records, lost = list[Record](), list[tuple[bytes, int, int, str]]()
        try:
            records = self._records()
            lost += self._read("SELECT epoch, first, last, reason FROM lost")
        except (sqlite3.Error, BadInput):
            lost.append((self.epoch, 1, self.following - 1, "store"))
        self._set_aside(exc)
        self.on_disk = self._spills = False
        self._connect(None)
        self._begin_epoch(records, lost)
        self._tell_resets()

    def _set_aside(self, exc: Exception) -> None:
        """Rename the file and its log, so that it can be looked at, and note why."""
        self._resets.append((type(exc).__name__, str(exc)))
        if hasattr(self, "_database"):
            self._database.close()
        assert self._path is not None, exc
        mark = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self._clock()))
        for suffix in ("", "-wal", "-shm"):
            path = self._path.with_name(self._path.name + suffix)
            try:
                path.rename(path.with_name(f"{self._path.name}.damaged-{mark}{suffix}"))
            except OSError:
                continue  # not there, or a file system that takes no names any more: memory is next

    def _tell_resets(self) -> None:
        resets, self._resets = self._resets, []
        for kind, why in resets:
            event = Event("outbox_reset", 2, 0, {"error": kind, "why": why[:200]})
            self._put([(Stamp(0, int(self._clock() * 1000)), Events((event,)))])

    def _read(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        return self._database.execute(sql, parameters).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[Run]:
        """Yield what runs a statement; all are committed together, or none, and then no number was given."""
        numbers, before = self._numbers, self._numbers.following
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database.execute
            self._database.execute("COMMIT")
        except BaseException:
            numbers.following = before
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise


def _opened(path: Path | None) -> sqlite3.Connection:
    """Return the database in a file, or in memory."""
    database = sqlite3.connect(":memory:" if path is None else path, check_same_thread=False, isolation_level=None)
    for pragma in _PRAGMAS:
        database.execute(f"PRAGMA {pragma}")
    return database
