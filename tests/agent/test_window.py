"""A window: samples add up, and what a budget leaves out is really out."""

import time
from dataclasses import replace

from edgert.agent.budget import STEPS
from edgert.agent.window import COUNTERS, SCHEMA, Counts, Detail, LinkState, Window, reduced
from edgert.record import Batch, Events, Record, Sketches
from edgert.runtime.telemetry import Telemetry
from edgert.wire import decode, encode

REFERENCE: dict[str, object] = {"inputs": {}, "outputs": {}, "classes": {}}


def column(batch: Batch, name: str) -> tuple[int | float | None, ...]:
    place = [metric.name for metric in SCHEMA].index(name)
    found = batch.columns[place]
    assert found is not None
    return found.values


def test_window_counts_what_was_added_since_the_sample_before(tmp_path):
    """Counters are differences, also of what began before the window; gauges are as they were."""
    counts, state = Counts(calls=100), [LinkState(sent_bytes=5000)]
    telemetry = Telemetry(REFERENCE)
    window = Window(telemetry, counts, tmp_path, lambda: state[0])
    counts.calls, counts.errors, counts.queued = 107, 1, 3
    state[0] = LinkState(records=2, bytes=900, oldest_s=61.5, sent_bytes=5600, connects=1)
    window.sample()
    counts.calls, counts.dropped, counts.queued = 110, 4, 0
    telemetry.failed("BadInput")
    batch, errors = (body for _, body in window.reports())
    assert column(batch, "inferences_total") == (7, 3)
    assert column(batch, "errors_total") == (1, 0)
    assert column(batch, "dropped_total") == (0, 4)
    assert column(batch, "queue_depth") == (3, 0)
    assert column(batch, "link_sent_bytes_total") == (600, 0)
    assert column(batch, "outbox_bytes") == (9, 9)
    assert column(batch, "outbox_oldest_seconds") == (61, 61)
    assert all(value * 10_000 > 10_000_000 for value in column(batch, "resident_memory_bytes"))
    assert errors.events[0].details == {"BadInput": 1}
    counts.calls = 111
    (batch,) = (body for _, body in window.reports())
    assert column(batch, "inferences_total") == (1,)


def test_report_begins_with_its_first_sample(tmp_path):
    """The stamp is that moment on both clocks; the others come after it."""
    window = Window(Telemetry(REFERENCE), Counts(), tmp_path)
    before = time.monotonic(), time.time()
    window.sample()
    time.sleep(0.05)
    ((stamp, batch),) = window.reports()
    assert 0 <= stamp.mono_ms / 1000 - before[0] < 0.04
    assert 0 <= stamp.wall_ms / 1000 - before[1] + 0.001 < 0.04
    assert batch.after_ms[0] == 0
    assert 50 <= batch.after_ms[1] < 1000


def test_reduced_report_is_smaller_and_has_no_more_than_the_step_tells(tmp_path):
    """Fewer columns, then fewer sketches; events always stay."""
    telemetry = Telemetry(REFERENCE)
    window = Window(telemetry, Counts(), tmp_path)
    telemetry.called(0.01, {}, {}, pre=0.001)
    telemetry.failed("x")
    items = window.reports()
    sizes = []
    for detail in STEPS:
        records = [Record(bytes(8), 1, 1, stamp, body) for stamp, body in reduced(items, detail)]
        read = [decode(encode(one), one.kind).body for one in records]
        batch = next(body for body in read if isinstance(body, Batch))
        assert len(batch.columns) <= detail.columns
        assert sum(isinstance(body, Events) for body in read) == 1
        names = {name for body in read if isinstance(body, Sketches) for name in body.sketches}
        assert names == ({"run_seconds", "pre_seconds"} if detail.sketches is None else {"run_seconds"})
        sizes.append(sum(len(encode(one)) for one in records))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0] - 30
    nothing = reduced(items, replace(Detail(), sketches=("none",)))
    assert not any(isinstance(body, Sketches) for _, body in nothing)


def test_counters_of_the_schema_are_those_whose_names_say_so():
    """`_total` is added up by the server, everything else is not."""
    assert {SCHEMA[place].name for place in COUNTERS} == {one.name for one in SCHEMA if one.name.endswith("_total")}
    assert len({one.name for one in SCHEMA}) == len(SCHEMA)
