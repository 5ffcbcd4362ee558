"""What gives way when an outbox is full: logs, then detail of old metrics, then whole records by what they matter."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from edgert.errors import BadInput
from edgert.link.merge import merged
from edgert.record import Batch, Record, Schema, Sketches
from edgert.wire import decode

Run = Callable[..., sqlite3.Cursor]

PRIORITIES = {"log": 0, "tel": 1, "sk": 2, "rep": 3, "resp": 3, "evt": 4, "birth": 5}
"""What is dropped first where there is no room: the smallest."""

KEPT = 9
"""The priority of a declaration of loss: it is never dropped."""

MERGED_AT_ONCE = {False: 15, True: 4}
"""So many neighbours become one: of fine records, minutes become quarters; of coarse ones, quarters become hours."""

SLACK = 0.9
"""Down to this share of the cap it is made smaller, so that not every further record drops another."""


@dataclass(frozen=True)
class Gone:
    """A record that is no longer there, and the reason that is declared."""

    seq: int
    reason: str


@dataclass
class Room:
    """One clearing. `insert` stores a record under a new number; `schemas` by hash, as far as they are known.

    Records up to `sent` may have reached the server: they are not merged, or it could count them twice.
    """

    run: Run
    insert: Callable[[Record], int]
    schemas: Mapping[bytes, Schema]
    sent: int

    def clear(self, cap: int, oldest_ms: int) -> list[Gone]:
        """Delete what was put before `oldest_ms`, and make the rest fit `cap` bytes of payload; return what went."""
        gone = self._too_old(oldest_ms)
        self._delete(gone)
        if self._file_bytes() <= cap or self._size() <= cap:
            return gone
        goal = int(cap * SLACK)
        gone += self._drop(goal, PRIORITIES["log"])
        for coarse in (False, True):
            for kind in ("tel", "sk"):
                gone += self._merge(goal, kind, coarse)
        return gone + self._drop(goal, KEPT - 1)

    def _too_old(self, oldest_ms: int) -> list[Gone]:
        """Return what was put before; nothing is looked for where the first record is young enough."""
        first = self.run("SELECT put_ms FROM record WHERE priority < ? ORDER BY seq LIMIT 1", (KEPT,)).fetchone()
        if first is None or first[0] >= oldest_ms:
            return []
        sql = "SELECT seq FROM record WHERE put_ms < ? AND priority < ?"
        return [Gone(seq, "cap") for (seq,) in self.run(sql, (oldest_ms, KEPT)).fetchall()]

    def _file_bytes(self) -> int:
        """Return the bytes of the whole file, which is more than its payloads have."""
        ((pages,), (size,)) = (self.run(f"PRAGMA page_{what}").fetchone() for what in ("count", "size"))
        return int(pages) * int(size)

    def _size(self) -> int:
        return int(self.run("SELECT total(length(payload)) FROM record").fetchone()[0])

    def _drop(self, goal: int, most: int) -> list[Gone]:
        """Delete records of a priority up to `most`, the least first, of these the oldest, until the rest fits."""
        size, gone = self._size(), list[Gone]()
        sql = "SELECT seq, length(payload) FROM record WHERE priority <= ? ORDER BY priority, seq"
        for seq, length in self.run(sql, (most,)).fetchall():
            if size <= goal:
                break
            gone.append(Gone(seq, "cap"))
            size -= length
        self._delete(gone)
        return gone

    def _merge(self, goal: int, kind: str, coarse: bool) -> list[Gone]:
        """Put coarser records in the place of runs of old ones of a kind, the oldest first, until all fits."""
        size, gone = self._size(), list[Gone]()
        for run in self._runs(kind, coarse):
            if size <= goal:
                break
            records = [record for _, record in run]
            body = records[0].body
            one = merged(records, self.schemas.get(body.schema) if isinstance(body, Batch) else None)
            if one is None:
                continue
            try:
                new = self.insert(one)
            except BadInput:
                continue  # larger than a payload may be
            old = [Gone(record.seq, "merged") for record in records]
            first, last = records[0].seq, records[-1].seq
            sql = "UPDATE record SET put_ms = (SELECT max(put_ms) FROM record WHERE seq IN (?, ?)) WHERE seq = ?"
            self.run(sql, (first, last, new))
            self._delete(old)
            gone += old
            (length,) = self.run("SELECT length(payload) FROM record WHERE seq = ?", (new,)).fetchone()
            size += length - sum(was for was, _ in run)
        return gone

    def _runs(self, kind: str, coarse: bool) -> Iterator[list[tuple[int, Record]]]:
        """Yield neighbours that could become one, with their sizes."""
        run, key = list[tuple[int, Record]](), object()
        sql = "SELECT seq, length(payload) FROM record WHERE kind = ? AND seq > ? ORDER BY seq"
        for seq, length in self.run(sql, (kind, self.sent)).fetchall():
            (payload,) = self.run("SELECT payload FROM record WHERE seq = ?", (seq,)).fetchone()
            try:
                record = decode(payload, kind)
            except BadInput:
                continue  # an older program's, perhaps; it is sent as it is
            if record.coarse != coarse:
                continue
            if _key(record) != key or len(run) == MERGED_AT_ONCE[coarse]:
                if len(run) > 1:
                    yield run
                run, key = [], _key(record)
            run.append((length, record))
        if len(run) > 1:
            yield run

    def _delete(self, gone: list[Gone]) -> None:
        for one in gone:
            self.run("DELETE FROM record WHERE seq = ?", (one.seq,))


def _key(record: Record) -> object:
    body = record.body
    which = body.schema if isinstance(body, Batch) else body.slot if isinstance(body, Sketches) else None
    return record.epoch, record.boot, which
