"""Interleaved timing, on a clock of the test's own."""

import time

import pytest

from edgert.runtime.timing import interleave, settle, summarise


class Clock:
    """A clock that only the timed calls move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def call_of(self, seconds: float):
        """Return a call that takes `seconds`."""

        def call() -> None:
            self.now += seconds

        return call


def no_wait() -> None:
    """Wait for nothing: the calls of these tests leave no threads behind."""


def test_interleave_measures_each_call_by_the_clock_and_its_ratio_to_the_first():
    """A call of 10 ms beside a baseline of 20 ms is 2.0 times as fast; a turn of 0.05 s holds five of them."""
    clock = Clock()
    calls = {"slow": clock.call_of(0.020), "fast": clock.call_of(0.010)}
    result = interleave(calls, rounds=6, clock=clock, wait=no_wait)
    assert result["fast"].calls == pytest.approx(30, abs=6)
    assert result["fast"].p50_ms == pytest.approx(10.0)
    assert result["fast"].speedup == pytest.approx(2.0)
    assert result["slow"].speedup == pytest.approx(1.0)


def test_interleave_stops_at_the_budget_but_gives_each_one_turn():
    """A budget that the first round uses up still leaves one timed call of each."""
    clock = Clock()
    result = interleave(
        {"a": clock.call_of(5.0), "b": clock.call_of(5.0)}, rounds=9, budget_s=1.0, clock=clock, wait=no_wait
    )
    assert (result["a"].calls, result["b"].calls) == (1, 1)


def test_interleave_reverses_the_order_every_other_round_and_waits_before_each_turn():
    """No call is always the one that finds the caches warm, and none starts beside another's spinning threads."""
    order: list[str] = []
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    interleave(calls, rounds=2, warmup=0, turn_s=0.0, wait=lambda: order.append("wait"))
    assert order == ["wait", "a", "wait", "b", "wait", "b", "wait", "a"]


def test_summarise_ratio_is_the_median_of_turns_not_the_ratio_of_medians():
    """A machine that slows down for both alike does not change the ratio."""
    own, base = [[1.0], [10.0], [2.0]], [[2.0], [20.0], [4.0]]
    assert summarise(own, base).speedup == 2.0


def test_settle_returns_once_the_process_is_quiet():
    """With nothing running it ends after a check or a few, far below its limit of 60."""
    before = time.process_time()
    settle()
    assert time.process_time() - before < 0.1
