"""Strategies that make every kind of record, for the tests of the link, and how long they go on."""

import os

from hypothesis import strategies as st

from edgert.columns import FLOAT32, FLOAT64, INTEGERS, Column
from edgert.record import (
    Batch,
    BinSketch,
    Birth,
    Categories,
    Event,
    Events,
    LogLines,
    LogSketch,
    Loss,
    Metric,
    Record,
    Reported,
    Result,
    Sketches,
    Slot,
    Stamp,
    Sync,
)

SOAK = os.environ.get("EDGERT_SOAK") == "1"
"""`make soak`: as many inputs and faults as have been promised, not as many as a minute has room for."""


def times(count: int) -> int:
    """Return how many examples a test tries."""
    return 16 * count if SOAK else count


INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
UINT = st.integers(0, (1 << 64) - 1)
SMALL = st.integers(0, 1000)
WORD = st.text(max_size=12)
HASH = st.binary(min_size=8, max_size=8)
FLOATS = {FLOAT32: st.floats(width=32, allow_nan=False), FLOAT64: st.floats(allow_nan=False)}


def columns(count: int) -> st.SearchStrategy[Column]:
    """Return columns of `count` samples, with and without gaps."""
    numbers = {INTEGERS: INT64, **FLOATS}
    return st.one_of(
        *(
            st.builds(Column, st.just(kind), st.lists(one, min_size=count, max_size=count).map(tuple))
            for kind, value in numbers.items()
            for one in (value, st.none() | value)
        )
    )


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Return batches; the last column is there, since missing ones at the end leave no trace."""
    steps = draw(st.lists(SMALL, max_size=20))
    times = tuple(sum(steps[:place]) for place in range(len(steps) + 1))
    entries = draw(st.lists(st.none() | columns(len(times)), max_size=4))
    return Batch(draw(HASH), times, (*entries, draw(columns(len(times)))))


COUNTS = st.lists(UINT, max_size=40).map(tuple)
SKETCH = (
    st.builds(LogSketch, st.integers(1, 500), UINT, INT64, COUNTS)
    | st.builds(BinSketch, UINT, COUNTS)
    | st.builds(Categories, st.dictionaries(WORD, UINT, max_size=5))
)
DETAIL = st.none() | st.booleans() | INT64 | WORD | st.floats(allow_nan=False)
METRIC = st.builds(Metric, WORD, WORD, st.integers(-9, 9), st.integers(0, 1), st.none() | SMALL)
WORDS = st.lists(WORD, max_size=3).map(tuple)
SLOT = st.builds(Slot, WORD, WORD, WORD, WORD, WORD, WORDS, WORD, WORD, HASH)
BIRTH = st.builds(
    Birth,
    WORD,
    WORD,
    WORD,
    st.dictionaries(WORD, WORD, max_size=4),
    st.lists(st.lists(METRIC, min_size=1, max_size=4).map(tuple), max_size=3).map(tuple),
    st.lists(SLOT, max_size=2).map(tuple),
    st.dictionaries(WORD, DETAIL, max_size=3),
    st.lists(st.binary(min_size=32, max_size=32), max_size=2).map(tuple),
)
EVENT = st.builds(Event, WORD, st.integers(0, 2), SMALL, st.dictionaries(WORD, DETAIL, max_size=3))
LOSS = st.builds(
    lambda first, more, reason, epoch: Loss(first, first + more, reason, epoch),
    st.integers(1, 1 << 40),
    SMALL,
    st.sampled_from(["cap", "merged", "store", "bad"]),
    st.none() | HASH,
)
BODIES = (
    BIRTH
    | batches()
    | st.builds(Sketches, SMALL, UINT, st.dictionaries(WORD, SKETCH, max_size=4))
    | st.builds(Events, st.lists(EVENT, max_size=3).map(tuple), st.lists(LOSS, max_size=3).map(tuple))
    | st.builds(Reported, UINT, st.dictionaries(WORD, DETAIL, max_size=3))
    | st.builds(LogLines, st.lists(st.tuples(UINT, WORD, WORD), max_size=3).map(tuple))
    | st.builds(
        Result, WORD, st.sampled_from(["done", "failed", "refused"]), WORD, st.dictionaries(WORD, DETAIL, max_size=3)
    )
)
STAMPS = st.builds(Stamp, UINT, INT64, st.sampled_from(Sync))
RECORDS = st.builds(Record, HASH, st.integers(1, (1 << 64) - 1), st.integers(1, 1 << 32), STAMPS, BODIES, st.booleans())
