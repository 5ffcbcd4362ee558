"""The JSON form of a message gives the same object, and a reader takes nothing else."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgert import cbor
from edgert.columns import FLOAT32, FLOAT64, INTEGERS, Column
from edgert.errors import BadInput
from edgert.link.orders import COMMAND, seal
from edgert.record import Batch, Categories, Presence, Record, Reported, Sketches, Stamp, Sync, Watermark
from edgert.wire import decode, encode
from edgert.wire_json import message_from_json, message_to_json, report_from_json, report_to_json
from edgert.wire_orders import Order, decode_order, encode_order
from edgert.wire_values import as_json, from_json
from tests.telemetry import BODIES, DETAIL, HASH, RECORDS, STAMPS, UINT, WORD, times

EPOCH = bytes(range(8))
KEY = st.none() | st.booleans() | UINT | WORD | st.binary(max_size=4) | st.sampled_from(["hex", "float", "map"])
ITEMS = st.recursive(
    DETAIL | st.binary(max_size=9) | st.sampled_from([math.inf, -math.inf, -0.0, 1e300, 2.0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=3),
    max_leaves=12,
)
RANGES = st.lists(st.integers(1, 1 << 50), max_size=12, unique=True).map(
    lambda ends: tuple(zip(sorted(ends)[::2], sorted(ends)[1::2], strict=False))
)
MARKS = st.builds(
    lambda epoch, missing, more, now, wait: Watermark(
        epoch, max((last for _, last in missing), default=0) + more, missing, now, wait
    ),
    HASH,
    RANGES,
    st.integers(0, 1000),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.none() | UINT,
)
SEALED = st.dictionaries(WORD, ITEMS, max_size=3).map(cbor.dumps) | st.binary(max_size=40)
ORDERS = st.builds(
    Order,
    st.sampled_from(["desired", "cmd"]),
    SEALED,
    st.lists(st.tuples(HASH, st.binary(min_size=64, max_size=64)), min_size=1, max_size=3).map(tuple),
)
MESSAGES = RECORDS | MARKS | st.builds(Presence, st.booleans(), HASH, st.integers(1, (1 << 64) - 1)) | ORDERS


@given(MESSAGES)
@settings(max_examples=times(300), deadline=None)
def test_message_comes_back_from_its_json_as_the_very_same(message):
    """Every kind of message: records, watermarks, presence, desired state, commands."""
    line = message_to_json(message)
    assert message_from_json(line) == message
    assert "\n" not in line


@given(RECORDS)
@settings(max_examples=times(100), deadline=None)
def test_record_that_went_through_json_has_the_same_payload(record):
    """An edited record can be sent: nothing of the bytes depends on the way."""
    assert encode(message_from_json(message_to_json(record))) == encode(record)


@given(STAMPS, BODIES)
@settings(max_examples=times(100), deadline=None)
def test_report_without_number_comes_back_from_its_line(at, body):
    """What sinks write is read by the same rules."""
    assert report_from_json(report_to_json(at, body)) == (at, body)


@given(ITEMS)
@settings(max_examples=times(300), deadline=None)
def test_any_item_comes_back_from_its_json_with_its_types(item):
    """1, 1.0, True, bytes and maps that look like marks stay what they are."""
    text = json.dumps(as_json(item), allow_nan=False)
    assert repr(from_json(json.loads(text))) == repr(item)


def test_columns_are_told_by_kind_with_nulls_and_values_beyond_doubles():
    """The text is the one that docs/wire-format.md describes."""
    columns = (
        Column(INTEGERS, (None, (1 << 63) - 1, -(1 << 63))),
        Column(FLOAT32, (0.5, None, math.inf)),
        Column(FLOAT64, (1.0, 1e300, math.nan)),
        None,
        Column(FLOAT64, (None, None, None)),
    )
    record = Record(EPOCH, 1 << 63, 2, Stamp(5, -1, Sync.NTP), Batch(EPOCH, (0, 5, 7), columns), True)
    line = message_to_json(record)
    assert json.loads(line) == {
        "kind": "tel",
        "version": 1,
        "epoch": {"hex": "0001020304050607"},
        "seq": 1 << 63,
        "boot": 2,
        "mono_ms": 5,
        "wall_ms": -1,
        "sync": 2,
        "coarse": True,
        "body": [
            {"hex": "0001020304050607"},
            [0, 5, 7],
            [
                {"int": [None, (1 << 63) - 1, -(1 << 63)]},
                {"f32": [0.5, None, {"float": "inf"}]},
                {"f64": [1.0, 1e300, {"float": "nan"}]},
                None,
                {"f64": [None, None, None]},
            ],
        ],
    }
    found = message_from_json(line)
    assert repr(found) == repr(record)
    assert isinstance(found.body.columns[2].values[0], float)


def test_signed_order_is_shown_open_and_its_bytes_come_back():
    """A command's map is readable; the bytes that were signed are the same afterwards."""
    document = {"tenant": "acme", "device": "press-7", "id": "c1", "name": "report", "expires_ms": 1 << 60}
    payload = seal(document, COMMAND, bytes(32))
    line = message_to_json(decode_order(payload, "cmd"))
    assert json.loads(line)["body"] == document
    assert encode_order(message_from_json(line)) == payload


def test_order_whose_bytes_are_not_canonical_is_told_as_bytes():
    """What was signed is not what `cbor` would write: it is not rewritten."""
    order = Order("desired", bytes.fromhex("a16161190001"), ((EPOCH, bytes(64)),))
    assert json.loads(message_to_json(order))["body"] == {"hex": "a16161190001"}
    assert message_from_json(message_to_json(order)) == order


GOOD = json.loads(message_to_json(Record(EPOCH, 1, 1, Stamp(0), Batch(EPOCH, (0, 1), (Column(FLOAT32, (0.5, 1.0)),)))))
SKETCHES = json.loads(message_to_json(Record(EPOCH, 1, 1, Stamp(0), Sketches(0, 1, {"a": Categories({"x": 1})}))))
STATE = json.loads(message_to_json(Record(EPOCH, 1, 1, Stamp(0), Reported(1, {}))))
ACK = json.loads(message_to_json(Watermark(EPOCH, 3, ((1, 2),), 0)))


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"kind": "x"},
        GOOD | {"seq": 0},
        GOOD | {"seq": 1.0},
        GOOD | {"seq": True},
        GOOD | {"version": 2},
        GOOD | {"extra": 1},
        GOOD | {"wall_ms": 1 << 64},
        GOOD | {"epoch": "0001020304050607"},
        GOOD | {"epoch": {"hex": "00010203040506"}},
        GOOD | {"epoch": {"hex": "000102030405060G"}},
        GOOD | {"epoch": {"hex": "0A01020304050607"}},
        GOOD | {"coarse": 0},
        GOOD | {"sync": 4},
        {key: value for key, value in GOOD.items() if key != "boot"},
        GOOD | {"body": [*GOOD["body"][:1], [1, 2], []]},
        GOOD | {"body": [*GOOD["body"][:1], [0, 2, 1], []]},
        GOOD | {"body": [*GOOD["body"][:1], [], []]},
        GOOD | {"body": [*GOOD["body"][:2], [{"f32": [0.5]}]]},
        GOOD | {"body": [*GOOD["body"][:2], [{"f32": [0.5, 0.1]}]]},
        GOOD | {"body": [*GOOD["body"][:2], [{"f32": [0.5, 1e300]}]]},
        GOOD | {"body": [*GOOD["body"][:2], [{"f64": [0.5, 1]}]]},
        GOOD | {"body": [*GOOD["body"][:2], [{"int": [0.5, 1]}]]},
        GOOD | {"body": [*GOOD["body"][:2], [{"int": [True, 1]}]]},
        GOOD | {"body": [*GOOD["body"][:2], [{"int": [1 << 63, 1]}]]},
        GOOD | {"body": [*GOOD["body"][:2], [{"f16": [0.5, 1.0]}]]},
        GOOD | {"body": [*GOOD["body"][:2], [{"float": "infinity"}]]},
        GOOD | {"body": [*GOOD["body"][:2], [{"hex": "0000"}]]},
        SKETCHES | {"body": [0, 1, {"a": [1, 0, {"hex": "01"}]}]},
        SKETCHES | {"body": [0, 1, {"a": [1, 0, [-1]]}]},
        SKETCHES | {"body": [0, 1, {"a": [2, {"map": [["x", 1]]}]}]},
        STATE | {"body": {"version": 1, "state": {"map": [[1, 2], [1, 3]]}}},
        STATE | {"body": {"version": 1, "state": {"map": [[1, 2, 3]]}}},
        STATE | {"body": {"version": 1, "state": {}, "more": 1}},
        STATE | {"body": {"version": 1, "state": {"a": {"map": [[[1], 2]]}}}},
        STATE | {"body": {"version": 1, "state": {"a": {"float": "1"}}}},
        ACK | {"body": ACK["body"] | {"missing": [[2, 4]]}},
        ACK | {"body": ACK["body"] | {"more": 1}},
        {"kind": "cmd", "body": {}, "signatures": []},
        {"kind": "cmd", "body": [], "signatures": [[{"hex": "00" * 8}, {"hex": "00" * 64}]]},
        {"kind": "cmd", "body": {"hex": "a0"}, "signatures": [[{"hex": "00" * 8}, {"hex": "00" * 64}]]},
    ],
)
def test_reader_given_anything_else_refuses_it(document):
    """A wrong type, range, length, member or word: BadInput, never another error and never a guess."""
    with pytest.raises(BadInput):
        message_from_json(json.dumps(document))


@pytest.mark.parametrize("source", [b"", b"{", b"\xff", '{"kind": NaN}', '{"kind": "st", "kind": "st"}', "[" * 99_999])
def test_reader_given_what_is_not_strict_json_refuses_it(source):
    """Broken text, NaN, a key twice, a tower of brackets."""
    with pytest.raises(BadInput):
        message_from_json(source)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORD,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORD | st.sampled_from([*GOOD, "map"]), inner),
    max_leaves=15,
)


@given(st.sampled_from([GOOD, SKETCHES, STATE, ACK]), st.data())
@settings(max_examples=times(300), deadline=None)
def test_reader_given_a_damaged_message_refuses_it_or_can_write_it(document, data):
    """One member replaced by any JSON: BadInput, or an object whose text is the same again."""
    key = data.draw(st.sampled_from(sorted(document)))
    text = json.dumps(document | {key: data.draw(JSON)})
    try:
        message = message_from_json(text)
    except BadInput:
        return
    assert json.loads(message_to_json(message)) == json.loads(text)


def test_text_that_is_no_unicode_is_refused():
    """Half a letter, as in a file name of another encoding, is no text for JSON or CBOR."""
    with pytest.raises(BadInput, match="Unicode"):
        message_to_json(Record(EPOCH, 1, 1, Stamp(0), Reported(1, {"a": "\udcff"})))


def test_record_that_was_deflated_shows_what_is_in_it():
    """Compression is the wire's, not the message's."""
    record = Record(EPOCH, 1, 1, Stamp(0), Reported(1, {"a": "same " * 100}))
    payload = encode(record)
    assert len(payload) < 100
    assert json.loads(message_to_json(decode(payload, "rep")))["body"]["state"]["a"].startswith("same same")
