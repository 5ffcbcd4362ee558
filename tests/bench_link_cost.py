"""What telemetry costs a model: microseconds a call inside `Telemetry.called`, and turns with and without it.

The bar is 1 % of the run's time or 20 us, whichever is more. Telemetry's time is the mean over all calls of a turn,
those that look at tensors included, set against the runs of the same turn; figures are medians over turns. What turns
with it take longer shows what else it might disturb, and is no finer than the noise of the machine.
"""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import edgert
from edgert import strict_json
from edgert.commands.printing import table
from edgert.runtime.model import Model
from edgert.runtime.telemetry import LEAST_COST_S, SHARE, Telemetry
from edgert.runtime.timing import settle

TURN_S, TURNS = 0.4, 30


@dataclass(frozen=True)
class Cost:
    """Seconds a call, of the run itself and of telemetry, and its share of what it may take, medians over turns.

    `turns_share` is by how much turns with telemetry take longer than those without.
    """

    run_s: float
    telemetry_s: float
    of_bar: float
    turns_share: float
    looked_at: float


class _Timed:
    """A Telemetry whose own time is added up, turn by turn, beside that of the runs."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.telemetry, self.turns = telemetry, list[list[tuple[float, float]]]()

    def __call__(self, run_s: float, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        begun = time.perf_counter()
        self.telemetry.called(run_s, inputs, outputs, pre=run_s / 10, post=run_s / 100)
        self.turns[-1].append((run_s, time.perf_counter() - begun))


def cost_of(model: Model, feeds: Mapping[str, Any]) -> Cost:
    """Return the cost for a model with the reference profile of its bundle."""
    reference = strict_json.loads(model.bundle.file(model.bundle.manifest.reference).read_bytes(), "reference.json")
    assert isinstance(reference, dict)
    timed = _Timed(Telemetry(reference))
    _turn(model, feeds, timed)  # the first looks set how often it looks
    timed.turns.clear()
    timed.telemetry.window()
    ratios = list[float]()
    for turn in range(TURNS):
        found = {}
        for told in (None, timed) if turn % 2 else (timed, None):
            settle()
            model.run(feeds)
            found[told is None] = _turn(model, feeds, told)
        ratios.append(found[False] / found[True] - 1)
    looked = timed.telemetry.window()
    means = [tuple(map(statistics.fmean, zip(*turn, strict=True))) for turn in timed.turns]
    shares = [taken_s / max(SHARE * run_s, LEAST_COST_S) for run_s, taken_s in means]
    run_s, taken_s = (statistics.median(values) for values in zip(*means, strict=True))
    return Cost(run_s, taken_s, statistics.median(shares), statistics.median(ratios), looked.looked_at / looked.calls)


def _turn(model: Model, feeds: Mapping[str, Any], told: _Timed | None) -> float:
    """Return the mean seconds of a call in a turn, telemetry included where there is some."""
    if told is not None:
        told.turns.append([])
    begun, calls = time.perf_counter(), 0
    while time.perf_counter() - begun < TURN_S:
        start = time.perf_counter()
        outputs = model.run(feeds)
        seconds = time.perf_counter() - start
        if told is not None:
            told(seconds, feeds, outputs)
        calls += 1
    return (time.perf_counter() - begun) / calls


def measure(bundles: Mapping[str, tuple[Path, Path]]) -> bool:
    """Print the table for model name -> (bundle, feeds); whether the bar holds for each."""
    rows, held = [], True
    for name, (bundle, samples) in bundles.items():
        feeds = dict(np.load(samples))
        with edgert.load(bundle, device="cpu") as model:
            found = cost_of(model, feeds)
        held &= found.of_bar <= 1
        values = f"{sum(one.size for one in feeds.values()):,}"
        cost = (f"{found.telemetry_s * 1e6:.1f}", f"{found.telemetry_s / found.run_s:.2%}", f"{found.of_bar:.0%}")
        rows.append(
            (name, values, f"{found.run_s * 1e3:.3f}", *cost, f"{found.looked_at:.1%}", f"{found.turns_share:+.2%}")
        )
    head = (
        "model",
        "input values",
        "run ms",
        "telemetry us/call",
        "of a run",
        "of the bar",
        "looked at",
        "turns with it",
    )
    print(table(head, rows), flush=True)
    return held
