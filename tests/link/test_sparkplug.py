"""Sparkplug B: our bytes are read by an independent implementation and theirs by us, and hostile bytes cost nothing."""

import json
import math
import random
import struct
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime

import pysparkplug
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pysparkplug._protobuf import Payload as GooglePayload

from edgert.columns import FLOAT32, INTEGERS, Column
from edgert.errors import BadInput
from edgert.link.protobuf import bytes_field, varint_field
from edgert.link.quantiles import quantile
from edgert.link.sparkplug import EdgeNode, announced, is_rebirth, known_by_alias, marked, state_topic, told, topic
from edgert.link.sparkplug_payload import (
    MAX_PAYLOAD,
    MOST_METRICS,
    SparkplugMetric,
    SparkplugPayload,
    decode_payload,
    encode_payload,
)
from edgert.link.sparkplug_values import Datatype, Value
from edgert.record import (
    COUNTER,
    Batch,
    BinSketch,
    Birth,
    Categories,
    Event,
    Events,
    LogLines,
    LogSketch,
    Metric,
    Sketches,
    Slot,
    Stamp,
)
from edgert.runtime.telemetry import LogCounts
from edgert.topics import Address
from edgert.wire import schema_hash

ADDRESS = Address("acme", "press-7")
NOW = 1_700_000_000_000
SCHEMA = (Metric("temperature_celsius", "degC", 1), Metric("memory_bytes", "B", -4), Metric("n", "1", 0, COUNTER, 0))
SLOT = Slot("ocr", "1.2", "sha256:ab", "x86-avx2", "cpu-int8", ["NPU", "CPU"], "CPU", "no NPU", b"12345678")
BIRTH = Birth("acme", "press-7", "edgert/test", {"profile": "x86-avx2", "arch": "x86_64"}, (SCHEMA,), (SLOT,))

EDGES: dict[Datatype, list[Value]] = {
    Datatype.INT8: [-128, -1, 0, 127],
    Datatype.INT16: [-32768, -1, 32767],
    Datatype.INT32: [-(2**31), -1, 2**31 - 1],
    Datatype.INT64: [-(2**63), -1, 0, 2**63 - 1],
    Datatype.UINT8: [0, 255],
    Datatype.UINT16: [0, 65535],
    Datatype.UINT32: [0, 2**32 - 1],
    Datatype.UINT64: [0, 2**64 - 1],
    Datatype.FLOAT: [0.0, -1.5, math.inf],
    Datatype.DOUBLE: [0.0, -0.1, 1e300, -math.inf],
    Datatype.BOOLEAN: [True, False],
    Datatype.STRING: ["", "°C ✓", "a" * 1000],
    Datatype.TEXT: ["line\nline"],
    Datatype.UUID: ["6f1e7f1a-0000-4000-8000-000000000000"],
    Datatype.BYTES: [b"", bytes(range(256))],
    Datatype.FILE: [b"\0\1"],
    Datatype.INT8_ARRAY: [(-128, 127)],
    Datatype.INT16_ARRAY: [(-32768, 32767)],
    Datatype.INT32_ARRAY: [(-(2**31), 2**31 - 1)],
    Datatype.INT64_ARRAY: [(-(2**63), 2**63 - 1)],
    Datatype.UINT8_ARRAY: [(0, 255)],
    Datatype.UINT16_ARRAY: [(0, 65535)],
    Datatype.UINT32_ARRAY: [(0, 2**32 - 1)],
    Datatype.UINT64_ARRAY: [(), (0, 2**64 - 1)],
    Datatype.FLOAT_ARRAY: [(0.5, -1.5)],
    Datatype.DOUBLE_ARRAY: [(0.1, 1e300)],
}
CASES = [(datatype, value) for datatype, values in EDGES.items() for value in values]


@pytest.mark.parametrize(("datatype", "value"), CASES)
def test_metric_of_each_datatype_is_read_by_an_independent_implementation_and_back(datatype, value):
    """Both ways, at the edges of each datatype: what is written is what is read."""
    metric = SparkplugMetric("m", datatype, value, alias=7, timestamp=NOW)
    ours = encode_payload(SparkplugPayload((metric,), NOW, 0), with_datatypes=True)
    (read,) = pysparkplug.NBirth.decode(ours).metrics
    assert (read.name, read.alias, read.datatype, read.value) == ("m", 7, datatype, value)
    named = pysparkplug.Metric(NOW, "m", pysparkplug.DataType(datatype), value=value, alias=7)
    theirs = pysparkplug.NBirth(timestamp=NOW, seq=0, metrics=(named,)).encode()
    assert decode_payload(theirs) == SparkplugPayload((metric,), NOW, 0)


def test_datetime_and_nulls_are_read_both_ways():
    """A time is milliseconds here and a datetime there; a null has no value."""
    at = datetime.fromtimestamp(NOW / 1000, UTC)
    metrics = (
        SparkplugMetric("at", Datatype.DATETIME, NOW, timestamp=NOW),
        SparkplugMetric("none", Datatype.DOUBLE, None, timestamp=NOW, is_historical=True),
    )
    ours = encode_payload(SparkplugPayload(metrics, NOW, 3), with_datatypes=True)
    first, second = pysparkplug.NData.decode(ours).metrics
    assert (first.value, second.value, second.is_null, second.is_historical) == (at, None, True, True)
    theirs = pysparkplug.NData(timestamp=NOW, seq=3, metrics=(first, second)).encode(include_dtypes=True)
    assert decode_payload(theirs).metrics == metrics


def test_small_negative_numbers_are_read_as_either_sender_fills_the_field():
    """The reference implementations put -1 of eight bits as 255 or as 4294967295."""
    for filled in (255, 2**32 - 1):
        metric = bytes_field(1, b"m") + varint_field(4, Datatype.INT8) + varint_field(10, filled)
        assert decode_payload(bytes_field(2, metric)).metrics[0].value == -1
    with pytest.raises(BadInput, match="no INT8"):
        decode_payload(bytes_field(2, varint_field(4, Datatype.INT8) + varint_field(10, 256)))


def test_birth_is_what_the_specification_asks_of_one():
    """seq 0, bdSeq and Rebirth without alias, one alias per name, a datatype and a time for each."""
    node = EdgeNode()
    node.begin(announced(BIRTH))
    payload = node.birth(NOW)
    read = pysparkplug.NBirth.decode(payload)
    assert (read.seq, read.timestamp) == (0, NOW)
    by_name = {one.name: one for one in read.metrics}
    assert len(by_name) == len(read.metrics)
    assert (by_name["bdSeq"].datatype, by_name["bdSeq"].value, by_name["bdSeq"].alias) == (4, 0, None)
    rebirth = by_name["Node Control/Rebirth"]
    assert (rebirth.datatype, rebirth.value, rebirth.alias) == (pysparkplug.DataType.BOOLEAN, False, None)
    aliases = [one.alias for one in read.metrics if one.alias is not None]
    assert len(set(aliases)) == len(aliases) == len(read.metrics) - 2
    assert all(one.timestamp for one in read.metrics)
    assert by_name["Models/0/requested"].value == "NPU, CPU"
    assert by_name["temperature_celsius"].is_null
    google = GooglePayload.FromString(payload)
    (properties,) = (one.properties for one in google.metrics if one.name == "Models/0/n")
    told_of = dict(zip(properties.keys, (one.string_value for one in properties.values), strict=True))
    assert told_of == {"engUnit": "1", "kind": "counter"}
    assert decode_payload(payload).metrics[-1].name == "Models/0/queue_seconds/p99"


def test_data_has_aliases_times_and_history_and_no_names():
    """Values are scaled, nulls are nulls, and only the newest sample of a metric is not historical."""
    columns = [Column(INTEGERS, (215, None, 220)), Column(INTEGERS, (1, 2, 3)), Column(FLOAT32, (0.5, 1.5, 2.5))]
    batch = Batch(schema_hash(SCHEMA), (0, 10, 20), columns)
    sketch = LogSketch(20, 1, -100, (1, 2, 3))
    sketches = Sketches(
        0, 60_000, {"run_seconds": sketch, "input/x": BinSketch(2, (1, 2)), "class/y": Categories({"": 1})}
    )
    events = Events((Event("io_failed", 2, 5, {"n": 1}),))
    items = [(Stamp(0, NOW), batch), (Stamp(0, NOW), sketches), (Stamp(0, NOW), events), (Stamp(0, NOW), LogLines(()))]
    metrics = [one for at, body in items for one in told(BIRTH, at, body, NOW + 99)]
    node = EdgeNode()
    node.begin(announced(BIRTH))
    assert node.announce([replace(one, value=None, timestamp=None) for one in metrics])
    birth = node.birth(NOW)
    (payload,) = node.data(marked(metrics), NOW + 99)
    assert not any(one.name or one.datatype for one in GooglePayload.FromString(payload).metrics)
    theirs = pysparkplug.NData.decode(payload, birth=pysparkplug.NBirth.decode(birth))
    assert theirs.seq == 1
    rows = [(one.name, one.value, one.timestamp - NOW, one.is_historical) for one in theirs.metrics]
    assert rows[:9] == [
        ("temperature_celsius", 21.5, 0, True),
        ("temperature_celsius", None, 10, True),
        ("temperature_celsius", 22.0, 20, False),
        ("memory_bytes", 10_000.0, 0, True),
        ("memory_bytes", 20_000.0, 10, True),
        ("memory_bytes", 30_000.0, 20, False),
        ("Models/0/n", 0.5, 0, True),
        ("Models/0/n", 1.5, 10, True),
        ("Models/0/n", 2.5, 20, False),
    ]
    values = {name: value for name, value, _, _ in rows[9:]}
    assert values["Models/0/run_seconds/count"] == 7
    assert values["Models/0/run_seconds/p95"] == pytest.approx(0.0194, rel=0.03)
    assert values["Models/0/input/x/counts"] == (1, 2)
    assert (values["Models/0/input/x/nonfinite"], values["Models/0/class/y/counts"]) == (2, '{"": 1}')
    assert (values["Event/code"], values["Event/severity"]) == ("io_failed", 2)
    assert json.loads(values["Event/details"]) == {"n": 1}
    ours = decode_payload(payload, known_by_alias(decode_payload(birth)))
    assert [(one.name, one.value, one.timestamp - NOW, one.is_historical) for one in ours.metrics] == rows


def test_seq_wraps_at_256_and_a_birth_begins_anew():
    """0 is the birth's, 255 is followed by 0; bdSeq goes up with each connection and is in birth and death."""
    node = EdgeNode(254)
    metric = SparkplugMetric("m", Datatype.DOUBLE, 1.0, timestamp=NOW)
    node.announce([metric])
    for bd_seq in (255, 0):
        node.next_connection()
        born, death = decode_payload(node.birth(NOW)), decode_payload(node.death(NOW))
        assert (born.seq, death.seq) == (0, None)
        assert born.metrics[0].value == death.metrics[0].value == bd_seq
        assert pysparkplug.NDeath.decode(node.death(NOW)).bd_seq_metric.value == bd_seq
    found = [decode_payload(payload).seq for _ in range(300) for payload in node.data([metric], NOW)]
    assert found == [number % 256 for number in range(1, 301)]


def test_data_larger_than_a_payload_is_split_and_each_part_has_its_own_seq():
    """All values come, in payloads of at most 65,536 bytes."""
    wide = tuple(Metric(f"m{place}", "1") for place in range(20))
    birth = replace(BIRTH, schemas=(wide,))
    columns = [Column(INTEGERS, tuple(range(600))) for _ in wide]
    metrics = told(birth, Stamp(0), Batch(schema_hash(wide), range(600), columns), NOW)
    node = EdgeNode()
    node.begin(announced(birth))
    payloads = node.data(metrics, NOW)
    assert len(payloads) > 1
    assert max(map(len, payloads)) <= 65_536
    read = [decode_payload(one) for one in payloads]
    assert [one.seq for one in read] == list(range(1, len(read) + 1))
    assert [one.value for part in read for one in part.metrics] == [float(n) for _ in wide for n in range(600)]
    assert read[0].metrics[0].timestamp == NOW - 599, "without a wall clock the newest sample is now"


def test_newer_birth_keeps_what_was_measured_and_forgets_what_is_no_longer_there():
    """Aliases stay; a value that was measured before the birth was made is in it."""
    node = EdgeNode()
    node.begin(announced(BIRTH))
    node.keep([SparkplugMetric("temperature_celsius", Datatype.DOUBLE, 20.0, timestamp=5)])
    before = {one.name: one.alias for one in decode_payload(node.birth(NOW)).metrics}
    node.begin(announced(replace(BIRTH, slots=(), schemas=(SCHEMA[:2],))))
    after = {one.name: one for one in decode_payload(node.birth(NOW)).metrics}
    assert (after["temperature_celsius"].value, after["temperature_celsius"].timestamp) == (20.0, 5)
    assert "Models/0/n" not in after
    assert {name: one.alias for name, one in after.items()}.items() <= before.items()


def test_name_that_is_taken_gets_its_schema_into_it():
    """Two columns of one name, or one that is called as something of ours, are two metrics."""
    schemas = ((Metric("Event/code", "1"), Metric("a", "1")), (Metric("a", "s"),))
    names = [one.name for one in announced(replace(BIRTH, schemas=schemas))]
    assert len(set(names)) == len(names)
    assert f"a@{schema_hash(schemas[1]).hex()}/0" in names


def test_batch_of_a_schema_that_the_birth_lacks_is_refused():
    """Its columns have no names."""
    with pytest.raises(BadInput, match="the birth does not"):
        told(BIRTH, Stamp(0), Batch(b"x" * 8, (0,), []), NOW)


def test_topics_are_those_of_the_specification():
    """They are what the independent implementation reads as such."""
    parsed = pysparkplug.Topic.from_str(topic(ADDRESS, "NDATA"))
    assert (parsed.group_id, parsed.message_type, parsed.edge_node_id) == ("acme", "NDATA", "press-7")
    assert state_topic("scada") == "spBv1.0/STATE/scada"
    with pytest.raises(BadInput, match="cannot be a word"):
        state_topic("a/#")


@pytest.mark.parametrize("include_dtypes", [True, False])
def test_rebirth_command_of_an_independent_host_is_understood(include_dtypes):
    """With or without a datatype; false is no request."""
    for value in (True, False):
        metric = pysparkplug.Metric(NOW, "Node Control/Rebirth", pysparkplug.DataType.BOOLEAN, value=value)
        raw = pysparkplug.NCmd(timestamp=NOW, metrics=(metric,)).encode(include_dtypes=include_dtypes)
        assert is_rebirth(decode_payload(raw)) is value


TIMES = st.integers(0, 2**64 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.one_of(
    st.tuples(st.just(Datatype.INT64), st.none() | st.integers(-(2**63), 2**63 - 1)),
    st.tuples(st.just(Datatype.INT16), st.none() | st.integers(-(2**15), 2**15 - 1)),
    st.tuples(st.just(Datatype.UINT64), st.none() | TIMES),
    st.tuples(st.just(Datatype.DOUBLE), st.none() | st.floats(allow_nan=False)),
    st.tuples(st.just(Datatype.BOOLEAN), st.none() | st.booleans()),
    st.tuples(st.just(Datatype.STRING), st.none() | TEXTS),
    st.tuples(st.just(Datatype.BYTES), st.none() | st.binary()),
    st.tuples(st.just(Datatype.UINT64_ARRAY), st.none() | st.lists(TIMES).map(tuple)),
)
PROPERTIES = st.dictionaries(
    TEXTS,
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXTS,
    max_size=4,
)
METRICS = st.builds(
    lambda name, kind, alias, time, old, properties: SparkplugMetric(name, *kind, alias, time, old, properties),
    st.none() | TEXTS,
    VALUES,
    st.none() | TIMES,
    st.none() | TIMES,
    st.booleans(),
    PROPERTIES,
)
PAYLOADS = st.builds(
    SparkplugPayload, st.lists(METRICS, max_size=6).map(tuple), st.none() | TIMES, st.none() | st.integers(0, 255)
)


@given(PAYLOADS)
@settings(deadline=None)
def test_any_payload_comes_back_and_google_reads_the_same_bytes(payload):
    """What is encoded is decoded; Google's protobuf with the published schema finds no field that it does not know."""
    raw = encode_payload(payload, with_datatypes=True)
    assert decode_payload(raw) == payload
    google = GooglePayload.FromString(raw)
    google.DiscardUnknownFields()
    assert len(google.SerializeToString()) == len(raw)
    assert decode_payload(google.SerializeToString()) == payload


SAMPLE = encode_payload(
    SparkplugPayload(
        tuple(
            SparkplugMetric(f"m{place}", *case, alias=place, timestamp=NOW, properties={"engUnit": "s", "n": 1})
            for place, case in enumerate(CASES[::2])
        ),
        NOW,
        9,
    ),
    with_datatypes=True,
)


def _hostile(count: int) -> list[bytes]:
    """Return damaged, cut, spliced and random payloads."""
    chance = random.Random(7)
    found = list[bytes]()
    for _ in range(count):
        data = bytearray(SAMPLE[: chance.randrange(len(SAMPLE) + 1)] if chance.random() < 0.5 else SAMPLE)
        for _ in range(chance.randrange(1, 8)):
            place = chance.randrange(len(data) + 1)
            data[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(4))
        found.append(bytes(data) if chance.random() < 0.8 else chance.randbytes(chance.randrange(200)))
    return found


def test_hostile_payloads_give_a_payload_or_bad_input_in_bounded_memory():
    """4,000 damaged payloads: never another exception, never more than a few times the bytes that are there."""
    payloads = _hostile(4000)
    decode_payload(SAMPLE)
    refused = sum(map(_is_refused, payloads))
    assert 1000 < refused < 4000
    tracemalloc.start()
    for one in payloads[:200]:
        _is_refused(one)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def _is_refused(payload: bytes) -> bool:
    try:
        decode_payload(payload)
    except BadInput:
        return True
    return False


def test_largest_payloads_are_bounded():
    """The most metrics that the bytes can name, the most properties, one that claims more than there is."""
    tracemalloc.start()
    for raw in (
        bytes_field(2, b"") * (MAX_PAYLOAD // 2),
        bytes_field(2, bytes_field(9, bytes_field(1, b"") * 100_000)),
        bytes_field(2, bytes_field(9, bytes_field(2, b"") * 100_000)),
        b"\x12\xff\xff\xff\xff\x0f",
        b"\x0a" * MAX_PAYLOAD,
        b"x" * (MAX_PAYLOAD + 1),
    ):
        with pytest.raises(BadInput):
            decode_payload(raw)
    assert tracemalloc.get_traced_memory()[1] < 16_000_000
    tracemalloc.stop()
    assert len(decode_payload(bytes_field(2, b"") * MOST_METRICS).metrics) == MOST_METRICS


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"\x08", "ends within a number"),
        (b"\x08" + b"\xff" * 10, "more than 64 bits"),
        (b"\x08" + b"\x80" * 10 + b"\x01", "more than 64 bits"),
        (b"\x00\x00", "number 0"),
        (b"\x0b", "wire type 3"),
        (b"\x0f", "wire type 7"),
        (b"\x0d\x00\x00\x00\x00", "wire type 5"),
        (varint_field(1, 1) * 2, "twice"),
        (varint_field(3, 256), "seq 256"),
        (bytes_field(2, bytes_field(1, b"\xff")), "UTF-8"),
        (bytes_field(2, varint_field(4, 16)), "datatype 16"),
        (bytes_field(2, varint_field(4, 99)), "datatype 99"),
        (bytes_field(2, varint_field(4, 12) + varint_field(10, 1)), "in field 10"),
        (bytes_field(2, varint_field(10, 1) * 2), "a second one"),
        (bytes_field(2, varint_field(10, 1 << 32)), "32 bits"),
        (bytes_field(2, varint_field(14, 2)), "boolean is 2"),
        (bytes_field(2, bytes_field(17, b"")), "field 17"),
        (bytes_field(2, varint_field(4, 29) + bytes_field(16, b"123")), "3 bytes"),
        (bytes_field(2, bytes_field(9, bytes_field(1, b"a"))), "1 different keys and 0 values"),
        (bytes_field(2, bytes_field(9, (bytes_field(1, b"a") + bytes_field(2, b"")) * 2)), "1 different keys"),
        (
            bytes_field(2, bytes_field(9, bytes_field(1, b"a") + bytes_field(2, bytes_field(9, b"")))),
            "set of properties",
        ),
    ],
)
def test_malformed_payload_is_refused_with_what_is_wrong(raw, says):
    """Each rule of the decoder can fail."""
    with pytest.raises(BadInput, match=says):
        decode_payload(raw)


def test_alias_that_no_birth_told_is_refused_and_unknown_fields_are_passed_over():
    """A server asks for a rebirth then; a newer version's fields do no harm."""
    raw = bytes_field(2, varint_field(2, 5) + varint_field(10, 1) + varint_field(40, 1)) + bytes_field(9, b"new")
    assert decode_payload(raw).metrics == (SparkplugMetric(None, None, 1, 5),)
    with pytest.raises(BadInput, match="alias 5, which no birth told"):
        decode_payload(raw, {})
    known = {5: SparkplugMetric("m", Datatype.INT32, None, 5)}
    assert decode_payload(raw, known).metrics == (SparkplugMetric("m", Datatype.INT32, 1, 5),)


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        (Datatype.INT8, 128),
        (Datatype.UINT8, -1),
        (Datatype.STRING, 1),
        (Datatype.UINT64_ARRAY, (-1,)),
        (Datatype.BYTES, 9),
    ],
)
def test_value_that_its_datatype_cannot_hold_is_refused(datatype, value):
    """It is never cut to fit."""
    with pytest.raises(BadInput, match=datatype.name):
        encode_payload(SparkplugPayload((SparkplugMetric("m", datatype, value),)), with_datatypes=True)


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=50), st.sampled_from([0.5, 0.95, 0.99]))
@settings(deadline=None)
def test_quantile_is_within_the_error_of_the_sketch(values, share):
    """It is at most 2 % beside a value that was counted at that place."""
    counts = LogCounts()
    for value in values:
        counts.add(value)
    exact = sorted(values)[int(share * (len(values) - 1))]
    assert quantile(counts.sketch(), share) == pytest.approx(exact, rel=0.0201)


def test_quantile_of_nothing_is_none_and_of_zeros_is_zero():
    """No value is made up, and counts whose bucket no float can name give none."""
    assert quantile(LogSketch(20, 0, 0, ()), 0.5) is None
    assert quantile(LogSketch(20, 3, 0, ()), 0.5) == 0
    assert quantile(LogSketch(20, 0, 10**6, (1,)), 0.5) is None


def test_sample_bytes_stay_what_they_are():
    """A fixed payload, byte for byte: a change of the encoder is seen."""
    metric = SparkplugMetric(None, Datatype.DOUBLE, 1.5, alias=2, timestamp=3, is_historical=True)
    raw = encode_payload(SparkplugPayload((metric,), 1, 2), with_datatypes=False)
    assert raw == bytes.fromhex("0801120f10021803280169") + struct.pack("<d", 1.5) + b"\x18\x02"
