"""The bodies of records as CBOR documents, and back: docs/wire-format.md, "Records"."""

from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

from edgert.columns import MOST_SAMPLES, decode_column, decode_varints, encode_column, encode_varints
from edgert.errors import BadInput
from edgert.record import (
    KINDS,
    Batch,
    BinSketch,
    Birth,
    Body,
    Categories,
    Event,
    Events,
    LogLines,
    LogSketch,
    Loss,
    Metric,
    Reported,
    Result,
    Schema,
    Sketch,
    Sketches,
    Slot,
)
from edgert.wire_fields import REMEDY, array, integer, mapping, sized_bytes, text, typed, uint

HASH_BYTES = 8

_STATUSES = ("done", "failed", "refused")
_REASONS = ("cap", "merged", "store", "bad")


def write_schema(schema: Schema) -> list[object]:
    return [[one.name, one.unit, one.scale, one.kind, one.slot] for one in schema]


def _read_schema(item: object) -> Schema:
    metrics = list[Metric]()
    for entry in array(item, "a schema", range(1, 1025)):
        name, unit, scale, kind, slot = array(entry, "a metric of a schema", range(5, 6))
        number = integer(scale, "scale")
        if not -9 <= number <= 9:
            raise BadInput(f"a metric has the scale {number}, which is not in [-9, 9]", REMEDY)
        place = None if slot is None else uint(slot, "slot")
        metrics.append(Metric(text(name, "name"), text(unit, "unit"), number, uint(kind, "kind", most=1), place))
    return tuple(metrics)


def _write_birth(birth: Birth) -> dict[str, object]:
    document: dict[str, object] = {
        "tenant": birth.tenant,
        "device": birth.device,
        "agent": birth.agent,
        "hardware": dict(birth.hardware),
        "schemas": [write_schema(schema) for schema in birth.schemas],
        "slots": [{**vars(slot), "requested": list(slot.requested)} for slot in birth.slots],
        "caps": dict(birth.caps),
    }
    return document | ({"keys": list(birth.keys)} if birth.keys else {})


def _read_birth(item: object) -> Birth:
    document = mapping(item, "a birth")
    hardware = mapping(document.get("hardware"), "hardware")
    return Birth(
        tenant=text(document.get("tenant"), "tenant"),
        device=text(document.get("device"), "device"),
        agent=text(document.get("agent"), "agent"),
        hardware={key: text(value, f"hardware {key}") for key, value in hardware.items()},
        schemas=tuple(_read_schema(one) for one in array(document.get("schemas"), "schemas")),
        slots=tuple(_read_slot(one) for one in array(document.get("slots"), "slots")),
        caps=mapping(document.get("caps", {}), "caps"),
        keys=tuple(sized_bytes(one, "a key", 32) for one in array(document.get("keys", []), "keys")),
    )


def _read_slot(item: object) -> Slot:
    document = mapping(item, "a slot")
    words = ("name", "version", "digest", "profile", "variant", "used", "reason")
    return Slot(
        **{word: text(document.get(word), word) for word in words},
        requested=tuple(text(one, "requested") for one in array(document.get("requested"), "requested")),
        reference=sized_bytes(document.get("reference"), "reference", HASH_BYTES),
    )


def _write_batch(batch: Batch) -> list[object]:
    steps = [new - old for old, new in zip(batch.after_ms, batch.after_ms[1:], strict=False)]
    times: object = steps[0] if steps else 0
    if len({*steps}) > 1:
        times = encode_varints(steps)
    columns = [None if column is None else encode_column(column) for column in batch.columns]
    while columns and columns[-1] is None:
        columns.pop()
    return [batch.schema, len(batch.after_ms), times, columns]


def _read_batch(item: object) -> Batch:
    schema, count, times, columns = array(item, "a batch", range(4, 5))
    number = uint(count, "count", least=1, most=MOST_SAMPLES)
    steps = decode_varints(times, number - 1) if isinstance(times, bytes) else _regular(times, number - 1)
    cells = [
        None if one is None else decode_column(typed(one, bytes, "a column"), number)
        for one in array(columns, "columns", range(1025))
    ]
    return Batch(sized_bytes(schema, "schema", HASH_BYTES), tuple(accumulate(steps, initial=0)), tuple(cells))


def _regular(step: object, count: int) -> list[int]:
    return [uint(step, "times")] * count


def _write_sketches(sketches: Sketches) -> list[object]:
    return [
        sketches.slot,
        sketches.window_ms,
        {name: _write_sketch(sketch) for name, sketch in sketches.sketches.items()},
    ]


def _write_sketch(sketch: Sketch) -> list[object]:
    if isinstance(sketch, LogSketch):
        return [0, sketch.per_mille, sketch.zeros, sketch.offset, encode_varints(sketch.counts)]
    if isinstance(sketch, BinSketch):
        return [1, sketch.nonfinite, encode_varints(sketch.counts)]
    return [2, dict(sketch.counts)]


def _read_sketches(item: object) -> Sketches:
    slot, window, sketches = array(item, "sketches", range(3, 4))
    entries = mapping(sketches, "sketches")
    return Sketches(
        uint(slot, "slot"), uint(window, "window_ms"), {name: _read_sketch(one) for name, one in entries.items()}
    )


def _read_sketch(item: object) -> Sketch:
    kind, *rest = array(item, "a sketch", range(2, 6))
    if kind == 0 and len(rest) == 4:
        per_mille = uint(rest[0], "per_mille", least=1, most=500)
        return LogSketch(per_mille, uint(rest[1], "zeros"), integer(rest[2], "offset"), _counts(rest[3]))
    if kind == 1 and len(rest) == 2:
        return BinSketch(uint(rest[0], "nonfinite"), _counts(rest[1]))
    if kind == 2 and len(rest) == 1:
        return Categories({name: uint(count, name) for name, count in mapping(rest[0], "categories").items()})
    raise BadInput(f"a sketch of kind {kind!r} with {len(rest)} fields", REMEDY)


def _counts(item: object) -> tuple[int, ...]:
    data = typed(item, bytes, "counts")
    return tuple(decode_varints(data, sum(byte < 128 for byte in data)))


def _write_events(events: Events) -> dict[str, object]:
    document: dict[str, object] = {}
    if events.events:
        document["events"] = [[one.code, one.severity, one.after_ms, dict(one.details)] for one in events.events]
    if events.lost:
        document["lost"] = [[one.first, one.last, one.epoch, one.reason] for one in events.lost]
    return document


def _read_events(item: object) -> Events:
    document = mapping(item, "events")
    return Events(
        tuple(_read_event(one) for one in array(document.get("events", []), "events")),
        tuple(_read_loss(one) for one in array(document.get("lost", []), "lost")),
    )


def _read_event(item: object) -> Event:
    code, severity, after, details = array(item, "an event", range(4, 5))
    facts = mapping(details, "details")
    for key, value in facts.items():
        if not isinstance(value, str | int | float | bool | None):
            raise BadInput(f"the detail '{key[:40]}' is neither text, number, boolean nor null", REMEDY)
    return Event(text(code, "code"), uint(severity, "severity", most=2), uint(after, "after_ms"), facts)


def _read_loss(item: object) -> Loss:
    first, last, epoch, reason = array(item, "a loss", range(4, 5))
    begin, end = uint(first, "first", least=1), uint(last, "last")
    if begin > end or reason not in _REASONS:
        raise BadInput(f"a loss of {begin} to {end} for {str(reason)[:40]!r}", REMEDY)
    return Loss(begin, end, reason, None if epoch is None else sized_bytes(epoch, "epoch", HASH_BYTES))


def _write_reported(reported: Reported) -> dict[str, object]:
    return {"version": reported.version, "state": dict(reported.state)}


def _read_reported(item: object) -> Reported:
    document = mapping(item, "a reported state")
    return Reported(uint(document.get("version"), "version"), mapping(document.get("state"), "state"))


def _write_log(log: LogLines) -> list[object]:
    return [list(line) for line in log.lines]


def _read_log(item: object) -> LogLines:
    lines = [array(line, "a log line", range(3, 4)) for line in array(item, "log lines")]
    return LogLines(tuple((uint(a, "after_ms"), text(b, "level"), text(c, "text")) for a, b, c in lines))


def _write_result(result: Result) -> dict[str, object]:
    document: dict[str, object] = {"id": result.id, "status": result.status}
    document |= {"reason": result.reason} if result.reason else {}
    return document | ({"result": dict(result.result)} if result.result else {})


def _read_result(item: object) -> Result:
    document = mapping(item, "a result")
    status = text(document.get("status"), "status")
    if status not in _STATUSES:
        raise BadInput(f"a result of status {status[:40]!r}", REMEDY)
    reason = text(document.get("reason", ""), "reason")
    return Result(text(document.get("id"), "id"), status, reason, mapping(document.get("result", {}), "result"))


WRITERS: Mapping[type, Callable[[Any], object]] = {
    Birth: _write_birth,
    Batch: _write_batch,
    Sketches: _write_sketches,
    Events: _write_events,
    Reported: _write_reported,
    LogLines: _write_log,
    Result: _write_result,
}

READERS: Mapping[str, Callable[[object], Body]] = {
    KINDS[Birth]: _read_birth,
    KINDS[Batch]: _read_batch,
    KINDS[Sketches]: _read_sketches,
    KINDS[Events]: _read_events,
    KINDS[Reported]: _read_reported,
    KINDS[LogLines]: _read_log,
    KINDS[Result]: _read_result,
}
