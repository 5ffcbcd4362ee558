"""TLS, names and topics: who may connect, as whom, and what of another device's a device can touch."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgert.cbor import MAX_PAYLOAD
from edgert.link.mqtt import Broker, Connected, Connection, Disconnected, Happening, Message
from edgert.link.outbox import Outbox
from edgert.link.publisher import Publisher
from edgert.record import Presence, Record, Stamp, Watermark
from edgert.topics import DOWN, UP, Address
from edgert.wire import encode, encode_presence, encode_watermark
from examples.store_and_forward.consumer import Consumer
from tests.link.brokers import KINDS, Mosquitto, Nats, Process
from tests.link.certificates import DAY, NOW, Authority
from tests.link.test_publisher import BIRTH, put, until

OWN, OTHER = Address("acme", "press-7"), Address("acme", "press-8")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(params=["mosquitto-5", "nats"])
def broker(request: pytest.FixtureRequest, tmp_path: Path, authority: Authority) -> Iterator[Mosquitto | Nats]:
    """Yield a broker that takes everybody by certificate: devices for their own topics, the server for all."""
    one = KINDS[request.param](tmp_path)
    one.secure(authority, [OWN, OTHER])
    one.start()
    yield one
    one.kill()


@pytest.fixture
def consumer(tmp_path: Path, broker: Process, authority: Authority) -> Iterator[Consumer]:
    one = Consumer(tmp_path / "server.db")
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    context.load_cert_chain(*authority.issue("server"))
    one.start(broker.port, context)
    yield one
    one.stop()


@pytest.fixture
def server(broker: Process, authority: Authority) -> Iterator[Connection]:
    """Yield a connection that may publish anything to anybody."""
    one = connection(settings(broker, authority, "server"), Address("acme", "server"))
    one.open()
    assert isinstance(one.happenings.get(timeout=15), Connected)
    yield one
    one.close()


def settings(broker: Process, authority: Authority, name: str = "press-7") -> Broker:
    cert, key = authority.issue(name)
    return Broker(f"mqtts://127.0.0.1:{broker.port}", "", None, authority.ca_file, cert, key, broker.version)


def connection(settings: Broker, address: Address = OWN) -> Connection:
    return Connection(settings, address.device, (address.status, encode_presence(Presence(False, bytes(8), 1))))


def publisher_of(outbox: Outbox, where: Broker, **options: Any) -> Publisher:
    return Publisher(outbox, OWN, connection(where), lambda: BIRTH, chance=lambda: 0.1, mark_wait_s=0.5, **options)


def deliver(server: Connection, topic: str, payload: bytes) -> None:
    """Publish as fast as the connection takes it."""
    while server.publish(topic, payload) is None:
        time.sleep(0.002)


def first(one: Connection) -> Happening:
    """Connect and return what came of it."""
    one.open()
    found = one.happenings.get(timeout=15)
    one.close()
    return found


def test_device_with_its_certificate_reports_over_tls(tmp_path, broker, consumer, authority):
    """All of it arrives, and the watermark comes back over its own topic."""
    outbox = Outbox(tmp_path / "device.db")
    publisher = publisher_of(outbox, settings(broker, authority))
    publisher.start()
    produced = put(outbox, 20)
    assert until(lambda: outbox.depth().records == 0)
    publisher.stop()
    assert produced <= set(consumer.committed("press-7"))


def test_certificate_is_changed_without_a_restart(tmp_path, broker, consumer, authority):
    """It has expired, is half written, its key is away: nothing gets through; a good one, and the next attempt does."""
    cert, key = authority.issue("press-7", ends=NOW - DAY)
    where = replace(settings(broker, authority), cert_file=cert, key_file=key)
    cert, key = authority.issue("press-7", ends=NOW - DAY)
    outbox = Outbox(tmp_path / "device.db")
    publisher = publisher_of(outbox, where)
    publisher.start()
    put(outbox, 3)
    assert not until(lambda: consumer.committed("press-7"), 1)
    cert.write_bytes(b"half a certif")
    assert not until(lambda: consumer.committed("press-7"), 1)
    key.unlink()
    assert not until(lambda: consumer.committed("press-7"), 1)
    authority.issue("press-7")
    assert until(lambda: outbox.depth().records == 0)
    publisher.stop()
    assert len(consumer.committed("press-7")) == 4


def test_stranger_is_refused_with_a_reason(tmp_path, broker, authority):
    """No certificate, one of another authority, an expired one, and a broker of another authority or name."""
    other = Authority(tmp_path, "other-ca")
    good = settings(broker, authority)
    foreign_cert, foreign_key = other.issue("press-9")
    old_cert, old_key = authority.issue("press-8", ends=NOW - DAY)
    for bad in (
        replace(good, cert_file=None, key_file=None),
        replace(good, cert_file=foreign_cert, key_file=foreign_key),
        replace(good, cert_file=old_cert, key_file=old_key),
        replace(good, ca_file=other.ca_file),
        replace(good, ca_file=tmp_path / "none.pem"),
        replace(good, url=f"mqtts://localhost:{broker.port}"),
    ):
        found = first(connection(bad))
        assert isinstance(found, Disconnected), bad
        assert found.reason
    assert isinstance(first(connection(good)), Connected)


def test_broker_whose_certificate_has_expired_is_refused(tmp_path, broker, authority):
    """The device does not speak to it, whoever has signed it."""
    good = settings(broker, authority)
    broker.kill()
    broker.secure(authority, [OWN], ends=NOW - DAY)
    broker.start()
    found = first(connection(good))
    assert isinstance(found, Disconnected)
    assert "certificate has expired" in found.reason


def test_device_cannot_write_another_devices_topics(tmp_path, broker, consumer, authority):
    """It publishes as its neighbour: nothing of it reaches the server, whether the broker says so or not."""
    one = connection(settings(broker, authority))
    one.open()
    assert isinstance(one.happenings.get(timeout=15), Connected)
    forged = encode(Record(bytes(8), 1, 1, Stamp(0), BIRTH))
    wrong = [*map(OTHER.up, UP), OTHER.status, *map(OTHER.down, DOWN), *map(OWN.down, DOWN)]
    wrong += [OWN.up("birth").replace("/acme/", "/other/"), OWN.up("birth").replace(OWN.shard, OTHER.shard), "x"]
    watched = heard(broker, authority, [OTHER.down(kind) for kind in DOWN], OTHER)
    arrived = list[int]()

    def is_through() -> bool:
        for topic in (*wrong, OWN.up("birth")):
            deliver(one, topic, forged)
        arrived.append(consumer.offered)
        return bool(consumer.committed("press-7"))

    assert until(is_through)  # again until the server is there: the broker keeps nothing for one it never saw
    assert until(lambda: consumer.offered >= 1)
    one.close()
    assert consumer.committed("press-8") == []
    assert consumer.aside() == []
    assert {epoch for epoch, _ in consumer.committed("press-7")} == {bytes(8)}
    assert watched() == []


def test_device_cannot_hear_another_devices_topics(tmp_path, broker, authority, server):
    """It subscribes to its neighbour's orders and to everything: only its own come."""
    wide = [*(OTHER.down(kind) for kind in DOWN), f"{OTHER.root}/dn/#", "#", "edgert/v1/+/+/+/dn/#"]
    for topics in ([one] for one in wide):
        listen = heard(broker, authority, topics, OWN)
        own = heard(broker, authority, [OTHER.down("cmd")], OTHER)
        assert until(lambda own=own: (deliver(server, OTHER.down("cmd"), b"order"), own())[1])
        assert [one for one in listen(close=True) if one.topic.startswith(OTHER.root)] == [], topics
        own(close=True)


def heard(broker: Process, authority: Authority, topics: list[str], who: Address) -> Callable[..., list[Message]]:
    """Connect, subscribe, and return a function that gives all that came."""
    one, found = connection(settings(broker, authority, who.device), who), list[Message]()
    one.open()
    assert isinstance(one.happenings.get(timeout=15), Connected)
    one.subscribe(topics)

    def so_far(*, close: bool = False) -> list[Message]:
        while not one.happenings.empty():
            happening = one.happenings.get()
            found.extend([happening] if isinstance(happening, Message) else [])
        if close:
            one.close()
        return found

    return so_far


def test_nonsense_on_the_devices_own_topics_does_not_stop_it(tmp_path, broker, consumer, authority, server):
    """No watermark, one of another epoch, payloads that are too large: records go on, none is deleted by them."""
    outbox, orders = Outbox(tmp_path / "device.db"), list[int]()
    publisher = publisher_of(
        outbox, settings(broker, authority), on_message=lambda _, payload: orders.append(len(payload))
    )
    publisher.start()
    produced = set()
    for number in range(20):
        deliver(server, OWN.down("ack"), b"\xff" * number)
        deliver(server, OWN.down("cmd"), bytes([number]) * MAX_PAYLOAD)
        deliver(server, OWN.down("cmd"), bytes(MAX_PAYLOAD + 1 + 1000 * number))
        deliver(server, OWN.down("ack"), bytes(300_000))
        deliver(server, OWN.down("ack"), encode_watermark(Watermark(bytes(8), 1 << 40, (), 0)))
        produced |= put(outbox, 5)
    assert until(lambda: outbox.depth().records == 0)
    publisher.stop()
    assert produced <= set(consumer.committed("press-7"))
    assert set(orders) <= {MAX_PAYLOAD}


def test_flood_of_commands_neither_stops_the_device_nor_fills_its_memory(tmp_path, broker, consumer, authority, server):
    """Commands faster than they can be followed, without end: records arrive meanwhile, and little waits to be read."""
    outbox, followed = Outbox(tmp_path / "device.db"), list[int]()

    def follow(_topic: str, payload: bytes) -> None:
        followed.append(len(payload))
        time.sleep(0.002)  # an order takes its time to be verified

    link = connection(settings(broker, authority))
    publisher = Publisher(outbox, OWN, link, lambda: BIRTH, chance=lambda: 0.1, mark_wait_s=0.5, on_message=follow)
    publisher.start()
    assert until(lambda: publisher.is_connected)
    ended, delivered, most = threading.Event(), list[int](), 0

    def flood() -> None:
        while not ended.is_set():
            deliver(server, OWN.down("cmd"), b"x" * 500)
            delivered.append(1)

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        assert until(lambda: len(delivered) > 2000)
        produced = put(outbox, 60)
        assert until(lambda: outbox.depth().records == 0)
        assert until(lambda: len(delivered) > 5000)
        most = link.happenings.qsize()
    finally:
        ended.set()
        flooding.join()
        publisher.stop()
    assert produced <= set(consumer.committed("press-7"))
    assert len(followed) < len(delivered)
    assert most <= 100


def test_secrets_are_in_no_log_and_no_representation(tmp_path, caplog):
    """A password file that is wrong, a broker that is not there: neither shows what is in it."""
    (tmp_path / "password").write_text("hunter2\n")
    broker = Broker("mqtt://127.0.0.1:1", username="press-7", password_file=tmp_path / "password")
    caplog.set_level("DEBUG")
    found = first(connection(broker))
    assert isinstance(found, Disconnected)
    assert "hunter2" not in caplog.text + repr(broker) + found.reason
