"""Time calls against each other in interleaved turns, so that a noisy machine is noisy for all of them alike.

ONNX Runtime's threads go on spinning after a run (43 ms on an EPYC with 2 threads), which would slow down whoever comes
next: so a turn starts when the process has fallen quiet, and then belongs to one session alone. Which session is better
is left to the caller: compare the ratios, never two absolute times of different runs.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Clock = Callable[[], float]
TURN_S = 0.05
QUIET_CHECK_S = 0.01
QUIET_CHECKS = 60


@dataclass(frozen=True)
class Latency:
    """Latency of one call in milliseconds over `calls` calls, and the median over turns of its ratio to the first."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    calls: int
    speedup: float

    def to_json(self, where: str) -> dict[str, object]:
        """Return the figures with the place where they were taken."""
        return {"p50": self.p50_ms, "p90": self.p90_ms, "p99": self.p99_ms, "calls": self.calls, "where": where}


def settle() -> None:
    """Wait until the threads of this process have stopped spinning, 0.6 s at most."""
    for _ in range(QUIET_CHECKS):
        before = time.process_time()
        time.sleep(QUIET_CHECK_S)
        if time.process_time() - before < QUIET_CHECK_S / 5:
            return


def interleave(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    budget_s: float = math.inf,
    warmup: int = 1,
    turn_s: float = TURN_S,
    wait: Callable[[], None] = settle,
    clock: Clock = time.perf_counter,
) -> dict[str, Latency]:
    """Give each of `calls` one turn a round, for `rounds` rounds or until `budget_s` seconds are used.

    A turn is `warmup` untimed calls, then timed ones for `turn_s` seconds, at least one. The order is reversed every
    other round; there is at least one round. `speedup` is the median over rounds of the first call's median time in
    its turn divided by this one's.
    """
    names = list(calls)
    end = clock() + budget_s
    turns: dict[str, list[list[float]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            wait()
            turns[name].append(_turn(calls[name], warmup, turn_s, clock))
        if clock() > end:
            break
    return {name: summarise(turns[name], turns[names[0]]) for name in names}


def summarise(turns: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]]) -> Latency:
    """Return the percentiles of all calls, in ms, and the median ratio of `baseline` to them, turn by turn."""
    ratios = [np.median(base) / np.median(own) for base, own in zip(baseline, turns, strict=True)]
    times = np.concatenate([np.asarray(turn) for turn in turns])
    p50, p90, p99 = (float(np.percentile(times, q)) for q in (50, 90, 99))
    return Latency(p50, p90, p99, times.size, float(np.median(ratios)))


def _turn(call: Callable[[], object], warmup: int, turn_s: float, clock: Clock) -> list[float]:
    for _ in range(warmup):
        call()
    times: list[float] = []
    begin = clock()
    while not times or clock() - begin < turn_s:
        start = clock()
        call()
        times.append((clock() - start) * 1000)
    return times
