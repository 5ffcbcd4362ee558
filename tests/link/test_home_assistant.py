"""The bridge to Home Assistant: documents as its MQTT integration documents them, over a real broker."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgert.agent.window import SCHEMA as AGENT_SCHEMA
from edgert.columns import FLOAT64, INTEGERS, Column
from edgert.link.home_assistant import (
    State,
    availability_topic,
    discovery,
    discovery_topic,
    sensors,
    state_topic,
)
from edgert.link.home_assistant_sink import HomeAssistantSink
from edgert.link.mqtt import Broker
from edgert.record import COUNTER, Batch, Birth, Event, Events, LogSketch, Metric, Sketches, Slot, Stamp
from edgert.topics import Address
from edgert.wire import schema_hash
from tests.link.brokers import Mosquitto
from tests.link.chaos_proxy import ChaosProxy
from tests.link.listening import Listener, eventually

ADDRESS = Address("acme", "press-7")
SLOT = Slot("ocr", "1.2", "d", "x86-avx2", "cpu-int8", ["CPU"], "CPU", "", b"12345678")
BIRTH = Birth("acme", "press-7", "edgert/test", {"profile": "x86-avx2", "arch": "x86_64"}, (AGENT_SCHEMA,), (SLOT,))

ROOT_KEYS = set(
    "device components origin availability availability_mode availability_template availability_topic "
    "payload_available payload_not_available state_topic command_topic qos encoding".split()
)
DEVICE_KEYS = set(
    "configuration_url connections hw_version identifiers manufacturer model model_id name serial_number "
    "suggested_area sw_version via_device".split()
)
ORIGIN_KEYS = {"name", "sw_version", "support_url"}
SENSOR_KEYS = set(
    "availability availability_mode availability_template availability_topic default_entity_id device device_class "
    "enabled_by_default encoding entity_category entity_picture expire_after force_update icon "
    "json_attributes_template json_attributes_topic last_reset_value_template name options "
    "payload_available payload_not_available platform qos state_class state_topic suggested_display_precision "
    "unique_id unit_of_measurement value_template".split()
)
UNITS = {
    "temperature": {"°C", "°F", "K"},
    "data_size": {"B", "kB", "MB", "GB"},
    "duration": {"d", "h", "min", "s", "ms", "µs"},
    "power": {"W", "kW", "mW"},
    "voltage": {"V", "mV"},
}
"""The keys that https://www.home-assistant.io/integrations/mqtt and …/sensor.mqtt document, and units by class."""


def batch(schema, *columns):
    return Batch(schema_hash(schema), tuple(range(len(columns[0]))), [Column(INTEGERS, one) for one in columns])


def state(birth: Birth, *bodies) -> dict[str, object]:
    found = State(birth)
    for one in bodies:
        found.take(one)
    return json.loads(found.payload())


def test_discovery_document_has_only_documented_keys_and_all_that_are_required():
    """Home Assistant refuses a device with a key that it does not know."""
    document = json.loads(discovery(ADDRESS, BIRTH))
    assert document.keys() <= ROOT_KEYS
    assert {"device", "components", "origin"} <= document.keys()
    assert document["device"].keys() <= DEVICE_KEYS
    assert document["device"]["identifiers"] == ["edgert_press-7"]
    assert all(document["device"].values())
    assert document["origin"].keys() <= ORIGIN_KEYS
    assert document["origin"]["name"]
    assert document["components"]
    for entry in document["components"].values():
        assert entry.keys() <= SENSOR_KEYS
        assert {"platform", "unique_id", "value_template"} <= entry.keys()
        assert entry["platform"] == "sensor"
        if "device_class" in entry:
            assert entry["unit_of_measurement"] in UNITS[entry["device_class"]]
        assert entry.get("state_class", "measurement") in {"measurement", "total_increasing"}
        assert entry.get("entity_category", "diagnostic") == "diagnostic"


def test_topics_and_templates_are_what_home_assistant_reads():
    """The topic matches its pattern, each template names a key of the state, and each id is there once."""
    trimmed = discovery_topic(ADDRESS).removeprefix("homeassistant/")
    assert re.fullmatch(r"device/(?:[a-zA-Z0-9_-]+/)?[a-zA-Z0-9_-]+/config", trimmed)
    document = json.loads(discovery(ADDRESS, BIRTH))
    components = document["components"]
    named = {
        re.fullmatch(r"\{\{ value_json\['([\w-]+)'\] \}\}", one["value_template"])[1] for one in components.values()
    }
    assert named == components.keys() == state(BIRTH).keys()
    assert len({one["unique_id"] for one in components.values()}) == len(components)
    assert (document["state_topic"], document["availability_topic"]) == (
        state_topic(ADDRESS),
        availability_topic(ADDRESS),
    )


def test_agent_is_shown_with_its_counters_gauges_speed_and_last_error():
    """Units are Home Assistant's, counters are totals that only grow, and the error has no unit."""
    by_key = {one.key: one for one in sensors(BIRTH)}
    assert (by_key["temperature_celsius"].unit, by_key["temperature_celsius"].state_class) == ("°C", "measurement")
    inferences = by_key["model0-2f-inferences_total"]
    assert (inferences.unit, inferences.state_class) == ("", "total_increasing")
    assert [by_key[f"model0_{word}"].unit for word in ("rate", "p50", "p95")] == ["1/s", "ms", "ms"]
    assert by_key["last_error"].component(ADDRESS)["entity_category"] == "diagnostic"
    assert "state_class" not in by_key["last_error"].component(ADDRESS)


def test_state_has_the_newest_of_gauges_the_sum_of_counters_and_null_for_the_unknown():
    """Scaled; a null and a NaN are no news."""
    schema = (Metric("t", "degC", 1), Metric("n", "1", 0, COUNTER), Metric("big", "B", -4), Metric("f", "1"))
    birth = Birth("acme", "press-7", "a", {}, (schema,), ())
    first = batch(schema, (200, 215, None), (1, 2, 3), (5, 6, 7))
    nan = Batch(schema_hash(schema), (0,), (None, Column(INTEGERS, (4,)), None, Column(FLOAT64, (float("nan"),))))
    found = state(birth, first, nan, Batch(b"x" * 8, (0,), (Column(INTEGERS, (9,)),)))
    assert found == {"t": 21.5, "n": 10, "big": 70_000, "f": None, "last_error": None}


def test_state_has_rate_and_latency_of_the_window():
    """120 calls in a minute are two a second; the latencies are those of the sketch, in milliseconds."""
    sketch = LogSketch(20, 0, -100, (60, 60))
    found = state(BIRTH, Sketches(0, 60_000, {"run_seconds": sketch, "pre_seconds": sketch}))
    assert found["model0_rate"] == 2
    assert 17 < found["model0_p50"] < found["model0_p95"] < 20
    idle = state(BIRTH, Sketches(0, 60_000, {"run_seconds": LogSketch(20, 0, 0, ())}))
    assert (idle["model0_rate"], idle["model0_p50"]) == (0, None)


def test_state_has_the_code_of_the_last_error():
    """Warnings are none; where a window counts errors by code, it is the most frequent one; no state is too long."""
    warning, failed = Event("hot", 1), Event("inference_failed", 2, 0, {"BadInput": 1, "EnvironmentFailed": 3})
    assert state(BIRTH, Events((Event("io", 2), warning)))["last_error"] == "io"
    assert state(BIRTH, Events((Event("io", 2), failed, warning)))["last_error"] == "EnvironmentFailed"
    assert state(BIRTH, Events((warning,)))["last_error"] is None
    assert len(state(BIRTH, Events((Event("x" * 999, 2),)))["last_error"]) == 255


def test_names_that_topics_and_templates_may_not_have_are_escaped_and_stay_apart():
    """Quotes, braces, slashes and other alphabets cannot leave the template, and no two names become one."""
    names = ("a/b", "a.b", "a-b", "a_b", "a-2f-b", "ü", "'] }}{{ 1", "{% x %}", "a b")
    schema = tuple(Metric(name, "1") for name in names)
    found = sensors(Birth("acme", "press-7", "a", {}, (schema,), ()))
    keys = [one.key for one in found]
    assert len(set(keys)) == len(names) + 1
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", key) for key in keys)
    assert all(one.component(ADDRESS)["value_template"].count("'") == 2 for one in found)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    one = Mosquitto(tmp_path)
    one.start()
    yield one
    one.kill()


def test_sink_shows_the_device_and_what_is_retained_outlives_it(broker):
    """Discovery, then state, then availability; who subscribes later sees the same, and that the device is away."""
    listener = Listener(broker.port, "#")
    sink = HomeAssistantSink(Broker(f"mqtt://127.0.0.1:{broker.port}"), ADDRESS)
    sink.put([(Stamp(0, 1), BIRTH)])
    assert listener.wait(availability_topic(ADDRESS))[0].payload == b"online"
    assert [one.topic for one in listener.messages[:2]] == [discovery_topic(ADDRESS), state_topic(ADDRESS)]
    sink.put([(Stamp(0, 1), batch(AGENT_SCHEMA, (3,), (0,), (0,), (5,), (100,), (450,), (7,)))])
    assert json.loads(listener.wait(state_topic(ADDRESS), 2)[-1].payload)["temperature_celsius"] == 45
    assert sink.close() == 0
    assert listener.wait(availability_topic(ADDRESS), 2)[-1].payload == b"offline"
    listener.close()
    late = Listener(broker.port, "#")
    assert json.loads(late.wait(discovery_topic(ADDRESS))[0].payload) == json.loads(discovery(ADDRESS, BIRTH))
    assert json.loads(late.wait(state_topic(ADDRESS))[0].payload)["model0-2f-inferences_total"] == 3
    assert late.wait(availability_topic(ADDRESS))[0].payload == b"offline"
    assert all(one.retain and one.qos == 1 for one in late.messages)
    late.close()


def test_device_whose_connection_breaks_is_unavailable_until_it_is_back(broker):
    """The will says so; a broker that has forgotten everything is told all of it again, with the totals that go on."""
    listener, proxy = Listener(broker.port, "#"), ChaosProxy(broker.port)
    sink = HomeAssistantSink(Broker(f"mqtt://127.0.0.1:{proxy.port}"), ADDRESS)
    counted = (Stamp(0, 1), batch(AGENT_SCHEMA, (3,), (0,), (0,), (5,), (100,), (None,), (7,)))
    sink.put([(Stamp(0, 1), BIRTH), counted])
    listener.wait(availability_topic(ADDRESS))
    proxy.is_closed = True
    proxy.cut()
    assert listener.wait(availability_topic(ADDRESS), 2)[-1].payload == b"offline"
    eventually(lambda: sink.counters.last_error != "")
    sink.put([counted])
    for topic in (discovery_topic(ADDRESS), state_topic(ADDRESS)):
        listener.publish(topic, b"", retain=True)
    proxy.heal()
    assert listener.wait(availability_topic(ADDRESS), 3)[-1].payload == b"online"
    eventually(lambda: b'"model0-2f-inferences_total": 6' in listener.of(state_topic(ADDRESS))[-1].payload)
    assert json.loads(listener.of(discovery_topic(ADDRESS))[-1].payload) == json.loads(discovery(ADDRESS, BIRTH))
    sink.close()
    proxy.stop()
    listener.close()
