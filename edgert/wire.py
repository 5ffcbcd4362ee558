"""Records, watermarks and presence as bytes: docs/wire-format.md. What the bytes may be is left to `cbor`."""

import hashlib
import zlib
from collections.abc import Callable
from typing import Any

from edgert import cbor
from edgert.errors import BadInput
from edgert.record import Presence, Record, Schema, Stamp, Sync, Watermark
from edgert.wire_bodies import HASH_BYTES, READERS, WRITERS, write_schema
from edgert.wire_fields import REMEDY, array, integer, mapping, sized_bytes, typed, uint

VERSION = 1
DEFLATED, SIGNED, COARSE = 1, 2, 4
MAX_BODY = 1_048_576
SIGNATURE_BYTES = 64
_PLAIN_HEAD, _SIGNED_HEAD, _SIGNATURE_HEAD = b"\x89", b"\x8a", b"\x58\x40"
"""The first bytes of an array of 9, of one of 10, and of 64 bytes, in CBOR."""

_SIGNATURE_END = len(_SIGNATURE_HEAD) + SIGNATURE_BYTES
MOST_MISSING = 64


def encode(record: Record, sign: Callable[[str, bytes], bytes] | None = None) -> bytes:
    """Return a record as the payload for the topic of its kind. BadInput where it is larger than a payload may be.

    `sign` returns the signature of 64 bytes for a kind and the payload without it: `link.signing`.
    """
    body: Any = WRITERS[type(record.body)](record.body)
    flags = (COARSE if record.coarse else 0) | (SIGNED if sign is not None else 0)
    plain = cbor.dumps(body)
    packed = _deflate(plain)
    if len(packed) + 3 < len(plain):
        body, flags = packed, flags | DEFLATED
    at = record.at
    head = [VERSION, record.epoch, record.seq, record.boot, at.mono_ms, at.wall_ms, int(at.sync), flags]
    payload = cbor.dumps([*head, body])
    if sign is not None:
        payload = cbor.dumps([*head, body, sign(record.kind, payload)])
    if len(payload) > cbor.MAX_PAYLOAD:
        raise BadInput(
            f"a record of kind '{record.kind}' has {len(payload)} bytes, more than {cbor.MAX_PAYLOAD}", "split it"
        )
    return payload


def decode(payload: bytes, kind: str) -> Record:
    """Return the record in a payload that came on the topic of `kind`; BadInput for what is none."""
    fields = array(cbor.loads(payload, "a record"), "a record", range(9, 11))
    version, flags = uint(fields[0], "version"), uint(fields[7], "flags")
    if version != VERSION or flags & ~(DEFLATED | SIGNED | COARSE) or bool(flags & SIGNED) != (len(fields) == 10):
        raise BadInput(f"a record of version {version} with flags {flags}", "use a newer server")
    if kind not in READERS:
        raise BadInput(f"records have no kind '{kind[:40]}'", f"kinds are {', '.join(READERS)}")
    body = fields[8]
    if flags & DEFLATED:
        body = cbor.loads(_inflate(sized_bytes(body, "body")), "a record's body", MAX_BODY)
    sync = uint(fields[6], "sync", most=max(Sync))
    return Record(
        epoch=sized_bytes(fields[1], "epoch", HASH_BYTES),
        seq=uint(fields[2], "seq", least=1),
        boot=uint(fields[3], "boot", least=1),
        at=Stamp(uint(fields[4], "mono_ms"), integer(fields[5], "wall_ms"), Sync(sync)),
        body=READERS[kind](body),
        coarse=bool(flags & COARSE),
    )


def signed_part(payload: bytes) -> tuple[bytes, bytes] | None:
    """Return the bytes of a record that its signature is over, and the signature; None where it has none."""
    if payload[:1] != _SIGNED_HEAD or payload[-_SIGNATURE_END:][:2] != _SIGNATURE_HEAD:
        return None
    return _PLAIN_HEAD + payload[1:-_SIGNATURE_END], payload[-SIGNATURE_BYTES:]


def schema_hash(schema: Schema) -> bytes:
    """Return the 8 bytes that name a schema."""
    return hashlib.sha256(cbor.dumps(write_schema(schema))).digest()[:HASH_BYTES]


def encode_watermark(mark: Watermark) -> bytes:
    """Return the payload of `dn/ack`, with at most 64 ranges: `upto` then ends before the first that is left out."""
    return cbor.dumps(write_watermark(mark))


def write_watermark(mark: Watermark) -> dict[str, object]:
    """Return the map of `dn/ack`."""
    missing, upto = list(mark.missing), mark.upto
    if len(missing) > MOST_MISSING:
        upto = missing[MOST_MISSING][0] - 1
        missing = missing[:MOST_MISSING]
    document: dict[str, object] = {"epoch": mark.epoch, "upto": upto, "time_ms": mark.time_ms}
    document["missing"] = [list(pair) for pair in missing]
    if mark.backoff_ms is not None:
        document["backoff_ms"] = mark.backoff_ms
    return document


def decode_watermark(payload: bytes) -> Watermark:
    """Return the watermark in a payload; BadInput for what is none, or ranges that overlap or go past `upto`."""
    return read_watermark(cbor.loads(payload, "a watermark"))


def read_watermark(item: object) -> Watermark:
    """Return the watermark in a map."""
    document = mapping(item, "a watermark")
    upto, last = uint(document.get("upto"), "upto"), 0
    missing = list[tuple[int, int]]()
    for pair in array(document.get("missing"), "missing", range(MOST_MISSING + 1)):
        first, end = (uint(one, "missing") for one in array(pair, "a range of missing", range(2, 3)))
        if not last < first <= end <= upto:
            raise BadInput(f"missing has the range {first} to {end} behind {last}, with upto {upto}", REMEDY)
        missing.append((first, end))
        last = end
    backoff = document.get("backoff_ms")
    return Watermark(
        epoch=sized_bytes(document.get("epoch"), "epoch", HASH_BYTES),
        upto=upto,
        missing=tuple(missing),
        time_ms=integer(document.get("time_ms"), "time_ms"),
        backoff_ms=None if backoff is None else uint(backoff, "backoff_ms"),
    )


def encode_presence(presence: Presence) -> bytes:
    """Return the payload of `st`."""
    return cbor.dumps(vars(presence))


def decode_presence(payload: bytes) -> Presence:
    """Return the presence in a payload; BadInput for what is none."""
    return read_presence(cbor.loads(payload, "a presence"))


def read_presence(item: object) -> Presence:
    """Return the presence in a map."""
    document = mapping(item, "a presence")
    return Presence(
        typed(document.get("on"), bool, "on"),
        sized_bytes(document.get("epoch"), "epoch", HASH_BYTES),
        uint(document.get("boot"), "boot", least=1),
    )


def _deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def _inflate(data: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=-15)
    try:
        body = unpacker.decompress(data, MAX_BODY + 1)
    except zlib.error as exc:
        raise BadInput(f"a record's body is not DEFLATE: {exc}", REMEDY) from exc
    if len(body) > MAX_BODY or not unpacker.eof or unpacker.unused_data:
        raise BadInput(f"a record's body is cut, has bytes behind it, or inflates to more than {MAX_BODY}", REMEDY)
    return body
