"""A consumer written from docs/wire-format.md alone: commits records to SQLite, publishes watermarks.

It imports nothing of edgert, on purpose: what it needs to know stands in that document.
"""

import queue
import re
import sqlite3
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path

import cbor2
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

MOST_PER_COMMIT = 500

_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS record (device TEXT, epoch BLOB, seq INTEGER, kind TEXT, body BLOB,
  PRIMARY KEY (device, epoch, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lost (device TEXT, epoch BLOB, first INTEGER, last INTEGER, reason TEXT,
  PRIMARY KEY (device, epoch, first, last)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS aside (topic TEXT, payload BLOB, why TEXT);
"""


class Consumer:
    """One consumer of all devices; `database` survives it. `offered` counts what arrived, duplicates included.

    What arrives while a transaction is on its way to the disk is the next one.
    """

    def __init__(self, database: Path, client_id: str = "ingest", every_s: float = 0.2, **account: str) -> None:
        self.offered = 0
        self._every_s, self._account, self._client_id = every_s, account, client_id
        self._database = sqlite3.connect(database, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.executescript(_SCHEMA)
        self._lock, self._changed, self._stopping = threading.Lock(), {}, threading.Event()
        self._whole: dict[tuple[str, bytes], int] = {}  # up to here nothing is missing
        self._arrived = queue.SimpleQueue[paho.MQTTMessage]()
        self._client: paho.Client | None = None
        self._writer = threading.Thread(target=self._write, daemon=True)

    def start(self, port: int) -> None:
        """Connect with a session that the broker keeps, and acknowledge only what is committed."""
        client = self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=self._client_id, clean_session=False, manual_ack=True
        )
        if self._account:
            client.username_pw_set(**self._account)
        client.on_connect = lambda one, *_: one.subscribe("edgert/v1/+/+/+/up/#", qos=1)
        client.on_message = lambda _client, _data, message: self._arrived.put(message)
        client.reconnect_delay_set(min_delay=1, max_delay=1)
        client.connect_async("127.0.0.1", port)
        client.loop_start()
        self._writer.start()

    def stop(self) -> None:
        """End; what is committed stays."""
        self._stopping.set()
        self._writer.join()
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
        self._database.close()

    def committed(self, device: str) -> list[tuple[bytes, int]]:
        """Return the (epoch, seq) of all records of a device."""
        with self._lock:
            return self._database.execute("SELECT epoch, seq FROM record WHERE device = ?", (device,)).fetchall()

    def lost(self, device: str) -> list[tuple[bytes, int, int]]:
        """Return what a device declared lost."""
        with self._lock:
            return self._database.execute("SELECT epoch, first, last FROM lost WHERE device = ?", (device,)).fetchall()

    def aside(self) -> list[tuple[str, bytes, str]]:
        """Return what could not be read, with the reason."""
        with self._lock:
            return self._database.execute("SELECT * FROM aside").fetchall()

    def _write(self) -> None:
        told = 0.0
        while not self._stopping.is_set():
            messages = self._taken()
            if messages:
                self._commit(messages)
            if self._changed and time.monotonic() - told >= self._every_s:
                told = time.monotonic()
                self._tell()

    def _taken(self) -> list[paho.MQTTMessage]:
        """Return what has arrived, at most a transaction of it; nothing where nothing comes for a while."""
        messages = list[paho.MQTTMessage]()
        with suppress(queue.Empty):
            messages.append(self._arrived.get(timeout=self._every_s / 4))
            while len(messages) < MOST_PER_COMMIT:
                messages.append(self._arrived.get_nowait())
        return messages

    def _commit(self, messages: list[paho.MQTTMessage]) -> None:
        with self._lock:
            self.offered += len(messages)
            self._database.execute("BEGIN IMMEDIATE")
            for message in messages:
                try:
                    self._store(message.topic, bytes(message.payload))
                except Exception as exc:  # noqa: BLE001  whatever it is, it must not stop the ones behind it
                    row = (message.topic, bytes(message.payload), f"{type(exc).__name__}: {exc}")
                    self._database.execute("INSERT INTO aside VALUES (?, ?, ?)", row)
            self._database.execute("COMMIT")
        assert self._client is not None
        for message in messages:
            self._client.ack(message.mid, message.qos)

    def _store(self, topic: str, payload: bytes) -> None:
        prefix, version, shard, tenant, device, direction, kind = topic.split("/")
        if (prefix, version, direction) != ("edgert", "v1", "up") or not (
            _ID.fullmatch(tenant) and _ID.fullmatch(device)
        ):
            raise ValueError("topic")
        if shard != f"s{zlib.crc32(device.encode()) % 256:02x}" or len(payload) > 65_536:
            raise ValueError("shard or size")
        number, epoch, seq, _, _, _, _, flags, body, *_ = cbor2.loads(payload)
        if number != 1 or flags & ~7 or len(epoch) != 8 or seq < 1:
            raise ValueError("envelope")
        if flags & 1:
            unpacker = zlib.decompressobj(wbits=-15)
            body = cbor2.loads(unpacker.decompress(body, 1_048_576))
        row = (device, epoch, seq, kind, cbor2.dumps(body))
        self._database.execute("INSERT OR IGNORE INTO record VALUES (?, ?, ?, ?, ?)", row)
        if kind == "evt":
            for first, last, other, reason in body.get("lost", []):
                row = (device, other or epoch, first, last, reason)
                self._database.execute("INSERT OR IGNORE INTO lost VALUES (?, ?, ?, ?, ?)", row)
        self._changed[topic.rsplit("/", 2)[0], device] = epoch

    def _tell(self) -> None:
        with self._lock:
            changed, self._changed = self._changed, {}
            marks = [(root, self._mark(device, epoch)) for (root, device), epoch in changed.items()]
        for root, mark in marks:
            assert self._client is not None
            self._client.publish(f"{root}/dn/ack", mark, qos=0, retain=True)

    def _mark(self, device: str, epoch: bytes) -> bytes:
        """Return the watermark: gaps between what is committed or declared lost, at most 64 of them."""
        upto = self._whole.get((device, epoch), 0)
        sql = "SELECT seq, seq FROM record WHERE device = ? AND epoch = ? AND seq > ?"
        sql += " UNION ALL SELECT first, last FROM lost WHERE device = ? AND epoch = ? AND last > ? ORDER BY 1"
        missing = []
        for first, last in self._database.execute(sql, (device, epoch, upto, device, epoch, upto)):
            if first > upto + 1:
                if len(missing) == 64:
                    break
                missing.append([upto + 1, first - 1])
            upto = max(upto, last)
        self._whole[device, epoch] = missing[0][0] - 1 if missing else upto
        document = {"epoch": epoch, "upto": upto, "missing": missing, "time_ms": int(time.time() * 1000)}
        return cbor2.dumps(document)
