"""What a consumer keeps: records by number, what is declared lost, and aside what it cannot read. One SQLite file."""

import hashlib
import re
import sqlite3
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cbor2

from examples.store_and_forward import strict_cbor

MAX_PAYLOAD, MAX_BODY, MOST_MISSING = 65_536, 1_048_576, 64
KINDS = {"birth": dict, "tel": list, "sk": list, "evt": dict, "rep": dict, "log": list, "resp": dict}
_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS record (device TEXT, epoch BLOB, seq INTEGER, kind TEXT, body BLOB,
  PRIMARY KEY (device, epoch, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lost (device TEXT, epoch BLOB, first INTEGER, last INTEGER, reason TEXT,
  PRIMARY KEY (device, epoch, first, last)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS aside (topic TEXT, payload BLOB, why TEXT, device TEXT, epoch BLOB, seq INTEGER,
  waits INTEGER, UNIQUE (device, epoch, seq));
CREATE TABLE IF NOT EXISTS schema (device TEXT, epoch BLOB, hash BLOB, PRIMARY KEY (device, epoch, hash)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS device (root TEXT PRIMARY KEY, epoch BLOB) WITHOUT ROWID;
"""


class Unborn(ValueError):
    """A record that can be read once the birth of its epoch is there."""


@dataclass(frozen=True)
class Arrival:
    """Something of a device is on disk: `born` where it was a birth, `unborn` where one is needed to read it."""

    root: str
    epoch: bytes
    born: bool
    unborn: bool


@dataclass(frozen=True)
class _Topic:
    root: str
    tenant: str
    device: str
    kind: str


class Ledger:
    """Each `take` is one transaction, from any thread."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.executescript(_SCHEMA)
        self._lock = threading.Lock()
        self._whole = dict[tuple[str, bytes], int]()  # up to here nothing is missing

    def take(self, messages: Sequence[tuple[str, bytes]]) -> list[Arrival]:
        """Put messages, topic and payload, on disk in one transaction: as records or aside.

        Of one that is nobody's, and counts for no account, there is no Arrival.
        """
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                arrivals = [self._take(topic, payload) for topic, payload in messages]
                self._database.execute("COMMIT")
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
        return [one for one in arrivals if one is not None]

    def query(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a SELECT."""
        with self._lock:
            return self._database.execute(sql, parameters).fetchall()

    def mark(self, root: str, epoch: bytes) -> bytes:
        """Return the watermark: gaps between what arrived or is declared lost, at most 64 of them."""
        device = root.rsplit("/", 1)[1]
        upto = self._whole.get((device, epoch), 0)
        sql = "SELECT seq, seq FROM record WHERE device = ?1 AND epoch = ?2 AND seq > ?3"
        sql += " UNION ALL SELECT seq, seq FROM aside WHERE device = ?1 AND epoch = ?2 AND seq > ?3"
        sql += " UNION ALL SELECT first, last FROM lost WHERE device = ?1 AND epoch = ?2 AND last > ?3 ORDER BY 1"
        missing = list[list[int]]()
        for first, last in self.query(sql, device, epoch, upto):
            if first > upto + 1:
                if len(missing) == MOST_MISSING:
                    break
                missing.append([upto + 1, first - 1])
            upto = max(upto, last)
        self._whole[device, epoch] = missing[0][0] - 1 if missing else upto
        return cbor2.dumps({"epoch": epoch, "upto": upto, "missing": missing, "time_ms": int(time.time() * 1000)})

    def close(self) -> None:
        """Close the file; what was taken stays."""
        with self._lock:
            self._database.close()

    def _take(self, name: str, payload: bytes) -> Arrival | None:
        if len(payload) > MAX_PAYLOAD:
            self._aside(name, b"", f"{len(payload)} bytes")
            return None
        epoch, seq, topic = None, None, None
        try:
            topic = _topic(name)
            fields = strict_cbor.loads(payload)
            epoch, seq = _numbers(fields)
            self._store(topic, epoch, seq, _body(fields, topic.kind))
        except Exception as exc:  # noqa: BLE001  whatever it is, it must not stop the ones behind it
            why, waits = f"{type(exc).__name__}: {exc}", isinstance(exc, Unborn)
            self._aside(name, payload, why, topic and topic.device, epoch, seq, waits)
            if topic is None or epoch is None:
                return None
            born, unborn = False, waits
        else:
            born, unborn = topic.kind == "birth", False
        self._database.execute("INSERT OR REPLACE INTO device VALUES (?, ?)", (topic.root, epoch))
        return Arrival(topic.root, epoch, born, unborn)

    def _aside(self, *row: object) -> None:
        row += (None,) * (7 - len(row))
        self._database.execute("INSERT OR IGNORE INTO aside VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def _store(self, topic: _Topic, epoch: bytes, seq: int, body: Any) -> None:
        if topic.kind == "birth":
            self._be_born(topic, epoch, body)
        if topic.kind in ("tel", "sk"):
            self._check_schema(topic, epoch, body)
        losses = body.get("lost", []) if topic.kind == "evt" else []
        rows = [(topic.device, epoch if other is None else other, *pair, why) for *pair, other, why in losses]
        for _, other, first, last, why in rows:
            if not (isinstance(why, str) and len(other) == 8 and 1 <= first <= last < 1 << 64):
                raise ValueError("a declaration of loss")
        row = (topic.device, epoch, seq, topic.kind, cbor2.dumps(body))
        self._database.execute("INSERT OR IGNORE INTO record VALUES (?, ?, ?, ?, ?)", row)
        for device, other, first, last, why in rows:
            row = (device, other, min(first, _MOST), min(last, _MOST), why)
            self._database.execute("INSERT OR IGNORE INTO lost VALUES (?, ?, ?, ?, ?)", row)

    def _be_born(self, topic: _Topic, epoch: bytes, body: Any) -> None:
        """Learn the schemas of an epoch, and read what waited for them."""
        if (body["tenant"], body["device"]) != (topic.tenant, topic.device):
            raise ValueError("a birth of another device")
        hashes = [hashlib.sha256(cbor2.dumps(one, canonical=True)).digest()[:8] for one in body["schemas"]]
        for one in (b"", *hashes):
            self._database.execute("INSERT OR IGNORE INTO schema VALUES (?, ?, ?)", (topic.device, epoch, one))
        sql = "SELECT rowid, topic, payload, seq FROM aside WHERE device = ? AND epoch = ? AND waits"
        for row, name, payload, seq in self._database.execute(sql, (topic.device, epoch)).fetchall():
            before = _topic(name)
            try:
                self._store(before, epoch, seq, _body(strict_cbor.loads(payload), before.kind))
            except (ValueError, TypeError):
                continue  # of a schema that this birth does not have either
            self._database.execute("DELETE FROM aside WHERE rowid = ?", (row,))

    def _check_schema(self, topic: _Topic, epoch: bytes, body: Any) -> None:
        """Unborn where the birth of the epoch, or the one with this schema, is still to come."""
        name = b""
        if topic.kind == "tel":
            name, count, _, columns = body
            if len(name) != 8 or not 1 <= count <= 4096 or not isinstance(columns, list):
                raise ValueError("a batch")
        sql = "SELECT 1 FROM schema WHERE device = ? AND epoch = ? AND hash = ?"
        if self._database.execute(sql, (topic.device, epoch, name)).fetchone() is None:
            raise Unborn("a schema that no birth has told")


_MOST = (1 << 63) - 1


def _topic(name: str) -> _Topic:
    prefix, version, shard, tenant, device, direction, kind = name.split("/")
    if (prefix, version, direction) != ("edgert", "v1", "up") or kind not in KINDS:
        raise ValueError("topic")
    if not (_ID.fullmatch(tenant) and _ID.fullmatch(device)):
        raise ValueError("tenant or device")
    if shard != f"s{zlib.crc32(device.encode()) % 256:02x}":
        raise ValueError("shard")
    return _Topic(name.rsplit("/", 2)[0], tenant, device, kind)


def _numbers(fields: Any) -> tuple[bytes, int]:
    """Return epoch and seq, which a record of a version still to come is counted by too."""
    _, epoch, seq, *_ = fields
    if not isinstance(epoch, bytes) or len(epoch) != 8 or type(seq) is not int or not 1 <= seq <= _MOST:
        raise ValueError("epoch or seq")
    return epoch, seq


def _body(fields: Any, kind: str) -> Any:
    version, _, _, boot, mono_ms, wall_ms, sync, flags, body, *signature = fields
    if version != 1 or flags & ~7 or [len(one) for one in signature] != [64] * bool(flags & 2):
        raise ValueError("version, flags or signature")
    if not (boot >= 1 and mono_ms >= 0 and sync in (0, 1, 2, 3) and isinstance(wall_ms, int)):
        raise ValueError("envelope")
    if flags & 1:
        unpacker = zlib.decompressobj(wbits=-15)
        inflated = unpacker.decompress(body, MAX_BODY + 1)
        if len(inflated) > MAX_BODY or not unpacker.eof or unpacker.unused_data:
            raise ValueError("a body that is cut or too large")
        body = strict_cbor.loads(inflated)
    if not isinstance(body, KINDS[kind]):
        raise TypeError(f"a body of {kind}")
    return body
