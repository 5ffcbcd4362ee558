"""Random faults in a row, by seed: produced = committed + declared lost, and no number stands for two records."""

import random
import time
from pathlib import Path

import pytest

from edgert.link.mqtt import Broker, Connection
from edgert.link.outbox import Outbox
from edgert.link.publisher import Publisher
from edgert.link.settings import Limits
from edgert.record import Event, Events, LogLines, Presence, Stamp
from edgert.topics import Address
from edgert.wire import encode_presence
from examples.store_and_forward.consumer import Consumer
from tests.link.brokers import Mosquitto
from tests.link.chaos_proxy import ChaosProxy
from tests.link.test_publisher import BIRTH, until
from tests.telemetry import SOAK

SCHEDULES = 10_000 if SOAK else 50
AT_ONCE = 10
"""So many devices suffer beside each other, each with faults of its own; the broker's are everybody's."""

STEPS = 12


class Device:
    """One device behind a proxy of its own, with all numbers that it ever gave out."""

    def __init__(self, folder: Path, name: str, broker_port: int, seed: int) -> None:
        self.address = Address("acme", name)
        self.random = random.Random(seed)
        self.proxy = ChaosProxy(broker_port)
        self.given = dict[tuple[bytes, int], str]()
        self._path = folder / f"{name}.db"
        self.start()

    def start(self) -> None:
        limits = Limits(max_bytes=self.random.choice([20_000_000, 6_000]))
        self.outbox = Outbox(self._path, limits)
        will = (self.address.status, encode_presence(Presence(False, self.outbox.epoch, self.outbox.boot)))
        link = Connection(Broker(f"mqtt://127.0.0.1:{self.proxy.port}"), self.address.device, will)
        chance = self.random.random
        self.publisher = Publisher(self.outbox, self.address, link, lambda: BIRTH, chance=lambda: chance() * 0.2)
        self.publisher.start()

    def put(self) -> None:
        """Produce a few records; each says in itself which it is."""
        for _ in range(self.random.randint(1, 30)):
            mark = f"{self.random.getrandbits(64):x}"
            body = Events((Event("tick", 0, 0, {"mark": mark}),))
            if self.random.random() < 0.5:
                body = LogLines(((0, "info", mark + "x" * 200),))
            for number in self.outbox.put([(Stamp(0, 1), body)]):
                self.given[self.outbox.epoch, number] = mark

    def suffer(self) -> None:
        """Let one fault happen."""
        match self.random.choice(["cut", "delay", "throttle", "freeze", "close", "restart", "heal", "heal"]):
            case "cut":
                self.proxy.cut()
            case "delay":
                self.proxy.delay_s = 0.05
            case "throttle":
                self.proxy.bytes_per_s = 20_000
            case "freeze":
                self.proxy.is_frozen = True
            case "close":
                self.proxy.is_closed = True
                self.proxy.cut()
            case "restart":
                self.publisher.stop()
                self.outbox.close()
                self.start()
            case "heal":
                self.proxy.heal()

    def is_settled(self) -> bool:
        """Whether everything is with the server, and nothing is left to be declared."""
        return self.outbox.depth().records == 0


def accounted(device: Device, consumer: Consumer) -> None:
    """Assert the invariant for one device."""
    committed = consumer.committed(device.address.device)
    lost = {
        (epoch, number)
        for epoch, first, last in consumer.lost(device.address.device)
        for number in range(first, last + 1)
    }
    assert len(committed) == len(set(committed))
    missing = set(device.given) - set(committed) - lost
    assert not missing, sorted(number for _, number in missing)[:20]


@pytest.mark.parametrize("block", range(SCHEDULES // AT_ONCE))
def test_produced_is_committed_plus_declared_lost_after_random_faults(block, tmp_path):
    """Cuts, delays, half-open connections, restarts of device, broker and server, and a store that is too small."""
    broker = Mosquitto(tmp_path)
    broker.start()
    consumer = Consumer(tmp_path / "server.db")
    consumer.start(broker.port)
    devices = [Device(tmp_path, f"d{number}", broker.port, 1000 * block + number) for number in range(AT_ONCE)]
    faults = random.Random(block)
    try:
        for step in range(STEPS):
            for device in devices:
                device.put()
                device.suffer()
            if step in (4, 8):
                broker.kill()
                time.sleep(faults.random())
                broker.start()
            time.sleep(faults.random() * 0.4)
        for device in devices:
            device.proxy.heal()
            device.put()
        for device in devices:
            assert until(device.is_settled, 90), (device.publisher.counters, device.outbox.depth())
        for device in devices:
            accounted(device, consumer)
        assert consumer.aside() == []
    finally:
        for device in devices:
            device.publisher.stop()
            device.proxy.stop()
            device.outbox.close()
        consumer.stop()
        broker.kill()
