"""Messages as JSON text for eyes and tests, and back to the same object: docs/wire-format.md, "JSON".

Values are left to `wire_values`, what a body may hold to `wire_bodies`. Nothing here is ever sent.
"""

import json
import math
import struct
from typing import Any

from edgert import cbor, strict_json
from edgert.columns import FLOAT32, FLOAT64, INTEGERS, MOST_SAMPLES, Column, encode_varints
from edgert.errors import BadInput
from edgert.record import KINDS, Batch, Body, Categories, Presence, Record, Sketches, Stamp, Sync, Watermark
from edgert.wire import VERSION, read_presence, read_watermark, write_watermark
from edgert.wire_bodies import HASH_BYTES, READERS, WRITERS
from edgert.wire_fields import REMEDY, array, integer, mapping, sized_bytes, text, typed, uint
from edgert.wire_orders import KINDS as ORDERS
from edgert.wire_orders import Order, read_signatures
from edgert.wire_values import as_json, from_json

Message = Record | Watermark | Presence | Order

MESSAGES = (*READERS, "st", "ack", *ORDERS)
"""The kinds of messages: the last token of their topics."""

WHAT = "a message in JSON"


def message_to_json(message: Message) -> str:
    """Return one line of JSON with sorted keys; BadInput for what no payload can hold, as half a letter."""
    return _text(_write(message))


def message_from_json(source: str | bytes) -> Message:
    """Return the message that a text stands for; BadInput for every other text."""
    document = mapping(from_json(strict_json.loads(source, WHAT)), WHAT)
    message = _read(document)
    if _text(_write(message)) != _text(document):
        raise BadInput(f"{WHAT} has keys or values that a message of its kind does not", REMEDY)
    return message


def report_to_json(at: Stamp, body: Body) -> str:
    """Return one line of JSON for what has no number yet: a record without epoch, seq, boot and version."""
    return _text(_report(at, body))


def report_from_json(source: str | bytes) -> tuple[Stamp, Body]:
    """Return the stamp and the body that a line of `report_to_json` stands for; BadInput for others."""
    document = mapping(from_json(strict_json.loads(source, "a report in JSON")), "a report in JSON")
    kind = text(document.get("kind"), "kind")
    if kind not in READERS:
        raise BadInput(f"reports have no kind '{kind[:40]}'", f"kinds are {', '.join(READERS)}")
    at, body = _read_stamp(document), _read_body(kind, document.get("body"))
    if report_to_json(at, body) != _text(document):
        raise BadInput("a report in JSON has keys or values that its kind does not", REMEDY)
    return at, body


def _text(document: object) -> str:
    line = json.dumps(as_json(document), sort_keys=True, allow_nan=False, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError as exc:
        raise BadInput(f"a text is not Unicode: {exc}", "replace what is not") from exc
    return line


def _write(message: Message) -> dict[str, object]:
    if isinstance(message, Record):
        head = {"epoch": message.epoch, "seq": message.seq, "boot": message.boot, "coarse": message.coarse}
        return {"version": VERSION, **head, **_report(message.at, message.body)}
    if isinstance(message, Watermark):
        return {"kind": "ack", "body": write_watermark(message)}
    if isinstance(message, Presence):
        return {"kind": "st", "body": vars(message)}
    return {"kind": message.kind, "body": _opened(message.body), "signatures": message.signatures}


def _report(at: Stamp, body: Body) -> dict[str, object]:
    stamp = {"mono_ms": at.mono_ms, "wall_ms": at.wall_ms, "sync": int(at.sync)}
    return {"kind": KINDS[type(body)], **stamp, "body": _write_body(body)}


def _read(document: dict[str, Any]) -> Message:
    kind, body = text(document.get("kind"), "kind"), document.get("body")
    if kind in READERS:
        return _read_record(document, kind)
    if kind == "ack":
        return read_watermark(body)
    if kind == "st":
        return read_presence(body)
    if kind in ORDERS:
        sealed = body if isinstance(body, bytes) else cbor.dumps(mapping(body, "body"))
        return Order(kind, sealed, read_signatures(document.get("signatures")))
    raise BadInput(f"messages have no kind '{kind[:40]}'", f"kinds are {', '.join(MESSAGES)}")


def _read_record(document: dict[str, Any], kind: str) -> Record:
    uint(document.get("version"), "version", least=VERSION, most=VERSION)
    return Record(
        epoch=sized_bytes(document.get("epoch"), "epoch", HASH_BYTES),
        seq=uint(document.get("seq"), "seq", least=1),
        boot=uint(document.get("boot"), "boot", least=1),
        at=_read_stamp(document),
        body=_read_body(kind, document.get("body")),
        coarse=typed(document.get("coarse"), bool, "coarse"),
    )


def _read_stamp(document: dict[str, Any]) -> Stamp:
    return Stamp(
        uint(document.get("mono_ms"), "mono_ms"),
        integer(document.get("wall_ms"), "wall_ms"),
        Sync(uint(document.get("sync"), "sync", most=max(Sync))),
    )


def _opened(body: bytes) -> object:
    """Return the map that the bytes of an order are; the bytes where they are not what `cbor` would write."""
    try:
        document = mapping(cbor.loads(body, "an order's body"), "an order's body")
    except BadInput:
        return body
    return document if cbor.dumps(document) == body else body


def _write_body(body: Body) -> object:
    """Return a body as it is in CBOR, but with lists where CBOR has packed bytes."""
    document: Any = WRITERS[type(body)](body) if not isinstance(body, Batch) else None
    if isinstance(body, Batch):
        return [body.schema, list(body.after_ms), [_write_column(one) for one in body.columns]]
    if isinstance(body, Sketches):
        for name, sketch in body.sketches.items():
            if not isinstance(sketch, Categories):
                document[2][name][-1] = list(sketch.counts)
    return document


def _read_body(kind: str, item: object) -> Body:
    if kind == KINDS[Batch]:
        return _read_batch(item)
    if kind == KINDS[Sketches]:
        slot, window, sketches = array(item, "sketches", range(3, 4))
        entries = mapping(sketches, "sketches")
        return READERS[kind]([slot, window, {name: _packed(one) for name, one in entries.items()}])
    return READERS[kind](item)


def _packed(item: object) -> object:
    """Return a sketch with its list of counts as bytes."""
    *head, last = array(item, "a sketch", range(2, 6))
    return [*head, encode_varints(uint(one, "a count") for one in last) if isinstance(last, list) else last]


def _write_column(column: Column | None) -> object:
    if column is None:
        return None
    kind = int if column.kind == INTEGERS else float
    return {column.kind: [None if one is None else kind(one) for one in column.values]}


def _read_batch(item: object) -> Batch:
    schema, times, columns = array(item, "a batch", range(3, 4))
    after = [uint(one, "after_ms") for one in array(times, "after_ms", range(1, MOST_SAMPLES + 1))]
    if after[0] or after != sorted(after):
        raise BadInput("after_ms does not begin with 0 or goes back", REMEDY)
    cells = [_read_column(one, len(after)) for one in array(columns, "columns", range(1025))]
    return Batch(sized_bytes(schema, "schema", HASH_BYTES), tuple(after), tuple(cells))


def _read_column(item: object, count: int) -> Column | None:
    if item is None:
        return None
    pairs = [*mapping(item, "a column").items()]
    if len(pairs) != 1 or pairs[0][0] not in _CHECKS:
        raise BadInput(f"a column is none of {', '.join(_CHECKS)}", REMEDY)
    kind, values = pairs[0]
    check = _CHECKS[kind]
    entries = array(values, "a column", range(count, count + 1))
    return Column(kind, tuple(None if one is None else check(one) for one in entries))


def _int64(item: object) -> int:
    number = integer(item, "a value")
    if not -(1 << 63) <= number < 1 << 63:
        raise BadInput(f"a value is {number}, not in [-2^63, 2^63)", REMEDY)
    return number


def _float64(item: object) -> float:
    return typed(item, float, "a value")


def _float32(item: object) -> float:
    number = _float64(item)
    try:
        exact = not math.isfinite(number) or struct.unpack("<f", struct.pack("<f", number))[0] == number
    except OverflowError:
        exact = False
    if not exact:
        raise BadInput(f"{number!r} is no float32", "write the very value, or the column as f64")
    return number


_CHECKS = {INTEGERS: _int64, FLOAT32: _float32, FLOAT64: _float64}
