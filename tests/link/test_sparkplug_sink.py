"""The Sparkplug sink over a real broker, heard by a host of its own: births, data, deaths, rebirths, reconnection."""

import json
from collections.abc import Iterator
from pathlib import Path

import pysparkplug
import pytest

from edgert.columns import INTEGERS, Column
from edgert.link.live import MOST_WAITING
from edgert.link.mqtt import Broker
from edgert.link.sparkplug import known_by_alias, state_topic, topic
from edgert.link.sparkplug_payload import SparkplugMetric, decode_payload
from edgert.link.sparkplug_sink import SparkplugSession, SparkplugSink
from edgert.record import Batch, BinSketch, Birth, Body, Metric, Sketches, Slot, Stamp
from edgert.topics import Address
from edgert.wire import schema_hash
from tests.link.brokers import Mosquitto
from tests.link.chaos_proxy import ChaosProxy
from tests.link.listening import Listener, eventually, pause

ADDRESS = Address("acme", "press-7")
SCHEMA = (Metric("n", "1"),)
SLOT = Slot("ocr", "1", "d", "p", "v", ["CPU"], "CPU", "", b"12345678")
BIRTH = Birth("acme", "press-7", "edgert/test", {}, (SCHEMA,), (SLOT,))
NBIRTH, NDATA, NDEATH, NCMD = (topic(ADDRESS, kind) for kind in ("NBIRTH", "NDATA", "NDEATH", "NCMD"))


def batch(value: int) -> tuple[Stamp, Body]:
    return Stamp(0, 1000 + value), Batch(schema_hash(SCHEMA), (0,), (Column(INTEGERS, (value,)),))


def rebirth() -> bytes:
    metric = pysparkplug.Metric(1, "Node Control/Rebirth", pysparkplug.DataType.BOOLEAN, value=True)
    return bytes(pysparkplug.NCmd(timestamp=1, metrics=(metric,)).encode())


def values(messages: list, birth: bytes) -> list[float]:
    """Return the values of `n` as an independent host reads them."""
    born = pysparkplug.NBirth.decode(birth)
    read = [one for message in messages for one in pysparkplug.NData.decode(message.payload, birth=born).metrics]
    return [one.value for one in read if one.name == "n"]


@pytest.fixture(params=["5", "3"], ids=["mqtt5", "mqtt311"])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    one = Mosquitto(tmp_path)
    one.start()
    yield one
    one.kill()


@pytest.fixture
def host(broker: Mosquitto) -> Iterator[Listener]:
    one = Listener(broker.port, "spBv1.0/#")
    yield one
    one.close()


def test_node_is_born_tells_data_and_says_that_it_goes(broker, host, version):
    """At QoS 0, not retained, seq without gaps, and the death has the bdSeq of the birth."""
    sink = SparkplugSink(Broker(f"mqtt://127.0.0.1:{broker.port}", version=version), ADDRESS, bd_seq=4)
    sink.put([(Stamp(0, 1), BIRTH)])
    host.wait(NBIRTH)
    for value in range(5):
        sink.put([batch(value)])
        host.wait(NDATA, value + 1)
    assert sink.close() == 0
    (death,) = host.wait(NDEATH)
    (birth,) = host.of(NBIRTH)
    assert values(host.of(NDATA), birth.payload) == [0, 1, 2, 3, 4]
    assert [decode_payload(one.payload).seq for one in host.of(NDATA)] == [1, 2, 3, 4, 5]
    assert {(one.qos, one.retain) for one in host.messages} == {(0, False)}
    assert pysparkplug.NDeath.decode(death.payload).bd_seq_metric.value == 5
    assert decode_payload(birth.payload).metrics[0] == SparkplugMetric(
        "bdSeq", 4, 5, None, decode_payload(birth.payload).timestamp
    )
    assert sink.counters.dropped == 0


def test_close_at_once_still_tells_what_was_put(broker, host):
    """The last report of an agent that was stopped is not lost to a good connection."""
    sink = SparkplugSink(Broker(f"mqtt://127.0.0.1:{broker.port}"), ADDRESS)
    sink.put([(Stamp(0, 1), BIRTH)])
    host.wait(NBIRTH)
    sink.put([batch(7)])
    assert sink.close() == 0
    host.wait(NDEATH)
    assert values(host.of(NDATA), host.of(NBIRTH)[0].payload) == [7]


def test_node_is_born_again_when_it_is_asked_to_be(broker, host):
    """A command of an independent host brings seq 0, the same bdSeq and the newest values; junk brings nothing."""
    sink = SparkplugSink(Broker(f"mqtt://127.0.0.1:{broker.port}"), ADDRESS)
    sink.put([(Stamp(0, 1), BIRTH), batch(41), batch(42)])
    host.wait(NDATA)
    host.publish(NCMD, b"\xff\xff")
    host.publish(NCMD, b"")
    for _ in range(50):
        host.publish(NCMD, rebirth())
    first, second = (decode_payload(one.payload) for one in host.wait(NBIRTH, 2)[:2])
    pause()
    assert len(host.of(NBIRTH)) <= 3, "fifty requests are not fifty births"
    assert (first.seq, second.seq) == (0, 0)
    assert first.metrics[0].value == second.metrics[0].value
    assert {one.name: one.value for one in second.metrics}["n"] == 42
    sink.put([batch(43)])
    data = host.wait(NDATA, 2)[-1]
    assert decode_payload(data.payload).seq == 1
    sink.close()


def test_name_that_the_birth_did_not_have_is_a_new_birth_first(broker, host):
    """A host never sees an alias that it was not told."""
    sink = SparkplugSink(Broker(f"mqtt://127.0.0.1:{broker.port}"), ADDRESS)
    sink.put([(Stamp(0, 1), BIRTH), (Stamp(0, 1), Sketches(0, 1000, {"input/x": BinSketch(0, (1, 2, 3))}))])
    host.wait(NDATA)
    sink.close()
    host.wait(NDEATH)
    assert [one.topic for one in host.messages] == [NBIRTH, NBIRTH, NDATA, NDEATH]
    born = known_by_alias(decode_payload(host.messages[1].payload))
    read = {one.name: one.value for one in decode_payload(host.messages[2].payload, born).metrics}
    assert read["Models/0/input/x/counts"] == (1, 2, 3)


def test_node_whose_connection_breaks_dies_by_its_will_and_comes_back(broker, host):
    """The broker tells the death, with the birth's bdSeq, not retained; the next life has the next, and what waited."""
    proxy = ChaosProxy(broker.port)
    sink = SparkplugSink(Broker(f"mqtt://127.0.0.1:{proxy.port}"), ADDRESS)
    sink.put([(Stamp(0, 1), BIRTH), batch(1)])
    host.wait(NDATA)
    proxy.is_closed = True
    proxy.cut()
    (death,) = host.wait(NDEATH)
    late = Listener(broker.port, "spBv1.0/#")
    pause()
    assert late.messages == [], "a death is not retained"
    late.close()
    eventually(lambda: sink.counters.last_error != "")
    sink.put([batch(2)])
    sink.put([batch(3)])
    proxy.heal()
    births = [decode_payload(one.payload) for one in host.wait(NBIRTH, 2)]
    first, second = (one.metrics[0].value for one in births)
    assert first == decode_payload(death.payload).metrics[0].value
    assert second > first
    host.wait(NDATA, 2)
    assert values(host.of(NDATA), host.of(NBIRTH)[-1].payload) == [1, 2, 3]
    assert sink.counters.connects == 2
    sink.close()
    proxy.stop()


def test_node_with_a_primary_host_lives_only_while_that_is_online(broker, host):
    """It waits for the host to be born, dies when the host goes, and tells what waited when the host is back."""
    sink = SparkplugSink(Broker(f"mqtt://127.0.0.1:{broker.port}"), ADDRESS, primary_host="scada")
    sink.put([(Stamp(0, 1), BIRTH), batch(1)])
    eventually(lambda: sink.counters.connects == 1)
    pause()
    assert host.of(NBIRTH) == []
    say = lambda online, time: host.publish(  # noqa: E731
        state_topic("scada"), json.dumps({"online": online, "timestamp": time}).encode(), retain=True
    )
    host.publish(state_topic("scada"), b"OFFLINE, as of old", retain=True)
    say(True, 10)
    host.wait(NDATA)
    say(False, 5)
    pause()
    assert host.of(NDEATH) == [], "an older state is none"
    say(False, 20)
    host.wait(NDEATH)
    sink.put([batch(2)])
    eventually(lambda: sink.counters.connects == 2)
    pause()
    assert len(host.of(NBIRTH)) == 1
    say(True, 30)
    host.wait(NDATA, 2)
    assert values(host.of(NDATA), host.of(NBIRTH)[-1].payload) == [1, 2]
    births = [decode_payload(one.payload).metrics[0].value for one in host.of(NBIRTH)]
    assert births == [0, 1]
    sink.close()


def test_sink_without_a_broker_keeps_the_birth_and_the_newest_and_counts_the_rest(broker, host):
    """Nobody waits for it, memory has a bound, and what was kept is told when the broker is there."""
    proxy = ChaosProxy(broker.port)
    proxy.is_closed = True
    sink = SparkplugSink(Broker(f"mqtt://127.0.0.1:{proxy.port}"), ADDRESS)
    sink.put([(Stamp(0, 1), BIRTH)])
    for value in range(MOST_WAITING + 9):
        sink.put([batch(value)])
    assert sink.counters.dropped == 10
    eventually(lambda: sink.counters.last_error != "")
    proxy.heal()
    host.wait(NDATA)
    assert values(host.of(NDATA), host.of(NBIRTH)[-1].payload) == list(range(10, MOST_WAITING + 9))
    sink.close()
    proxy.stop()


def test_sink_that_never_had_a_broker_says_how_much_nobody_got():
    """Closing does not wait for one that is not there."""
    sink = SparkplugSink(Broker("mqtt://127.0.0.1:1"), ADDRESS)
    sink.put([(Stamp(0, 1), BIRTH), batch(1)])
    eventually(lambda: "refused" in sink.counters.last_error.lower())
    assert sink.close() == 2


def test_report_that_has_no_name_is_left_out_and_the_rest_is_told():
    """What comes before the birth, or has a schema that the birth lacks, does not end the session."""
    session = SparkplugSession(ADDRESS, now_ms=lambda: 5000)
    session.will()
    session.connected()
    strange = (Stamp(0, 1), Batch(b"x" * 8, (0,), ()))
    said = session.told([batch(1), (Stamp(0, 1), BIRTH), strange, batch(2)])
    assert [one.topic for one in said] == [NBIRTH, NDATA]
    assert values(said[1:], said[0].payload) == [2]
