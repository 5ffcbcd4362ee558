"""TLS, names and topics: who may connect, as whom, and what of another device's a device can touch."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgert.link.mqtt import Broker, Connected, Connection, Disconnected, Happening
from edgert.link.outbox import Outbox
from edgert.link.publisher import Publisher
from edgert.record import Presence, Record, Stamp
from edgert.topics import Address
from edgert.wire import encode, encode_presence, encode_watermark
from examples.store_and_forward.consumer import Consumer
from tests.link.brokers import Mosquitto, free_port
from tests.link.certificates import DAY, NOW, Authority
from tests.link.test_publisher import BIRTH, put, until

OWN, OTHER = Address("acme", "press-7"), Address("acme", "press-8")

TLS = """
cafile {ca}
certfile {cert}
keyfile {key}
require_certificate true
use_identity_as_username true
acl_file {folder}/acl
listener {plain} 127.0.0.1
allow_anonymous true
"""
ACL = """
topic readwrite #
pattern readwrite $SYS/nothing/%u
user press-7
topic write edgert/v1/{own}/up/#
topic write edgert/v1/{own}/st
topic read edgert/v1/{own}/dn/#
user press-8
topic write edgert/v1/{other}/up/#
topic read edgert/v1/{other}/dn/#
"""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def broker(tmp_path: Path, authority: Authority) -> Iterator[Mosquitto]:
    """Yield a broker that takes devices by certificate on `port`, and the server on `plain`, in the clear."""
    cert, key = authority.issue("broker")
    roots = {"own": OWN.root.removeprefix("edgert/v1/"), "other": OTHER.root.removeprefix("edgert/v1/")}
    (tmp_path / "acl").write_text(ACL.format(**roots))
    one = Mosquitto(tmp_path)
    one.plain = free_port()
    text = TLS.format(ca=authority.ca_file, cert=cert, key=key, folder=tmp_path, plain=one.plain)
    one.configure(f"listener {one.port} 127.0.0.1\n{text}")
    one.start()
    yield one
    one.kill()


@pytest.fixture
def consumer(tmp_path: Path, broker: Mosquitto) -> Iterator[Consumer]:
    one = Consumer(tmp_path / "server.db")
    one.start(broker.plain)
    yield one
    one.stop()


def settings(broker: Mosquitto, authority: Authority, name: str = "press-7") -> Broker:
    cert, key = authority.issue(name)
    return Broker(f"mqtts://127.0.0.1:{broker.port}", ca_file=authority.ca_file, cert_file=cert, key_file=key)


def connection(settings: Broker, address: Address = OWN) -> Connection:
    return Connection(settings, address.device, (address.status, encode_presence(Presence(False, bytes(8), 1))))


def first(one: Connection) -> Happening:
    """Connect and return what came of it."""
    one.open()
    found = one.happenings.get(timeout=15)
    one.close()
    return found


def test_device_with_its_certificate_reports_over_tls(tmp_path, broker, consumer, authority):
    """All of it arrives, and the watermark comes back over its own topic."""
    outbox = Outbox(tmp_path / "device.db")
    publisher = Publisher(outbox, OWN, connection(settings(broker, authority)), lambda: BIRTH, chance=lambda: 0.1)
    publisher.start()
    produced = put(outbox, 20)
    assert until(lambda: outbox.depth().records == 0)
    publisher.stop()
    assert produced <= set(consumer.committed("press-7"))


def test_certificate_is_changed_without_a_restart(tmp_path, broker, consumer, authority):
    """It has expired: nothing gets through; a new one in the same place, and the next attempt does."""
    cert, key = authority.issue("press-7", ends=NOW - DAY)
    where = Broker(f"mqtts://127.0.0.1:{broker.port}", ca_file=authority.ca_file, cert_file=cert, key_file=key)
    outbox = Outbox(tmp_path / "device.db")
    publisher = Publisher(outbox, OWN, connection(where), lambda: BIRTH, chance=lambda: 0.1)
    publisher.start()
    put(outbox, 3)
    assert not until(lambda: consumer.committed("press-7"), 4)
    authority.issue("press-7")
    assert until(lambda: outbox.depth().records == 0)
    publisher.stop()
    assert len(consumer.committed("press-7")) == 4


def test_stranger_is_refused_with_a_reason(tmp_path, broker, authority):
    """No certificate, one of another authority, and a broker that another authority vouches for."""
    other = Authority(tmp_path, "other-ca")
    good = settings(broker, authority)
    foreign_cert, foreign_key = other.issue("press-9")
    for bad in (
        replace(good, cert_file=None, key_file=None),
        replace(good, cert_file=foreign_cert, key_file=foreign_key),
        replace(good, ca_file=other.ca_file),
    ):
        found = first(connection(bad))
        assert isinstance(found, Disconnected), bad
        assert found.reason
    assert isinstance(first(connection(good)), Connected)


def test_device_cannot_write_another_devices_topics(tmp_path, broker, consumer, authority):
    """It publishes as its neighbour: nothing of it is in the database, not even set aside."""
    one = connection(settings(broker, authority))
    one.open()
    assert isinstance(one.happenings.get(timeout=15), Connected)
    forged = encode(Record(bytes(8), 1, 1, Stamp(0), BIRTH))
    for topic in (OTHER.up("birth"), OTHER.status, OTHER.down("ack"), OWN.down("ack")):
        one.publish(topic, forged)
    one.publish(OWN.up("birth"), forged)
    assert until(lambda: consumer.committed("press-7"))
    one.close()
    assert consumer.committed("press-8") == []
    assert consumer.offered == 1


def test_nonsense_on_the_devices_own_topics_does_not_stop_it(tmp_path, broker, consumer, authority):
    """A flood of what is no watermark, and watermarks of other epochs: records go on, and none is deleted by them."""
    from edgert.record import Watermark

    server = Connection(Broker(f"mqtt://127.0.0.1:{broker.plain}", version=4), "chaos", ("x", b""))
    server.open()
    assert isinstance(server.happenings.get(timeout=15), Connected)
    outbox = Outbox(tmp_path / "device.db")
    publisher = Publisher(outbox, OWN, connection(settings(broker, authority)), lambda: BIRTH, chance=lambda: 0.1)
    publisher.start()
    produced = set()
    for number in range(20):
        server.publish(OWN.down("ack"), b"\xff" * number)
        server.publish(OWN.down("cmd"), bytes([number]) * 60_000)
        server.publish(OWN.down("ack"), encode_watermark(Watermark(bytes(8), 1 << 40, (), 0)))
        produced |= put(outbox, 5)
    assert until(lambda: outbox.depth().records == 0)
    publisher.stop()
    server.close()
    assert produced <= set(consumer.committed("press-7"))


def test_secrets_are_in_no_log_and_no_representation(tmp_path, caplog):
    """A password file that is wrong, a broker that is not there: neither shows what is in it."""
    (tmp_path / "password").write_text("hunter2\n")
    broker = Broker("mqtt://127.0.0.1:1", username="press-7", password_file=tmp_path / "password")
    caplog.set_level("DEBUG")
    found = first(connection(broker))
    assert isinstance(found, Disconnected)
    assert "hunter2" not in caplog.text + repr(broker) + found.reason
