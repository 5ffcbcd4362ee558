"""Several records as one that is coarser: what an outbox does with old metrics before it drops any. Pure."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from edgert.columns import INTEGERS, Column
from edgert.record import COUNTER, Batch, BinSketch, Categories, LogSketch, Record, Schema, Sketch, Sketches

MOST_CATEGORIES = 32
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1


def merged(records: Sequence[Record], schema: Schema | None) -> Record | None:
    """Return one record that stands for `records`, neighbours of one boot; None where they do not add up.

    Counters and sketches are added, so they stay exact; gauges become means. A batch has as many samples then as the
    longest of `records` had.
    """
    first = records[0]
    if any((one.epoch, one.boot, type(one.body)) != (first.epoch, first.boot, type(first.body)) for one in records):
        return None
    if isinstance(first.body, Batch):
        body: Batch | Sketches | None = _batches(records, schema)
    elif isinstance(first.body, Sketches):
        body = _sketches([one.body for one in records if isinstance(one.body, Sketches)])
    else:
        return None
    return None if body is None else replace(first, body=body, coarse=True)


def _batches(records: Sequence[Record], schema: Schema | None) -> Batch | None:
    bodies = [one.body for one in records if isinstance(one.body, Batch)]
    start = records[0].at.mono_ms
    times = [
        at.mono_ms - start + after
        for at, body in zip((one.at for one in records), bodies, strict=True)
        for after in body.after_ms
    ]
    if schema is None or len({body.schema for body in bodies}) > 1 or times != sorted(times):
        return None
    width = -(-len(times) // max(len(body.after_ms) for body in bodies))
    places = [range(begin, min(begin + width, len(times))) for begin in range(0, len(times), width)]
    columns = list[Column | None]()
    for number, metric in enumerate(schema):
        pieces = [_piece(body, number) for body in bodies]
        kinds = {kind for kind, _ in pieces if kind}
        if len(kinds) > 1:
            return None
        values = [value for _, piece in pieces for value in piece]
        found = [_added([values[place] for place in group], metric.kind == COUNTER) for group in places]
        kind = kinds.pop() if kinds else ""
        if kind == INTEGERS:
            found = [None if value is None else round(value) for value in found]
            if any(value is not None and not _LEAST <= value <= _MOST for value in found):
                return None
        columns.append(Column(kind, tuple(found)) if kind else None)
    return Batch(bodies[0].schema, tuple(times[group[0]] for group in places), columns)


def _piece(body: Batch, number: int) -> tuple[str, Sequence[int | float | None]]:
    """Return the kind and the values of a column; no kind where it was left out."""
    column = body.columns[number] if number < len(body.columns) else None
    return ("", [None] * len(body.after_ms)) if column is None else (column.kind, column.values)


def _added(values: Sequence[int | float | None], is_counter: bool) -> int | float | None:
    there = [value for value in values if value is not None]
    if not there:
        return None
    return sum(there) if is_counter else sum(there) / len(there)


def _sketches(bodies: Sequence[Sketches]) -> Sketches | None:
    if len({body.slot for body in bodies}) > 1:
        return None
    found = dict[str, Sketch]()
    for body in bodies:
        for name, sketch in body.sketches.items():
            both = _ADDED[type(sketch)](found[name], sketch) if name in found else sketch
            if both is None:
                return None
            found[name] = both
    return Sketches(bodies[0].slot, sum(body.window_ms for body in bodies), found)


def _log_sketch(one: Any, other: LogSketch) -> LogSketch | None:
    if not isinstance(one, LogSketch) or one.per_mille != other.per_mille:
        return None
    counts = Counter[int]()
    for sketch in (one, other):
        counts.update(dict(enumerate(sketch.counts, sketch.offset)))
    held = [place for place, count in counts.items() if count]
    first, last = min(held, default=0), max(held, default=-1)
    return LogSketch(one.per_mille, one.zeros + other.zeros, first, tuple(counts[k] for k in range(first, last + 1)))


def _bin_sketch(one: Any, other: BinSketch) -> BinSketch | None:
    if not isinstance(one, BinSketch) or len(one.counts) != len(other.counts):
        return None
    counts = tuple(mine + theirs for mine, theirs in zip(one.counts, other.counts, strict=True))
    return BinSketch(one.nonfinite + other.nonfinite, counts)


def _categories(one: Any, other: Categories) -> Categories | None:
    if not isinstance(one, Categories):
        return None
    counts = Counter(one.counts) + Counter(other.counts)
    kept = dict(counts.most_common(MOST_CATEGORIES))
    rest = counts.total() - sum(kept.values())
    return Categories(kept | {"": kept.get("", 0) + rest} if rest else kept)


_ADDED: dict[type, Callable[[Any, Any], Sketch | None]] = {
    LogSketch: _log_sketch,
    BinSketch: _bin_sketch,
    Categories: _categories,
}
