"""A device that says what it is told to, right or wrong, and notes what comes down."""

import os
import time
from collections.abc import Callable

from edgert import cbor
from edgert.link.mqtt import Broker, Connected, Connection, Message
from edgert.record import Birth, Body, Event, Events, Record, Stamp, Watermark
from edgert.topics import Address
from edgert.wire import decode_watermark, encode

PATIENCE_S = 20.0


class RawDevice:
    """One connection as a device of tenant `acme`, with an epoch of its own."""

    def __init__(self, port: int, version: int, name: str) -> None:
        self.address, self.epoch = Address("acme", name), os.urandom(8)
        self.marks, self.commands, self.retained = list[Watermark](), list[bytes](), list[Watermark]()
        self._link = Connection(Broker(f"mqtt://127.0.0.1:{port}", version=version), name, (self.address.status, b""))
        self._link.open()
        assert isinstance(self._link.happenings.get(timeout=PATIENCE_S), Connected)
        self._link.subscribe([self.address.down(kind) for kind in ("ack", "cmd")])

    def close(self) -> None:
        """Leave."""
        self._link.close()

    def payload(self, seq: int, body: Body | None = None, *, epoch: bytes | None = None) -> bytes:
        """Return a record as it should be."""
        body = Events((Event("tick", 0, 0, {"seq": seq}),)) if body is None else body
        return encode(Record(epoch or self.epoch, seq, 1, Stamp(1000, 1_790_000_000_000), body))

    def odd(self, seq: int, body: object, *, version: int = 1, flags: int = 0, more: tuple[object, ...] = ()) -> bytes:
        """Return a record with a body that is anything."""
        return cbor.dumps([version, self.epoch, seq, 1, 0, 0, 0, flags, body, *more])

    def birth(self, seq: int = 1, **fields: object) -> None:
        """Send a birth."""
        base = {"tenant": "acme", "device": self.address.device, "agent": "raw/1", "hardware": {}}
        self.say("birth", self.payload(seq, Birth(**{**base, "schemas": (), "slots": (), **fields})))  # type: ignore[arg-type]

    def send(self, *seqs: int) -> None:
        """Send records of these numbers."""
        for seq in seqs:
            self.say("evt", self.payload(seq))

    def say(self, kind: str, payload: bytes) -> None:
        """Publish on the device's own topic."""
        self.publish(self.address.up(kind), payload)

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish anywhere."""
        until = time.monotonic() + PATIENCE_S
        while self._link.publish(topic, payload) is None and time.monotonic() < until:
            time.sleep(0.02)

    def mark(self, wanted: Callable[[Watermark], bool]) -> Watermark:
        """Wait for a watermark of this epoch that is wanted, and return it."""
        assert self.until(lambda: any(map(wanted, self.own_marks()))), self.marks[-3:]
        return next(one for one in self.own_marks() if wanted(one))

    def own_marks(self) -> list[Watermark]:
        """Return the watermarks of this epoch."""
        return [one for one in self.marks if one.epoch == self.epoch]

    def until(self, condition: Callable[[], bool], seconds: float = PATIENCE_S) -> bool:
        """Listen until a condition comes true; return whether it did."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            while not self._link.happenings.empty():
                self._note(self._link.happenings.get())
            if condition():
                return True
            time.sleep(0.02)
        return False

    def _note(self, found: object) -> None:
        if not isinstance(found, Message):
            return
        if found.topic == self.address.down("cmd"):
            self.commands.append(found.payload)
            return
        self.marks.append(decode_watermark(found.payload))
        if found.retained:
            self.retained.append(self.marks[-1])
