"""What a model tells about itself adds up, says the right thing, and costs next to nothing."""

import json
import threading

import numpy as np
import pytest

from converters.reference import distributions, reference_profile
from edgert.record import Record, Stamp
from edgert.runtime.telemetry import MOST_CATEGORIES, LogCounts, Telemetry
from edgert.wire import decode, encode


def probabilities(rows: int, seed: int = 0, classes: int = 4) -> np.ndarray:
    values = np.random.default_rng(seed).gamma(0.5, size=(rows, classes)) + 1e-6
    return (values / values.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def reference() -> dict[str, object]:
    """Return the reference profile that a conversion makes of 20 samples."""
    made = np.random.default_rng(3)
    samples = [
        ({"x": made.normal(size=(1, 64)).astype(np.float32)}, {"p": probabilities(8, seed)}) for seed in range(20)
    ]

    def pairs():
        return iter(samples)

    by_input = {id(inputs): outputs for inputs, outputs in samples}
    document = reference_profile(distributions(pairs), pairs, lambda inputs: by_input[id(inputs)])
    return json.loads(json.dumps(document))


def call(telemetry: Telemetry, seed: int, seconds: float = 1.0, shift: float = 0.0) -> None:
    x = np.random.default_rng(seed).normal(shift, size=(1, 64)).astype(np.float32)
    telemetry.called(seconds, {"x": x}, {"p": probabilities(8, seed)})


def test_log_counts_tell_a_quantile_to_two_percent():
    """The bucket that holds the median ends within 2 % of it, over nine powers of ten."""
    for scale in (1e-6, 1.0, 1e3):
        values = np.random.default_rng(1).lognormal(sigma=1.0, size=2001) * scale
        counts = LogCounts()
        for value in values:
            counts.add(float(value))
        sketch = counts.sketch()
        place = int(np.searchsorted(np.cumsum(sketch.counts), 1001))
        growth = 1.02 / 0.98
        middle = 2 * growth ** (sketch.offset + place) / (1 + growth)
        assert middle == pytest.approx(float(np.median(values)), rel=0.021)
        assert sum(sketch.counts) == 2001


def test_log_counts_of_nothing_and_of_zeros():
    """An empty window is an empty sketch; a clock that stands still counts as zero."""
    counts = LogCounts()
    assert counts.sketch().counts == ()
    counts.add(0.0)
    counts.add(-1.0)
    assert (counts.sketch().zeros, counts.sketch().counts) == (2, ())


def test_windows_add_up_to_the_counts_of_one(reference):
    """Two windows, or two devices, give together what one gives: the bins never move."""
    together, parts = Telemetry(reference, clock=lambda: 0.0), Telemetry(reference, clock=lambda: 0.0)
    sums: dict[str, np.ndarray] = {}
    for half in (range(5), range(5, 12)):
        for seed in half:
            call(together, seed)
            call(parts, seed)
        for name, sketch in parts.window().sketches.sketches.items():
            if hasattr(sketch, "nonfinite"):
                sums[name] = sums.get(name, 0) + np.array(sketch.counts)
    whole = together.window()
    assert whole.calls == whole.looked_at == 12
    assert {"input/x", "output/p", "confidence/p", "entropy/p"} == set(sums)
    for name, counts in sums.items():
        assert counts.tolist() == list(whole.sketches.sketches[name].counts)


def test_bins_are_those_of_the_reference_profile(reference):
    """The same data as at conversion gives the counts that the bundle has; shifted data does not."""
    entry = reference["inputs"]["x"]
    telemetry = Telemetry(reference, clock=lambda: 0.0)
    made = np.random.default_rng(3)
    for seed in range(20):
        telemetry.called(1.0, {"x": made.normal(size=(1, 64)).astype(np.float32)}, {"p": probabilities(8, seed)})
    same = telemetry.window().sketches.sketches["input/x"].counts
    assert list(same) == entry["counts"]
    for seed in range(20):
        call(telemetry, seed, shift=5.0)
    assert sum(telemetry.window().sketches.sketches["input/x"].counts[-8:]) > 800


def test_values_that_are_not_finite_are_told_apart(reference):
    """NaN from a broken sensor is neither low nor high."""
    telemetry = Telemetry(reference, clock=lambda: 0.0)
    x = np.full((1, 64), np.nan, np.float32)
    x[0, :4] = [np.inf, -np.inf, 0.0, 0.1]
    telemetry.called(1.0, {"x": x}, {"p": probabilities(8)})
    sketch = telemetry.window().sketches.sketches["input/x"]
    assert sketch.nonfinite == 62
    assert sum(sketch.counts) == 2


def test_classes_beyond_the_most_are_counted_as_others():
    """A model with a thousand classes costs no more than one with thirty."""
    reference = {"classes": {"p": {"confidence": {"edges": np.linspace(0, 1, 11).tolist()}}}}
    telemetry = Telemetry(reference, clock=lambda: 0.0)
    for start in range(0, 200, 50):
        telemetry.called(1.0, {}, {"p": np.eye(200, dtype=np.float32)[start : start + 50]})
    counts = telemetry.window().sketches.sketches["class/p"].counts
    assert len(counts) == MOST_CATEGORIES + 1
    assert sum(counts.values()) == 200
    assert counts[""] == 200 - MOST_CATEGORIES


def test_calls_are_looked_at_as_often_as_their_time_has_room_for(reference):
    """By this clock counting costs 1 ms and looking 2 ms more: of 0.6 times 2.5 ms it is paid for each fourth call."""
    now = [0.0]

    def clock() -> float:
        now[0] += 0.001
        return now[0]

    telemetry = Telemetry(reference, clock=clock)
    begun = now[0]
    for seed in range(100):
        call(telemetry, seed, seconds=0.25)
    spent = now[0] - begun
    told = telemetry.window()
    assert 24 <= told.looked_at <= 26
    assert spent - 0.1 <= 100 * 0.0025  # what is between two calls is not telemetry's: a millisecond of this clock
    assert told.calls == sum(told.sketches.sketches["run_seconds"].counts) == 100


def test_calls_too_short_to_look_at_are_timed_all_the_same(reference):
    """Counting alone takes all that there is: the first call is looked at, the others are not."""
    now = [0.0]

    def clock() -> float:
        now[0] += 0.001
        return now[0]

    telemetry = Telemetry(reference, clock=clock)
    for seed in range(600):
        call(telemetry, seed, seconds=0.001)
    told = telemetry.window()
    assert told.looked_at == 1
    assert told.calls == sum(told.sketches.sketches["run_seconds"].counts) == 600


def test_a_process_that_was_put_to_sleep_looks_again_soon(reference):
    """A second in one look is a debt of a few looks, not of an hour."""
    ticks = iter([0.0, *([0.0] * 8), *([1.0] * 100_000)])
    telemetry = Telemetry(reference, clock=lambda: next(ticks))
    for seed in range(20):
        call(telemetry, seed, seconds=0.01)
    assert telemetry.window().looked_at > 1


def test_times_that_are_counted_together_are_counted_as_one_by_one():
    """Any number of them, zeros and negative ones included."""
    values = [*np.random.default_rng(2).lognormal(-5, 2, 1000).tolist(), 0.0, -1.0]
    together, single = LogCounts(), LogCounts()
    together.add_many(values)
    together.add_many([])
    for value in values:
        single.add(value)
    assert together.sketch() == single.sketch()


def test_errors_are_counted_by_code_and_windows_begin_empty(reference):
    """What was told is not told again."""
    telemetry = Telemetry(reference, clock=lambda: 0.0)
    telemetry.failed("oom")
    telemetry.failed("oom")
    call(telemetry, 1)
    assert telemetry.window().errors == {"oom": 2}
    told = telemetry.window()
    assert (told.calls, told.errors, told.sketches.sketches) == (0, {}, {})


def test_threads_lose_no_call(reference):
    """Eight threads, and windows taken in between: every call is in exactly one."""
    telemetry, calls = Telemetry(reference), []
    threads = [threading.Thread(target=lambda: [call(telemetry, seed) for seed in range(50)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        calls.append(telemetry.window().calls)
    calls.append(telemetry.window().calls)
    assert sum(calls) == 400


def test_a_window_of_one_model_fits_in_few_bytes(reference):
    """Latency, one input, one output of classes: less than 400 bytes, and it arrives as it was."""
    telemetry = Telemetry(reference, clock=lambda: 0.0)
    for seed in range(300):
        telemetry.called(
            0.01 * (1 + 0.1 * (seed % 7)),
            {"x": np.random.default_rng(seed).normal(size=(1, 64))},
            {"p": probabilities(8, seed)},
        )
    body = telemetry.window().sketches
    payload = encode(Record(bytes(8), 1, 1, Stamp(0), body))
    assert len(payload) < 400
    assert decode(payload, "sk").body == body
