"""Interleaved timing, on a clock of the test's own."""

from edgert.runtime.timing import interleave, summarise


class Clock:
    """A clock that only the timed calls move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_interleave_measures_each_call_by_the_clock_and_its_ratio_to_the_first():
    """A call of 10 ms beside a baseline of 20 ms is 2.0 times as fast."""
    clock = Clock()

    def slow() -> None:
        clock.now += 0.020

    def fast() -> None:
        clock.now += 0.010

    result = interleave({"slow": slow, "fast": fast}, rounds=6, warmup=1, clock=clock)
    assert result["fast"].rounds == 6
    assert round(result["fast"].p50_ms, 6) == 10.0
    assert round(result["fast"].speedup, 6) == 2.0
    assert round(result["slow"].speedup, 6) == 1.0


def test_interleave_stops_at_the_budget_but_times_one_round():
    """A budget that is used up before the first round still leaves one timed round."""
    clock = Clock()

    def call() -> None:
        clock.now += 5.0

    assert interleave({"only": call}, rounds=100, budget_s=1.0, warmup=1, clock=clock)["only"].rounds == 1


def test_interleave_reverses_the_order_every_other_round():
    """No call is always the one that finds the caches warm."""
    order: list[str] = []
    interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, warmup=0)
    assert order == ["a", "b", "b", "a"]


def test_summarise_ratio_is_the_median_of_rounds_not_the_ratio_of_medians():
    """A machine that slows down for both alike does not change the ratio."""
    own, base = [1.0, 10.0, 2.0], [2.0, 20.0, 4.0]
    assert summarise(own, base).speedup == 2.0
