"""Time sessions against each other in interleaved rounds, so that a noisy machine is noisy for all of them alike.

Which session is better is left to the caller: compare the ratios, never two absolute times of different runs.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Clock = Callable[[], float]


@dataclass(frozen=True)
class Latency:
    """Latency of one call in milliseconds over `rounds` rounds, and the median of its ratio to the first session."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    rounds: int
    speedup: float

    def to_json(self, where: str) -> dict[str, object]:
        """Return the figures with the place where they were taken."""
        return {"p50": self.p50_ms, "p90": self.p90_ms, "p99": self.p99_ms, "rounds": self.rounds, "where": where}


def interleave(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    budget_s: float = math.inf,
    warmup: int = 2,
    clock: Clock = time.perf_counter,
) -> dict[str, Latency]:
    """Call each of `calls` once a round, in turn, for `rounds` rounds or until `budget_s` seconds are used.

    The order is reversed every other round. `speedup` is the median over rounds of first call's time / this one's.
    At least one round is timed after `warmup` untimed ones.
    """
    names = list(calls)
    end = clock() + budget_s
    for _ in range(warmup):
        for name in names:
            calls[name]()
    times: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(rounds):
        for name in names if round_number % 2 == 0 else reversed(names):
            start = clock()
            calls[name]()
            times[name].append((clock() - start) * 1000)
        if clock() > end:
            break
    return {name: summarise(times[name], times[names[0]]) for name in names}


def summarise(milliseconds: Sequence[float], baseline: Sequence[float]) -> Latency:
    """Return the percentiles of `milliseconds` and the median ratio of `baseline` to it, round by round."""
    ratios = [base / own for base, own in zip(baseline, milliseconds, strict=True)]
    p50, p90, p99 = (float(np.percentile(milliseconds, q)) for q in (50, 90, 99))
    return Latency(p50, p90, p99, len(milliseconds), float(np.median(ratios)))
