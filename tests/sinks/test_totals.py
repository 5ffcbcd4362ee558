"""Windows add up to what one long window would be, in a bounded number of series."""

import math

import numpy as np
import pytest

from edgert.columns import FLOAT64, INTEGERS, Column
from edgert.record import COUNTER, Batch, BinSketch, Birth, Categories, Event, Events, LogSketch, Metric, Sketches
from edgert.sinks.durations import BOUNDS_S, Durations
from edgert.sinks.metric_names import family_of
from edgert.sinks.totals import Totals
from edgert.wire import schema_hash
from tests.sinks.reports import AT, BIRTH, born, durations, window, with_slots


def series(totals: Totals) -> dict[str, dict[tuple[str, ...], object]]:
    """Return all series by the name of their family."""
    return {family.name: dict(told) for family, told in totals.snapshot().families.items()}


def born_with(*metrics: Metric) -> Birth:
    return Birth("acme", "press-7", "", {}, (metrics,), BIRTH.slots)


def samples(birth: Birth, *columns: Column | None) -> Batch:
    return Batch(schema_hash(birth.schemas[0]), tuple(range(2)), columns)


def test_counters_add_up_and_gauges_are_the_newest_sample_with_its_scale():
    """Two windows of ten calls are twenty; a gauge is the last value that is there, in base units."""
    totals = Totals()
    totals.add(born())
    totals.add(window())
    totals.add(window())
    told = series(totals)
    assert told["edgert_inferences"] == {("digits",): 20}
    assert told["edgert_errors"] == {("digits",): 2}
    assert told["edgert_resident_memory_bytes"] == {(): 50_000_000}
    assert told["edgert_cpu_ratio"] == {(): 0.25}
    assert told["edgert_temperature_celsius"] == {(): 43.1}
    assert told["edgert_disk_free_bytes"] == {(): 800_000_000}
    assert told["edgert_class_values"] == {("digits", "y", "7"): 6, ("digits", "y", "other"): 4}
    assert told["edgert_input_bins"][("digits", "x", "2")] == 12
    assert told["edgert_input_bins"][("digits", "x", "nonfinite")] == 2
    assert told["edgert_events"] == {("2", "inference_failed"): 2}
    assert told["edgert_inference_failures"] == {("BadInput",): 2}
    assert told["edgert_last_report_timestamp_seconds"] == {(): 1_790_000_000}


def test_durations_merge_into_fixed_buckets_within_the_sketches_two_percent():
    """Every bucket has the values below its bound, but for those 2 % around it; the sum is as near."""
    found = Durations()
    values = np.random.default_rng(4).lognormal(mean=-4, sigma=2, size=5000)
    for part in np.split(values, 10):
        sketch = durations(*part.tolist())
        assert isinstance(sketch, LogSketch)
        found.add(sketch)
    assert sum(found.counts) == 5000
    for bound, count in zip(BOUNDS_S, np.cumsum(found.counts), strict=False):
        assert (values <= bound * 0.98).sum() <= count <= (values <= bound * 1.021).sum()
    assert found.total_s == pytest.approx(values.sum(), rel=0.02)


@pytest.mark.parametrize("offset", [-(1 << 63), (1 << 63) - 2])
def test_durations_of_absurd_buckets_are_counted_and_stay_finite(offset):
    """A bucket that no clock measures is in the first or the last one."""
    found = Durations()
    found.add(LogSketch(500, 1, offset, (2, 3)))
    assert sum(found.counts) == 6
    assert math.isfinite(found.total_s)


@pytest.mark.parametrize(
    ("metric", "name", "places"),
    [
        (Metric("inferences_total", "1", 0, COUNTER), "edgert_inferences", 0),
        (Metric("queue_wait", "ms"), "edgert_queue_wait_seconds", 3),
        (Metric("flash_written_bytes_total", "B", 0, COUNTER), "edgert_flash_written_bytes", 0),
        (Metric("cpu_ratio", "1", 3), "edgert_cpu_ratio", 0),
        (Metric("battery", "%"), "edgert_battery_ratio", 2),
        (Metric("Soc temp.", "degC"), "edgert_soc_temp_celsius", 0),
        (Metric("depth_total", "1"), "edgert_depth", 0),
        (Metric("näme", "W"), "edgert_n_me", 0),
        (Metric("", ""), "edgert_unnamed", 0),
    ],
)
def test_names_have_base_units_and_letters_that_prometheus_takes(metric, name, places):
    """`_seconds`, `_bytes`, `_ratio`, `_celsius`; the kind's own endings are the exporter's."""
    family, found = family_of(metric)
    assert (family.name, found) == (name, places)


def test_milliseconds_and_percent_become_seconds_and_ratios():
    """Integers with their scale, floats as they are."""
    birth = born_with(Metric("wait", "ms", 1), Metric("battery", "%"))
    totals = Totals()
    totals.add(born(birth))
    totals.add([(AT, samples(birth, Column(INTEGERS, (1, 1234)), Column(FLOAT64, (50.0, 12.5))))])
    told = series(totals)
    assert told["edgert_wait_seconds"] == {(): 0.1234}
    assert told["edgert_battery_ratio"] == {(): 0.125}


def test_counters_ignore_steps_back_and_what_is_no_number():
    """A counter never falls: Prometheus would take it for a restart."""
    birth = born_with(Metric("a_total", "1", 0, COUNTER), Metric("b_total", "1", 0, COUNTER))
    totals = Totals()
    totals.add(born(birth))
    totals.add([(AT, samples(birth, Column(INTEGERS, (5, 1)), Column(FLOAT64, (1.5, 1.0))))])
    totals.add([(AT, samples(birth, Column(INTEGERS, (-5, 1)), Column(FLOAT64, (math.nan, 1.0))))])
    totals.add([(AT, samples(birth, Column(INTEGERS, (None, None)), Column(FLOAT64, (math.inf, 1.0))))])
    totals.add([(AT, samples(birth, None))])
    assert series(totals)["edgert_a"] == {(): 6}
    assert series(totals)["edgert_b"] == {(): 2.5}


def test_two_columns_of_one_name_and_different_kinds_do_not_mix():
    """The first has the name; so have the sink's own metrics."""
    birth = born_with(
        Metric("x_total", "1", 0, COUNTER), Metric("x", "1"), Metric("events", "1"), Metric("model_info", "1")
    )
    one = Column(INTEGERS, (1, 1))
    totals = Totals()
    totals.add(born(birth))
    totals.add([(AT, samples(birth, one, one, one, one))])
    assert series(totals)["edgert_x"] == {(): 2}
    assert "edgert_events" not in series(totals)
    assert totals.dropped == 3


def test_batch_of_an_unknown_schema_is_counted_as_dropped():
    """Without its birth nobody knows what the numbers are."""
    totals = Totals()
    totals.add([(AT, Batch(bytes(8), (0,), (Column(INTEGERS, (1,)),)))])
    assert totals.dropped == 1


def test_series_are_bounded_and_the_rest_is_other():
    """A thousand classes, tensors and codes: at most `max_series` series, and no count is lost while `other` fits."""
    totals = Totals(max_series=200, most_values=16)
    for number in range(1000):
        totals.add([(AT, Sketches(0, 1, {"class/y": Categories({f"class {number}": 1})}))])
    assert len(series(totals)["edgert_class_values"]) == 17
    assert sum(series(totals)["edgert_class_values"].values()) == 1000
    assert totals.dropped == 0
    for number in range(1000):
        totals.add([(AT, Sketches(0, 1, {f"input/{number}": BinSketch(0, (1, 2))}))])
        totals.add([(AT, Sketches(number, 1, {f"stage{number}_seconds": durations(0.1)}))])
        totals.add([(AT, Events((Event(f"code_{number}", 0),)))])
    assert sum(len(one) for one in series(totals).values()) == 200
    assert totals.dropped > 1000


def test_bins_of_a_new_reference_begin_anew():
    """Counts of different bins are not added; classes and calls go on."""
    totals = Totals()
    totals.add(born())
    totals.add(window())
    totals.add(born(with_slots("digits")))
    totals.add(window())
    assert series(totals)["edgert_input_bins"][("digits", "x", "1")] == 8
    totals.add(born(with_slots("digits", reference=bytes(8))))
    totals.add(window())
    assert series(totals)["edgert_input_bins"][("digits", "x", "1")] == 4
    assert series(totals)["edgert_class_values"][("digits", "y", "7")] == 9


def test_models_of_one_name_stay_apart_and_one_without_birth_is_its_slot():
    """A label names one model."""
    totals = Totals()
    totals.add([(AT, Sketches(4, 1, {"class/y": Categories({"a": 1})}))])
    totals.add(born(with_slots("rec", "det", "rec")))
    for slot in range(3):
        totals.add([(AT, Sketches(slot, 1, {"class/y": Categories({"a": 1})}))])
    models = {labels[0] for labels in series(totals)["edgert_class_values"]}
    assert models == {"4", "rec-0", "det", "rec-2"}
