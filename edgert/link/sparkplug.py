"""What a device says in Sparkplug B: births, data and deaths from bodies, aliases, `seq` and `bdSeq`; and its topics.

A birth, batches, sketches and events are told. Losses, reported state, logs and results are not: they belong to
docs/wire-format.md, whose numbers Sparkplug does not have. Sending is left to `sparkplug_sink`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from edgert.cbor import MAX_PAYLOAD
from edgert.columns import Column
from edgert.errors import BadInput
from edgert.link.quantiles import count_of, quantile
from edgert.link.sparkplug_payload import (
    Property,
    SparkplugMetric,
    SparkplugPayload,
    encode_metric,
    encode_payload,
    frame,
)
from edgert.link.sparkplug_values import Datatype, Value
from edgert.record import COUNTER, Batch, BinSketch, Birth, Body, Categories, Events, LogSketch, Sketch, Sketches, Stamp
from edgert.topics import Address
from edgert.wire import schema_hash

REBIRTH = "Node Control/Rebirth"
BD_SEQ = "bdSeq"

QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
TIMES = ("pre_seconds", "run_seconds", "post_seconds", "queue_seconds")

_KINDS = ("NBIRTH", "NDATA", "NDEATH", "NCMD")
_EMPTY = SparkplugPayload(())


class Name(NamedTuple):
    """What a birth tells of a metric beside its alias."""

    name: str
    datatype: Datatype
    properties: Mapping[str, Property]


def topic(address: Address, kind: str) -> str:
    """Return a device's topic: it is an edge node, its tenant the group."""
    assert kind in _KINDS, kind
    return f"spBv1.0/{address.tenant}/{kind}/{address.device}"


def state_topic(host: str) -> str:
    """Return where a host application says whether it is there. BadInput for a name that no topic may have."""
    if not host or any(letter in host for letter in "/+#\0"):
        raise BadInput(f"the host {host[:80]!r} cannot be a word of a topic", "write its name without / + #")
    return f"spBv1.0/STATE/{host}"


def is_rebirth(payload: SparkplugPayload) -> bool:
    """Say whether a command asks for a new birth."""
    return any(one.name == REBIRTH and one.value is True for one in payload.metrics)


def known_by_alias(birth: SparkplugPayload) -> dict[int, SparkplugMetric]:
    """Return what `decode_payload` wants as `born`, of a birth that was decoded."""
    return {one.alias: one for one in birth.metrics if one.alias is not None}


def announced(birth: Birth) -> list[SparkplugMetric]:
    """Return the metrics that a birth has before anything was measured: who the device is, and nulls for the rest."""
    facts = [SparkplugMetric(name, Datatype.STRING, text) for name, text in _facts(birth).items()]
    columns = [name for names in _column_names(birth).values() for name in names]
    return facts + [_metric(name, None, None) for name in [*columns, *_measured(birth)]]


def told(birth: Birth, at: Stamp, body: Body, now_ms: int) -> list[SparkplugMetric]:
    """Return a body as metrics with names, without aliases. Where the device has no wall clock, `now_ms` is its end."""
    if isinstance(body, Batch):
        return list(_batch(birth, _begin(at, body.after_ms, now_ms), body))
    if isinstance(body, Sketches):
        pairs: list[tuple[Name, Value | None]] = [(_window(body.slot), body.window_ms)]
        for name, sketch in body.sketches.items():
            pairs += _sketch(f"Models/{body.slot}/{name}", sketch)
        begin = at.wall_ms or now_ms - body.window_ms
        return [_metric(name, value, begin) for name, value in pairs]
    if isinstance(body, Events):
        begin = _begin(at, [one.after_ms for one in body.events], now_ms)
        pairs_of = [(one, _event(one.code, one.severity, one.details)) for one in body.events]
        return [_metric(name, value, begin + one.after_ms) for one, pairs in pairs_of for name, value in pairs]
    return []


def marked(metrics: Sequence[SparkplugMetric]) -> list[SparkplugMetric]:
    """Return the metrics with those that are older than the newest of the same name said to be historical."""
    newest = dict[str | None, int]()
    for one in metrics:
        newest[one.name] = max(newest.get(one.name, 0), one.timestamp or 0)
    return [replace(one, is_historical=(one.timestamp or 0) < newest[one.name]) for one in metrics]


class EdgeNode:
    """The numbers and aliases of one device, for as long as its program runs; they are given out in order."""

    def __init__(self, bd_seq: int = 0) -> None:
        self._bd_seq, self._seq = bd_seq % 256, 0
        self._known = dict[str, SparkplugMetric]()
        self._aliases = dict[str, int]()

    def begin(self, metrics: Sequence[SparkplugMetric]) -> None:
        """Take the metrics that the next birth has, and no others; what was measured of them stays."""
        before, self._known = self._known, {}
        self.announce(metrics)
        self.keep([one for name, one in before.items() if name in self._known and one.timestamp is not None])

    def announce(self, metrics: Sequence[SparkplugMetric]) -> bool:
        """Take metrics into the next birth, without a value; say whether it has to come before their data."""
        new = [one for one in metrics if one.name not in self._known]
        for one in new:
            assert one.name is not None
            self._aliases.setdefault(one.name, len(self._aliases) + 1)
            self._known[one.name] = one
        return bool(new)

    def keep(self, metrics: Sequence[SparkplugMetric]) -> None:
        """Take the newest values of announced metrics into the next birth."""
        for one in metrics:
            assert one.name is not None
            if (one.timestamp or 0) >= (self._known[one.name].timestamp or 0):
                self._known[one.name] = one

    def next_connection(self) -> None:
        """Count a connection: the death that is its will, and its births, have this number."""
        self._bd_seq = (self._bd_seq + 1) % 256

    def birth(self, now_ms: int) -> bytes:
        """Return a birth with all names and newest values; `seq` begins anew."""
        self._seq = 0
        fixed = (self._bd_seq_metric(now_ms), SparkplugMetric(REBIRTH, Datatype.BOOLEAN, False, timestamp=now_ms))
        metrics = tuple(
            replace(one, alias=self._aliases[name], timestamp=one.timestamp or now_ms)
            for name, one in self._known.items()
        )
        return encode_payload(SparkplugPayload((*fixed, *metrics), now_ms, 0), with_datatypes=True)

    def death(self, now_ms: int) -> bytes:
        """Return the death of this connection."""
        return encode_payload(SparkplugPayload((self._bd_seq_metric(now_ms),), now_ms), with_datatypes=True)

    def data(self, metrics: Sequence[SparkplugMetric], now_ms: int) -> list[bytes]:
        """Return announced metrics as payloads of at most 65,536 bytes, by alias, each with the next `seq`."""
        payloads, waiting, size = list[bytes](), list[bytes](), 0
        for one in metrics:
            assert one.name is not None
            bare = replace(one, name=None, alias=self._aliases[one.name], properties={})
            part = encode_metric(bare, with_datatypes=False)
            if waiting and size + len(part) + 5 > MAX_PAYLOAD - 32:
                payloads.append(self._numbered(waiting, now_ms))
                waiting, size = [], 0
            waiting.append(part)
            size += len(part) + 5
        return [*payloads, self._numbered(waiting, now_ms)] if waiting else payloads

    def _numbered(self, metrics: Sequence[bytes], now_ms: int) -> bytes:
        self._seq = (self._seq + 1) % 256
        return frame(metrics, replace(_EMPTY, timestamp=now_ms, seq=self._seq))

    def _bd_seq_metric(self, now_ms: int) -> SparkplugMetric:
        return SparkplugMetric(BD_SEQ, Datatype.INT64, self._bd_seq, timestamp=now_ms)


def _metric(name: Name, value: Value | None, timestamp: int | None) -> SparkplugMetric:
    return SparkplugMetric(name.name, name.datatype, value, timestamp=timestamp, properties=name.properties)


def _begin(at: Stamp, after_ms: Sequence[int], now_ms: int) -> int:
    return at.wall_ms if at.wall_ms > 0 else max(0, now_ms - max(after_ms, default=0))


def _facts(birth: Birth) -> dict[str, str]:
    """Return who the device is, by name."""
    facts = {"Properties/agent": birth.agent} | {f"Properties/{key}": text for key, text in birth.hardware.items()}
    for place, slot in enumerate(birth.slots):
        words = {**vars(slot), "requested": ", ".join(slot.requested), "reference": slot.reference.hex()}
        facts |= {f"Models/{place}/{word}": str(text) for word, text in words.items()}
    return facts


def _measured(birth: Birth) -> list[Name]:
    """Return the names that are known without a schema; other sketches get theirs when they come."""
    names = [name for name, _ in _event("", 0, {})]
    for place in range(len(birth.slots)):
        names.append(_window(place))
        names += [one for time in TIMES for one, _ in _log_sketch(f"Models/{place}/{time}", LogSketch(20, 0, 0, ()))]
    return names


def _column_names(birth: Birth) -> dict[bytes, list[Name]]:
    """Return the names of the columns of each schema; one that is taken has its schema's hash in it."""
    found = dict[bytes, list[Name]]()
    taken = {BD_SEQ, REBIRTH, *_facts(birth), *(one.name for one in _measured(birth))}
    for schema in birth.schemas:
        hashed = schema_hash(schema)
        names = found[hashed] = []
        for place, one in enumerate(schema):
            name = one.name if one.slot is None else f"Models/{one.slot}/{one.name}"
            name = f"{name}@{hashed.hex()}/{place}" if name in taken else name
            taken.add(name)
            kind = "counter" if one.kind == COUNTER else "gauge"
            names.append(Name(name, Datatype.DOUBLE, {"engUnit": one.unit, "kind": kind}))
    return found


def _window(slot: int) -> Name:
    return Name(f"Models/{slot}/window_ms", Datatype.UINT64, {"engUnit": "ms"})


def _batch(birth: Birth, begin: int, batch: Batch) -> Iterator[SparkplugMetric]:
    names = _column_names(birth).get(batch.schema)
    if names is None:
        raise BadInput(
            f"a batch has the schema {batch.schema.hex()}, which the birth does not", "put a new birth first"
        )
    scales = next(schema for schema in birth.schemas if schema_hash(schema) == batch.schema)
    for name, metric, column in zip(names, scales, batch.columns, strict=False):
        if column is None:
            continue
        for after, value in zip(batch.after_ms, _scaled(column, metric.scale), strict=True):
            yield _metric(name, value, begin + after)


def _scaled(column: Column, scale: int) -> Iterator[float | None]:
    for value in column.values:
        if value is None or isinstance(value, float):
            yield value
        else:
            yield value / 10**scale if scale > 0 else float(value * 10**-scale)


def _sketch(name: str, sketch: Sketch) -> list[tuple[Name, Value | None]]:
    if isinstance(sketch, LogSketch):
        return _log_sketch(name, sketch)
    if isinstance(sketch, BinSketch):
        counts = Name(f"{name}/counts", Datatype.UINT64_ARRAY, {})
        return [(counts, tuple(sketch.counts)), (Name(f"{name}/nonfinite", Datatype.UINT64, {}), sketch.nonfinite)]
    assert isinstance(sketch, Categories)
    text = json.dumps(dict(sketch.counts), sort_keys=True)
    return [(Name(f"{name}/counts", Datatype.STRING, {"format": "json"}), text)]


def _log_sketch(name: str, sketch: LogSketch) -> list[tuple[Name, Value | None]]:
    found: list[tuple[Name, Value | None]] = [(Name(f"{name}/count", Datatype.UINT64, {}), count_of(sketch))]
    for word, share in QUANTILES.items():
        found.append((Name(f"{name}/{word}", Datatype.DOUBLE, {"engUnit": "s"}), quantile(sketch, share)))
    return found


def _event(code: str, severity: int, details: Mapping[str, object]) -> list[tuple[Name, Value | None]]:
    return [
        (Name("Event/code", Datatype.STRING, {}), code),
        (Name("Event/severity", Datatype.UINT8, {}), severity),
        (Name("Event/details", Datatype.STRING, {"format": "json"}), json.dumps(dict(details), sort_keys=True)),
    ]
