"""Payloads made to hurt: whatever the bytes, decoding gives a record or BadInput, in bounded memory."""

import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgert import cbor
from edgert.errors import BadInput
from edgert.record import KINDS
from edgert.wire import decode, decode_presence, decode_watermark, encode
from tests.telemetry import RECORDS, times

EPOCH = bytes(8)
HEAD = [1, EPOCH, 1, 1, 0, 0, 0]


def refused_or_read(payload: bytes) -> None:
    """Decode a payload as everything it could be."""
    for kind in KINDS.values():
        try:
            decode(payload, kind)
        except BadInput:
            continue
    for reader in (decode_watermark, decode_presence):
        try:
            reader(payload)
        except BadInput:
            continue


@given(st.binary(max_size=400))
@example(b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff")
@example(b"\xbb\x00\x00\x00\x00\xff\xff\xff\xff")
@example(b"\x81" * 5000 + b"\x00")
@example(b"\x5f\x41\x00\xff")
@example(b"\xc2\x49\x01\x00\x00\x00\x00\x00\x00\x00\x00")
@settings(max_examples=times(3000), deadline=None)
def test_random_bytes_are_refused_or_read(payload):
    """No other error, however odd the bytes."""
    refused_or_read(payload)


@given(RECORDS, st.data())
@settings(max_examples=times(2000), deadline=None)
def test_damaged_records_are_refused_or_read(record, data):
    """One byte changed, cut or put in."""
    payload = bytearray(encode(record))
    place = data.draw(st.integers(0, len(payload) - 1))
    damage = data.draw(st.sampled_from(["change", "cut", "insert"]))
    if damage == "change":
        payload[place] = data.draw(st.integers(0, 255))
    elif damage == "cut":
        del payload[place:]
    else:
        payload.insert(place, data.draw(st.integers(0, 255)))
    refused_or_read(bytes(payload))


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(1 << 63), (1 << 64) - 1)
        | st.binary(max_size=20)
        | st.text(max_size=8)
        | st.floats(),
        lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
        max_leaves=20,
    )
)
@settings(max_examples=times(1500), deadline=None)
def test_any_document_as_a_body_is_refused_or_read(document):
    """Well-formed CBOR in a well-formed envelope, whose body is anything."""
    try:
        payload = cbor.dumps([*HEAD, 0, document])
    except ValueError:
        return
    refused_or_read(payload)


def bomb() -> bytes:
    """Return a record whose body inflates to 100 MB."""
    import zlib

    packer = zlib.compressobj(9, wbits=-15)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(100)) + packer.flush()
    return cbor.dumps([*HEAD, 1, packed[: cbor.MAX_PAYLOAD - 100]])


@pytest.mark.parametrize(
    "payload",
    [
        bomb(),
        cbor.dumps([*HEAD, 0, [EPOCH, 4096, 1, [b"\x06\x00"] * 1024]]),
        cbor.dumps([*HEAD, 0, [EPOCH, 4097, 1, [b"\x06\x00"]]]),
        cbor.dumps([*HEAD, 0, [EPOCH, 1 << 63, 1, [b"\x06\x00"]]]),
        b"\x81" * 60_000 + b"\x00",
        b"\xbf" * 60_000,
        b"\x9a\xff\xff\xff\xff" * 10_000,
        b"\xa2\x01\x01\x01\x01",
    ],
    ids=["inflates", "wide", "long", "endless", "deep", "indefinite", "lengths", "twice"],
)
def test_bombs_cost_little_memory(payload):
    """At most 64 MB for 64 kB of payload, the largest batch that the format allows among them."""
    tracemalloc.start()
    refused_or_read(payload)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64_000_000


def test_payload_that_is_too_large_is_refused_unread():
    """Its first byte would be enough to allocate by."""
    with pytest.raises(BadInput, match="65537"):
        decode(b"\x9b" + bytes(65_536), "tel")
