"""Sparkplug B payloads as objects, to bytes and back; strict and bounded. What a device says is left to `sparkplug`.

Properties are flat. Metadata, and fields that a newer version may add, are passed over.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from edgert.link.protobuf import bad, bytes_field, read_fields, varint_field
from edgert.link.sparkplug_values import (
    LAST_PROPERTY,
    TO_PROPERTY,
    Datatype,
    Value,
    as_boolean,
    as_bytes,
    as_number,
    as_text,
    keep_once,
    keep_only,
    read_datatype,
    read_value,
    write_value,
)

MAX_PAYLOAD = 262_144
"""More than docs/wire-format.md allows, because a birth has every name, and cannot be split."""

MOST_METRICS = 8_192
MOST_PROPERTIES = 64

Property = bool | int | float | str | None


@dataclass(frozen=True)
class SparkplugMetric:
    """One value. `alias` stands for name and datatype once a birth told them; `value` None is a null.

    `datatype` None on the way in: the payload does not say, and the value is as the field has it.
    """

    name: str | None = None
    datatype: Datatype | None = None
    value: Value | None = None
    alias: int | None = None
    timestamp: int | None = None
    is_historical: bool = False
    properties: Mapping[str, Property] = field(default_factory=dict)


@dataclass(frozen=True)
class SparkplugPayload:
    """What one message has; `seq` None in a death and a command."""

    metrics: tuple[SparkplugMetric, ...]
    timestamp: int | None = None
    seq: int | None = None


def encode_payload(payload: SparkplugPayload, *, with_datatypes: bool) -> bytes:
    """Return the bytes of a payload; datatypes belong into births, deaths and commands."""
    return frame((encode_metric(one, with_datatypes=with_datatypes) for one in payload.metrics), payload)


def frame(metrics: Iterable[bytes], head: SparkplugPayload) -> bytes:
    """Return the bytes of a payload with metrics that are bytes already, and time and seq of `head`."""
    parts = [] if head.timestamp is None else [varint_field(1, head.timestamp)]
    parts += [bytes_field(2, one) for one in metrics]
    return b"".join(parts if head.seq is None else [*parts, varint_field(3, head.seq)])


def encode_metric(metric: SparkplugMetric, *, with_datatypes: bool) -> bytes:
    """Return the bytes of one metric; BadInput for a value that its datatype cannot hold."""
    parts = [] if metric.name is None else [bytes_field(1, metric.name.encode())]
    for number, value in ((2, metric.alias), (3, metric.timestamp)):
        parts += [] if value is None else [varint_field(number, value)]
    assert metric.datatype is not None, "a metric that is sent has a datatype"
    parts += [varint_field(4, metric.datatype)] if with_datatypes else []
    parts += [varint_field(5, 1)] if metric.is_historical else []
    parts += [varint_field(7, 1)] if metric.value is None else []
    if metric.properties:
        keys = b"".join(bytes_field(1, key.encode()) for key in metric.properties)
        values = b"".join(bytes_field(2, _write_property(value)) for value in metric.properties.values())
        parts.append(bytes_field(9, keys + values))
    return b"".join(parts if metric.value is None else [*parts, write_value(metric.datatype, metric.value)])


def decode_payload(payload: bytes, born: Mapping[int, SparkplugMetric] | None = None) -> SparkplugPayload:
    """Return what a payload has; BadInput for what is none.

    `born` has the metrics of the node's birth by alias, which give names and datatypes; an alias that is not there is
    BadInput, and the remedy a rebirth.
    """
    if len(payload) > MAX_PAYLOAD:
        raise bad(f"a Sparkplug payload has {len(payload)} bytes, more than the {MAX_PAYLOAD} allowed")
    metrics, numbers = list[SparkplugMetric](), dict[int, int]()
    for number, kind, value in read_fields(payload, "a Sparkplug payload"):
        if number == 2:
            if len(metrics) == MOST_METRICS:
                raise bad(f"a Sparkplug payload has more than {MOST_METRICS} metrics")
            metrics.append(_read_metric(as_bytes(kind, value, "a metric"), born))
        elif number in (1, 3):
            keep_once(numbers, number, as_number(kind, value, "time or seq of a payload"))
    seq = numbers.get(3)
    if seq is not None and seq > 255:
        raise bad(f"a Sparkplug payload has the seq {seq}, more than 255")
    return SparkplugPayload(tuple(metrics), numbers.get(1), seq)


def _read_metric(data: bytes, born: Mapping[int, SparkplugMetric] | None) -> SparkplugMetric:
    numbers, texts, values = dict[int, int](), dict[int, bytes](), dict[int, int | bytes]()
    for number, kind, value in read_fields(data, "a metric"):
        if number in (1, 9):
            keep_once(texts, number, as_bytes(kind, value, "name or properties of a metric"))
        elif number in (2, 3, 4, 5, 7):
            keep_once(numbers, number, as_number(kind, value, "a field of a metric"))
        elif number in range(10, 20):
            keep_only(values, number, kind, value)
    alias, name = numbers.get(2), texts.get(1)
    metric = SparkplugMetric(
        None if name is None else as_text(name),
        read_datatype(numbers[4]) if numbers.get(4) else None,
        None,
        alias,
        numbers.get(3),
        as_boolean(numbers.get(5, 0)),
        _read_properties(texts[9]) if 9 in texts else {},
    )
    if born is not None and name is None:
        known = born.get(-1 if alias is None else alias)
        if known is None:
            raise bad(f"a metric has the alias {alias}, which no birth told")
        metric = replace(metric, name=known.name, datatype=metric.datatype or known.datatype)
    if as_boolean(numbers.get(7, 0)) or not values:
        return metric
    return replace(metric, value=read_value(metric.datatype, *next(iter(values.items()))))


def _write_property(value: Property) -> bytes:
    if value is None:
        return varint_field(1, Datatype.STRING) + varint_field(2, 1)
    kinds = {bool: Datatype.BOOLEAN, int: Datatype.INT64, float: Datatype.DOUBLE, str: Datatype.STRING}
    datatype = kinds[type(value)]
    written = bytearray(write_value(datatype, value))
    written[0] -= TO_PROPERTY << 3
    return varint_field(1, datatype) + bytes(written)


def _read_properties(data: bytes) -> dict[str, Property]:
    keys, values = list[str](), list[Property]()
    for number, kind, value in read_fields(data, "properties"):
        if number == 1:
            keys.append(as_text(as_bytes(kind, value, "a key")))
        elif number == 2:
            values.append(_read_property(as_bytes(kind, value, "a property")))
        if max(len(keys), len(values)) > MOST_PROPERTIES:
            raise bad(f"a metric has more than {MOST_PROPERTIES} properties")
    if len(keys) != len(values) or len({*keys}) != len(keys):
        raise bad(f"properties have {len({*keys})} different keys and {len(values)} values")
    return dict(zip(keys, values, strict=True))


def _read_property(data: bytes) -> Property:
    numbers, values = dict[int, int](), dict[int, int | bytes]()
    for number, kind, value in read_fields(data, "a property"):
        if number in (1, 2):
            keep_once(numbers, number, as_number(kind, value, "a field of a property"))
        elif number in range(3, 12):
            if number > LAST_PROPERTY:
                raise bad("a property is itself a set of properties")
            keep_only(values, number + TO_PROPERTY, kind, value)
    if as_boolean(numbers.get(2, 0)) or not values:
        return None
    datatype = read_datatype(numbers[1]) if numbers.get(1) else None
    found = read_value(datatype, *next(iter(values.items())))
    assert not isinstance(found, bytes | tuple), "no field of a property holds bytes"
    return found
