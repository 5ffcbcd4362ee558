"""Records to bytes and back: what is sent is what arrives, in few bytes."""

import random

import pytest
from hypothesis import given, settings

from edgert import cbor
from edgert.columns import INTEGERS, Column, decode_column, decode_varints, encode_column, encode_varints
from edgert.errors import BadInput
from edgert.record import (
    Batch,
    Event,
    Events,
    Metric,
    Presence,
    Record,
    Stamp,
    Sync,
    Watermark,
)
from edgert.wire import (
    decode,
    decode_presence,
    decode_watermark,
    encode,
    encode_presence,
    encode_watermark,
    schema_hash,
)
from tests.telemetry import RECORDS

EPOCH = bytes(range(8))


def gauges(samples: int, metrics: int) -> tuple[Column, ...]:
    """Return random walks, noisy and quiet ones in turns, as integers of hundredths."""
    made = random.Random(5)
    found = []
    for place in range(metrics):
        value, width = made.randint(0, 5000), 40 if place % 2 else 3
        values = []
        for _ in range(samples):
            value += made.randint(-width, width)
            values.append(value)
        found.append(Column(INTEGERS, tuple(values)))
    return tuple(found)


def batch_of(samples: int, metrics: int) -> Record:
    schema = tuple(Metric(f"metric_{place}", "s", 2) for place in range(metrics))
    body = Batch(schema_hash(schema), tuple(range(0, samples * 5000, 5000)), gauges(samples, metrics))
    return Record(EPOCH, 70_000, 3, Stamp(86_400_000, 1_790_000_000_000, Sync.NTP), body)


@given(RECORDS)
@settings(max_examples=300, deadline=None)
def test_decode_returns_the_very_record_that_was_encoded(record):
    """Every kind of body, any value that its type allows."""
    assert decode(encode(record), record.kind) == record


@given(RECORDS)
@settings(max_examples=50, deadline=None)
def test_encode_gives_the_same_bytes_each_time(record):
    """A record that is sent again is the same message."""
    assert encode(record) == encode(decode(encode(record), record.kind))


def test_sixty_samples_of_twenty_metrics_are_at_most_1500_bytes():
    """1.25 bytes a point, envelope and all; the values are those that were put in."""
    record = batch_of(60, 20)
    payload = encode(record)
    assert len(payload) <= 1500
    assert len(payload) / (60 * 20) <= 1.25
    assert decode(payload, "tel").body.columns[7].values == record.body.columns[7].values


def test_batch_is_deflated_only_where_that_is_smaller():
    """A repetitive log shrinks; a batch of one sample stays as it is."""
    single = cbor.loads(encode(batch_of(1, 3)), "a record")
    assert single[7] == 0
    events = Events(tuple(Event("same_thing_again", 1, 0, {"provider": "CPU"}) for _ in range(50)))
    packed = cbor.loads(encode(Record(EPOCH, 1, 1, Stamp(0), events)), "a record")
    assert packed[7] == 1
    assert len(packed[8]) < 200


def test_schema_hash_changes_with_every_field():
    """A schema that differs in anything is another one."""
    base = Metric("a", "s", 1, 0, None)
    others = [
        Metric("b", "s", 1),
        Metric("a", "m", 1),
        Metric("a", "s", 2),
        Metric("a", "s", 1, 1),
        Metric("a", "s", 1, 0, 0),
    ]
    hashes = {schema_hash((one,)) for one in (base, *others)} | {schema_hash((base, base))}
    assert len(hashes) == 7
    assert {len(one) for one in hashes} == {8}


@pytest.mark.parametrize(
    ("values", "first_byte", "size"),
    [
        ((7, 7, 7, 7), 6, 2),
        ((0, 1, 2, 3), 0, 5),
        ((0, None, 2, 3), 1, 5),
        ((None, None), 1, 2),
        ((-(1 << 63), (1 << 63) - 1), 0, 12),
    ],
)
def test_encode_column_is_as_small_as_it_can_be(values, first_byte, size):
    """Constants take one number, gaps one bit each, and the greatest step wraps around."""
    data = encode_column(Column(INTEGERS, values))
    assert (data[0], len(data)) == (first_byte, size)
    assert decode_column(data, len(values)).values == values


def test_worked_example_of_varints():
    """0, 127, 128 and 2^64 - 1, as anybody can check by hand."""
    assert encode_varints([0, 127, 128]).hex() == "007f8001"
    assert encode_varints([(1 << 64) - 1]).hex() == "ffffffffffffffffff01"
    assert decode_varints(bytes.fromhex("007f8001"), 3) == [0, 127, 128]


@pytest.mark.parametrize(
    "data", [b"", b"\x07", b"\x06", b"\x06\x80", b"\x00\x01", b"\x00\x80\x00\x01", b"\x01\x04\x01\x01", b"\x02\x00"]
)
def test_decode_column_refuses_what_is_none(data):
    """Cut, too long, of unknown kind, with spare bits, with a number longer than needed."""
    with pytest.raises(BadInput, match="column"):
        decode_column(data, 2)


def test_watermark_and_presence_round_trip():
    """Both as they were, with and without a back-off."""
    for backoff in (None, 30_000):
        mark = Watermark(EPOCH, 100, ((3, 5), (9, 9)), 1_790_000_000_000, backoff)
        assert decode_watermark(encode_watermark(mark)) == mark
    presence = Presence(True, EPOCH, 7)
    assert decode_presence(encode_presence(presence)) == presence


def test_watermark_of_many_gaps_ends_before_the_first_it_does_not_tell():
    """What is not told as missing must not count as committed."""
    missing = tuple((10 * place, 10 * place + 1) for place in range(1, 101))
    mark = decode_watermark(encode_watermark(Watermark(EPOCH, 5000, missing, 0)))
    assert len(mark.missing) == 64
    assert mark.missing == missing[:64]
    assert mark.upto == 649


@pytest.mark.parametrize("missing", [[[5, 4]], [[0, 2]], [[3, 4], [4, 6]], [[8, 11]], [[1]], "x"])
def test_watermark_with_ranges_that_cannot_be_is_refused(missing):
    """Backwards, from 0, overlapping, past upto: deleting by such a mark would lose records."""
    payload = cbor.dumps({"epoch": EPOCH, "upto": 10, "missing": missing, "time_ms": 0})
    with pytest.raises(BadInput):
        decode_watermark(payload)


def test_encode_refuses_what_is_larger_than_a_payload():
    """The sender learns it, not the broker."""
    made = random.Random(1)
    rows = tuple(Event(f"{made.getrandbits(400):x}", 0) for _ in range(1500))
    with pytest.raises(BadInput, match="65536"):
        encode(Record(EPOCH, 1, 1, Stamp(0), Events(rows)))
