"""Coarser records: what was counted stays counted."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgert.columns import FLOAT32, INTEGERS, Column
from edgert.link.merge import MOST_CATEGORIES, merged
from edgert.record import (
    COUNTER,
    Batch,
    BinSketch,
    Categories,
    Event,
    Events,
    LogSketch,
    Metric,
    Record,
    Sketches,
    Stamp,
)
from edgert.wire import decode, encode, schema_hash

SCHEMA = (Metric("calls_total", "1", 0, COUNTER), Metric("warmth", "degC", 1))
EPOCH = bytes(8)


def batch(start_ms: int, rows: list[tuple[int | None, int | None]]) -> Record:
    columns = [Column(INTEGERS, tuple(row[place] for row in rows)) for place in range(2)]
    body = Batch(schema_hash(SCHEMA), tuple(range(0, 1000 * len(rows), 1000)), columns)
    return Record(EPOCH, 1, 1, Stamp(start_ms, 5_000 + start_ms), body)


def sketches(**named: object) -> Record:
    return Record(EPOCH, 1, 1, Stamp(0), Sketches(0, 1000, named))


VALUES = st.none() | st.integers(0, 1 << 40)


@given(st.lists(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=9), min_size=2, max_size=15))
@settings(max_examples=200, deadline=None)
def test_merged_batches_keep_the_sums_of_counters_and_the_range_of_gauges(parts):
    """Any gaps: no more samples than the longest had, times ascending from the first, and it can be sent."""
    records = [batch(10_000 * place, rows) for place, rows in enumerate(parts)]
    one = merged(records, SCHEMA)
    assert one is not None
    assert one.coarse
    assert (one.at, one.boot) == (records[0].at, 1)
    body = decode(encode(replace(one, seq=7)), "tel").body
    assert isinstance(body, Batch)
    assert len(body.after_ms) <= max(len(rows) for rows in parts)
    assert list(body.after_ms) == sorted(set(body.after_ms))
    assert body.after_ms[0] == 0
    counts, warmth = (column.values if column else () for column in (*body.columns, None)[:2])
    assert sum(value or 0 for value in counts) == sum(row[0] or 0 for rows in parts for row in rows)
    gauges = [row[1] for rows in parts for row in rows if row[1] is not None]
    assert all(min(gauges) <= value <= max(gauges) for value in warmth if value is not None)
    assert any(value is not None for value in warmth) == bool(gauges)


def test_merged_gauge_is_the_mean_of_the_samples_that_are_there():
    """Two batches of one sample become one: 10 and 20 make 15; of 10 and nothing, 10 is left."""
    one = merged([batch(0, [(1, 10)]), batch(1000, [(2, 20)])], SCHEMA)
    assert one.body.columns == [Column(INTEGERS, (3,)), Column(INTEGERS, (15,))]
    one = merged([batch(0, [(1, 10)]), batch(1000, [(2, None)])], SCHEMA)
    assert one.body.columns[1] == Column(INTEGERS, (10,))


def test_column_that_was_left_out_somewhere_has_no_samples_there():
    """Left out in both it stays out; floats stay floats."""
    first, second = batch(0, [(1, 10)]), batch(1000, [(2, 20)])
    out = replace(second, body=replace(second.body, columns=[second.body.columns[0], None]))
    assert merged([first, out], SCHEMA).body.columns[1] == Column(INTEGERS, (10,))
    assert merged([out, out], SCHEMA).body.columns[1] is None
    floats = replace(first, body=replace(first.body, columns=[first.body.columns[0], Column(FLOAT32, (0.5,))]))
    assert merged([floats, floats], SCHEMA).body.columns[1] == Column(FLOAT32, (0.5,))


@pytest.mark.parametrize(
    ("other", "schema"),
    [
        (replace(batch(1000, [(1, 1)]), boot=2), SCHEMA),
        (replace(batch(1000, [(1, 1)]), epoch=b"12345678"), SCHEMA),
        (batch(0, [(1, 1)] * 3), SCHEMA),  # begins before the first one ended
        (replace(batch(1000, [(1, 1)]), body=Batch(bytes(8), (0,), [])), SCHEMA),
        (batch(9000, [(1, 1)]), None),
        (batch(9000, [((1 << 63) - 1, 1), (5, 1)]), SCHEMA),  # the sum is larger than a column may hold
        (replace(batch(9000, [(1, 1)]), body=Events((Event("x", 0),))), SCHEMA),
    ],
)
def test_what_does_not_add_up_is_not_merged(other, schema):
    """Another boot, epoch, schema or kind, overlapping times, a schema nobody knows, a sum that does not fit."""
    assert merged([batch(500, [(1, 1), (1, 1)]), other], schema) is None


BUCKETS = st.builds(
    LogSketch,
    st.just(20),
    st.integers(0, 99),
    st.integers(-300, 300),
    st.lists(st.integers(0, 99), max_size=9).map(tuple),
)


def in_buckets(sketch: LogSketch) -> Counter[int]:
    return Counter({place: count for place, count in enumerate(sketch.counts, sketch.offset) if count})


@given(st.lists(BUCKETS, min_size=2, max_size=15))
@settings(max_examples=200, deadline=None)
def test_merged_latencies_are_the_sum_bucket_by_bucket(parts):
    """Wherever the buckets begin; windows add up, too."""
    one = merged([sketches(run_seconds=part) for part in parts], None)
    body = decode(encode(replace(one, seq=1)), "sk").body
    assert body.window_ms == 1000 * len(parts)
    sketch = body.sketches["run_seconds"]
    assert in_buckets(sketch) == sum((in_buckets(part) for part in parts), Counter())
    assert sketch.zeros == sum(part.zeros for part in parts)


def test_merged_bins_and_classes_are_sums_and_classes_stay_bounded():
    """A name that one window lacks is taken from the other; too many classes go to the rest."""
    first = sketches(bins=BinSketch(1, (1, 2, 3)), kinds=Categories({"a": 5, "b": 1}), only=BinSketch(0, (1,)))
    second = sketches(bins=BinSketch(0, (1, 0, 1)), kinds=Categories({"a": 1, "": 2}))
    found = merged([first, second], None).body.sketches
    assert found["bins"] == BinSketch(1, (2, 2, 4))
    assert found["only"] == BinSketch(0, (1,))
    assert found["kinds"] == Categories({"a": 6, "b": 1, "": 2})
    many = [sketches(kinds=Categories({f"{turn}-{place}": 2 for place in range(32)})) for turn in range(3)]
    counts = merged(many, None).body.sketches["kinds"].counts
    assert sum(counts.values()) == 3 * 32 * 2
    assert len(counts) <= MOST_CATEGORIES + 1


@pytest.mark.parametrize(
    "other",
    [sketches(x=BinSketch(0, (1, 2))), sketches(x=LogSketch(50, 0, 0, (1,))), sketches(x=Categories({}))],
)
def test_counts_in_other_bins_are_not_merged(other):
    """Bins mean something only where they are the same."""
    assert merged([sketches(x=LogSketch(20, 0, 0, (1,))), other], None) is None
    assert merged([sketches(x=BinSketch(0, (1, 2, 3))), other], None) is None
