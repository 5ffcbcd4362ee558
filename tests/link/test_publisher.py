"""Device to database over a real broker: whatever is cut, nothing is missing and nothing is there twice."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgert.link.mqtt import Broker, Connection
from edgert.link.outbox import Outbox
from edgert.link.publisher import Publisher, backoff_s
from edgert.record import Birth, Event, Events, Presence, Stamp
from edgert.topics import Address
from edgert.wire import encode_presence
from examples.store_and_forward.consumer import Consumer
from tests.link.brokers import Mosquitto

ADDRESS = Address("acme", "press-7")
BIRTH = Birth("acme", "press-7", "edgert/test", {"profile": "x86-avx2"}, (), ())


def until(condition: Callable[[], bool], seconds: float = 40) -> bool:
    """Wait for a condition; return whether it came true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    one = Mosquitto(tmp_path)
    one.start()
    yield one
    one.kill()


@pytest.fixture
def consumer(tmp_path: Path, broker: Mosquitto) -> Iterator[Consumer]:
    one = Consumer(tmp_path / "server.db")
    one.start(broker.port)
    yield one
    one.stop()


def publisher_of(outbox: Outbox, port: int, allowance: Callable[[], float | None] = lambda: None) -> Publisher:
    will = (ADDRESS.status, encode_presence(Presence(False, outbox.epoch, outbox.boot)))
    link = Connection(Broker(f"mqtt://127.0.0.1:{port}"), ADDRESS.device, will)
    return Publisher(outbox, ADDRESS, link, lambda: BIRTH, chance=lambda: 0.1, allowance=allowance)


def put(outbox: Outbox, count: int) -> set[tuple[bytes, int]]:
    items = [(Stamp(0, 1), Events((Event("tick", 0, 0, {"n": number}),))) for number in range(count)]
    return {(outbox.epoch, number) for number in outbox.put(items)}


def test_publisher_without_allowance_keeps_records_and_sends_them_later(tmp_path, broker, consumer):
    """The day's bytes are spent: nothing is sent, nothing is lost; the next day all of it goes."""
    allowed = [0.0]
    outbox = Outbox(tmp_path / "device.db")
    publisher = publisher_of(outbox, broker.port, lambda: allowed[0])
    publisher.start()
    produced = put(outbox, 10)
    assert until(lambda: publisher.is_connected)
    time.sleep(1)
    assert publisher.counters.sent == 0
    assert outbox.depth().records == 11
    allowed[0] = 1e6
    assert until(lambda: outbox.depth().records == 0)
    publisher.stop()
    assert produced < set(consumer.committed(ADDRESS.device))


def test_publisher_brings_every_record_to_the_database_and_empties_the_outbox(tmp_path, broker, consumer):
    """All of them, once, and the watermark clears the device."""
    outbox = Outbox(tmp_path / "device.db")
    publisher = publisher_of(outbox, broker.port)
    publisher.start()
    produced = {number for _ in range(20) for number in put(outbox, 10)}
    assert until(lambda: outbox.depth().records == 0)
    publisher.stop()
    committed = consumer.committed(ADDRESS.device)
    assert len(committed) == len(set(committed)) == 201
    assert produced < set(committed)
    assert consumer.aside() == []
    assert consumer.lost(ADDRESS.device) == []


def test_publisher_survives_a_killed_broker(tmp_path, broker, consumer):
    """What the broker had acknowledged and forgotten is sent again, because the watermark lacks it."""
    outbox = Outbox(tmp_path / "device.db")
    publisher = publisher_of(outbox, broker.port)
    publisher.start()
    produced = put(outbox, 50)
    for _ in range(3):
        produced |= put(outbox, 200)
        assert until(lambda: publisher.counters.sent > 0)
        broker.kill()
        produced |= put(outbox, 50)
        time.sleep(0.5)
        broker.start()
        assert until(lambda: publisher.is_connected)
    assert until(lambda: outbox.depth().records == 0)
    publisher.stop()
    committed = consumer.committed(ADDRESS.device)
    assert len(committed) == len(set(committed))
    assert produced <= set(committed)
    assert publisher.counters.connects == 4


def test_device_that_was_restored_from_a_copy_mints_a_new_epoch(tmp_path, broker, consumer):
    """The old numbers stay what they were; what the copy produced has new ones; nothing is there twice."""
    path = tmp_path / "device.db"
    outbox = Outbox(path)
    put(outbox, 5)
    outbox.close()
    copy = {one.name: one.read_bytes() for one in tmp_path.glob("device.db*")}
    outbox = Outbox(path)
    first = outbox.epoch
    publisher = publisher_of(outbox, broker.port)
    publisher.start()
    put(outbox, 30)
    assert until(lambda: outbox.depth().records == 0)
    publisher.stop()
    outbox.close()
    for one in tmp_path.glob("device.db*"):
        one.unlink()
    for name, content in copy.items():
        (tmp_path / name).write_bytes(content)
    restored = Outbox(path)
    assert restored.epoch == first
    publisher = publisher_of(restored, broker.port)
    publisher.start()
    put(restored, 7)
    assert until(lambda: restored.depth().records == 0)
    publisher.stop()
    committed = consumer.committed(ADDRESS.device)
    assert restored.epoch != first
    assert len([one for one in committed if one[0] == first]) == 36
    assert len([one for one in committed if one[0] == restored.epoch]) >= 5 + 7 + 1


def test_backoff_is_spread_over_a_range_that_doubles_and_obeys_the_server():
    """Full jitter up to five minutes, never less than the server asks for."""
    assert [backoff_s(attempt, 0, 1.0) for attempt in (1, 2, 3)] == [2.5, 4.5, 8.5]
    assert backoff_s(50, 0, 1.0) == 300.5
    assert backoff_s(3, 0, 0.0) == 0.5
    assert backoff_s(1, 60_000, 0.0) == 60
