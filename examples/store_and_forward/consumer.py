"""A consumer written from docs/wire-format.md alone: commits records to SQLite, publishes watermarks.

    python -m examples.store_and_forward.consumer server.db mqtt://127.0.0.1:1883

It imports nothing of edgert, on purpose: what it needs to know stands in that document. What is kept is `ledger`'s.
"""

import argparse
import hashlib
import queue
import signal
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cbor2
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from examples.store_and_forward.ledger import Ledger

LEAST_APART_S = 1.0
"""Between two watermarks of one device; that after a birth does not wait."""

REBIRTH_S = 10.0
"""Between two requests for one birth, and how long such a request may be followed."""

TICK_S = 0.05
MOST_PER_COMMIT = 500


class Consumer:
    """One consumer of all devices; `database` survives it. `offered` counts what arrived, duplicates included.

    What arrives while a transaction is on its way to the disk is the next one. `order_key` is the private Ed25519 key
    that commands are signed with; without it no birth is asked for.
    """

    def __init__(self, database: Path, client_id: str = "ingest", order_key: bytes | None = None) -> None:
        self.offered = 0
        self._ledger, self._client_id, self._order_key = Ledger(database), client_id, order_key
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._changed, self._born = dict[str, bytes](), set[str]()
        self._unborn, self._told, self._asked = set[str](), dict[str, float](), dict[str, float]()
        self._client: paho.Client | None = None
        self._arrived = queue.SimpleQueue[paho.MQTTMessage]()
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._teller = threading.Thread(target=self._tell, daemon=True)

    def start(self, port: int, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        """Connect with a session that the broker keeps, and acknowledge only what is committed."""
        client = self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=self._client_id, clean_session=False, manual_ack=True
        )
        if tls is not None:
            client.tls_set_context(tls)
        client.on_connect = self._begin
        client.on_message = lambda _client, _data, message: self._arrived.put(message)
        client.reconnect_delay_set(min_delay=1, max_delay=1)
        client.connect_async(host, port)
        client.loop_start()
        self._writer.start()
        self._teller.start()

    def stop(self) -> None:
        """End; what is committed stays."""
        self._stopping.set()
        self._teller.join()
        self._writer.join()
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
        self._ledger.close()

    def committed(self, device: str) -> list[tuple[bytes, int]]:
        """Return the (epoch, seq) of all records of a device."""
        return self._ledger.query("SELECT epoch, seq FROM record WHERE device = ?", device)

    def lost(self, device: str) -> list[tuple[bytes, int, int]]:
        """Return what a device declared lost."""
        return self._ledger.query("SELECT epoch, first, last FROM lost WHERE device = ?", device)

    def aside(self) -> list[tuple[str, bytes, str]]:
        """Return what could not be read, with the reason."""
        return self._ledger.query("SELECT topic, payload, why FROM aside")

    def _begin(self, client: paho.Client, *_: Any) -> None:
        """Subscribe, and tell all watermarks again: the broker may be a new one, or the database an old one."""
        client.subscribe("edgert/v1/+/+/+/up/#", qos=1)
        with self._lock:
            self._changed |= dict(self._ledger.query("SELECT root, epoch FROM device"))

    def _write(self) -> None:
        while not self._stopping.is_set():
            messages = self._taken()
            if messages:
                self._commit(messages)

    def _taken(self) -> list[paho.MQTTMessage]:
        """Return what has arrived, at most a transaction of it; nothing where nothing comes for a while."""
        messages = list[paho.MQTTMessage]()
        with suppress(queue.Empty):
            messages.append(self._arrived.get(timeout=TICK_S))
            while len(messages) < MOST_PER_COMMIT:
                messages.append(self._arrived.get_nowait())
        return messages

    def _commit(self, messages: list[paho.MQTTMessage]) -> None:
        assert self._client is not None
        self.offered += len(messages)
        arrivals = self._ledger.take([(one.topic, bytes(one.payload)) for one in messages])
        for message in messages:
            self._client.ack(message.mid, message.qos)
        with self._lock:
            for arrival in arrivals:
                self._changed[arrival.root] = arrival.epoch
                if arrival.born:
                    self._born.add(arrival.root)
                    self._unborn.discard(arrival.root)
                if arrival.unborn:
                    self._unborn.add(arrival.root)

    def _tell(self) -> None:
        while not self._stopping.wait(TICK_S):
            if self._client is None or not self._client.is_connected():
                continue
            for root, epoch in self._due(time.monotonic()):
                self._client.publish(f"{root}/dn/ack", self._ledger.mark(root, epoch), qos=0, retain=True)
            for root in self._to_ask(time.monotonic()):
                self._client.publish(f"{root}/dn/cmd", self._rebirth(root), qos=0)

    def _due(self, now: float) -> list[tuple[str, bytes]]:
        with self._lock:
            due = {
                root: epoch
                for root, epoch in self._changed.items()
                if root in self._born or now - self._told.get(root, -LEAST_APART_S) >= LEAST_APART_S
            }
            for root in due:
                del self._changed[root]
                self._born.discard(root)
                self._told[root] = now
        return list(due.items())

    def _to_ask(self, now: float) -> list[str]:
        with self._lock:
            due = [one for one in self._unborn if now - self._asked.get(one, -REBIRTH_S) >= REBIRTH_S]
            due = due if self._order_key is not None else []
            self._asked |= dict.fromkeys(due, now)
        return due

    def _rebirth(self, root: str) -> bytes:
        """Return the signed command for a birth."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        assert self._order_key is not None
        key = Ed25519PrivateKey.from_private_bytes(self._order_key)
        now_ms = int(time.time() * 1000)
        *_, tenant, device = root.split("/")
        order = {"tenant": tenant, "device": device, "id": f"rebirth-{now_ms}", "name": "rebirth", "args": {}}
        body = cbor2.dumps({**order, "expires_ms": now_ms + int(REBIRTH_S * 1000)})
        key_id = hashlib.sha256(key.public_key().public_bytes_raw()).digest()[:8]
        return cbor2.dumps([body, [[key_id, key.sign(b"edgert/v1/cmd\0" + body)]]])


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m examples.store_and_forward.consumer")
    parser.add_argument("database", type=Path)
    parser.add_argument("url", help="mqtt://host:port or mqtts://host:port")
    parser.add_argument("--ca", help="the authority that the broker's certificate is of")
    parser.add_argument("--cert", help="the certificate to be known by")
    parser.add_argument("--key", help="its key")
    parser.add_argument("--order-key", type=Path, help="32 bytes: the Ed25519 key that commands are signed with")
    asked = parser.parse_args()
    address = urlsplit(asked.url)
    context = None
    if address.scheme == "mqtts":
        context = ssl.create_default_context(cafile=asked.ca)
        if asked.cert:
            context.load_cert_chain(asked.cert, asked.key)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    consumer = Consumer(asked.database, order_key=asked.order_key.read_bytes() if asked.order_key else None)
    consumer.start(address.port or 1883, context, address.hostname or "127.0.0.1")
    ended.wait()
    consumer.stop()


if __name__ == "__main__":
    main()
