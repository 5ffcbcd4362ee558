"""What a running model tells about itself: how long calls take, what goes in and comes out, in counts that add up.

The bins are those of the bundle's reference profile. Storing and sending is left to the link: `window` gives records.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgert.record import BinSketch, Categories, LogSketch, Sketch, Sketches

Array = np.ndarray[Any, Any]

PER_MILLE = 20
"""Latency is told to 2 %."""

MOST_VALUES = 256
"""So many values of a tensor are counted in a call, spread over it: more would cost more than they tell."""

SHARE = 0.01
LEAST_COST_S = 20e-6
SAFETY = 0.6
"""Telemetry may take `SHARE` of a call, or `LEAST_COST_S`, whichever is more. Each call is timed and counted; its
tensors are looked at where what earlier calls left over is enough. `SAFETY` of it is spent: calling costs, too."""

MOST_LOOKS = 4.0
"""So many looks can be saved up, and so much debt is remembered: that a process was put to sleep is no cost."""

COUNTED_AT_ONCE = 256
"""Times are kept as they are, and counted so many at a time: that costs a tenth."""

MOST_CATEGORIES = 32
ENTROPY_BINS = 10

_LOG_BASE = math.log((1 + PER_MILLE / 1000) / (1 - PER_MILLE / 1000))


@dataclass
class LogCounts:
    """Counts in logarithmic buckets: bucket k holds values in (g^(k-1), g^k]."""

    counts: Counter[int] = field(default_factory=Counter)
    zeros: int = 0

    def add(self, value: float) -> None:
        """Count one value; what is not positive is a zero."""
        if value > 0:
            self.counts[math.ceil(math.log(value) / _LOG_BASE)] += 1
        else:
            self.zeros += 1

    def add_many(self, values: Sequence[float]) -> None:
        """Count values, for much less than one by one."""
        numbers = np.asarray(values, np.float64)
        positive = numbers[numbers > 0]
        self.zeros += numbers.size - positive.size
        buckets, counts = np.unique(np.ceil(np.log(positive) / _LOG_BASE).astype(np.int64), return_counts=True)
        for bucket, count in zip(buckets.tolist(), counts.tolist(), strict=True):
            self.counts[bucket] += count

    def sketch(self) -> LogSketch:
        """Return what was counted."""
        first, last = min(self.counts, default=0), max(self.counts, default=-1)
        return LogSketch(PER_MILLE, self.zeros, first, tuple(self.counts[k] for k in range(first, last + 1)))


class _Bins:
    """Counts in bins of equal width, as a reference profile has them: one below, the bins, one at or above the last."""

    def __init__(self, edges: Sequence[float]) -> None:
        self._low, self._edges = float(edges[0]), np.asarray(edges, np.float64)
        self.counts = np.zeros(len(edges) + 1, np.int64)
        self.nonfinite = 0

    def add(self, values: Array) -> None:
        found = np.bincount(np.searchsorted(self._edges, values, side="right"), minlength=len(self.counts))
        nonfinite = values.size - int(np.isfinite(values).sum())
        if nonfinite:
            finite = values[np.isfinite(values)]
            found = np.bincount(np.searchsorted(self._edges, finite, side="right"), minlength=len(self.counts))
        self.counts += found
        self.nonfinite += nonfinite

    def sketch(self) -> BinSketch:
        return BinSketch(self.nonfinite, tuple(int(count) for count in self.counts))


@dataclass
class _Window:
    """What was counted since the last `window`."""

    begun_s: float
    times: dict[str, LogCounts] = field(default_factory=dict)
    pending: list[tuple[float, Mapping[str, float]]] = field(default_factory=list)
    bins: dict[str, _Bins] = field(default_factory=dict)
    classes: dict[str, Counter[str]] = field(default_factory=dict)
    calls: int = 0
    looked_at: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def count(self) -> None:
        """Count the times that are pending."""
        pending, self.pending = self.pending, []
        names = {name for _, others in pending for name in others}
        found = {"run": [run_s for run_s, _ in pending]} if pending else {}
        found |= {name: [others[name] for _, others in pending if name in others] for name in names}
        for name, values in found.items():
            self.times.setdefault(f"{name}_seconds", LogCounts()).add_many(values)


@dataclass(frozen=True)
class Told:
    """One window: the sketches as a record's body, and the counters that go into the metrics."""

    sketches: Sketches
    calls: int
    looked_at: int
    errors: Mapping[str, int]


class Telemetry:
    """Counts the calls of one model, from any thread. `reference` is the content of the bundle's `reference.json`.

    Its own time is measured: where looking at tensors would cost more than it may, fewer calls are looked at.
    """

    def __init__(
        self,
        reference: Mapping[str, Any],
        slot: int = 0,
        clock: Callable[[], float] = time.perf_counter,
        *,
        share: float | None = None,
    ) -> None:
        self._reference, self._slot, self._clock = reference, slot, clock
        self._share = SHARE if share is None else min(share, SHARE)
        self._lock = threading.Lock()
        self._window = _Window(clock())
        self._look_s, self._left_s = 0.0, 0.0

    def called(self, run_s: float, inputs: Mapping[str, Array], outputs: Mapping[str, Array], **other_s: float) -> None:
        """Count a call that took `run_s` seconds; `other_s` may be pre=, post= and queue= seconds around it."""
        with self._lock:
            begun, window = self._clock(), self._window
            window.calls += 1
            window.pending.append((run_s, other_s))
            if len(window.pending) >= COUNTED_AT_ONCE:
                window.count()
            self._left_s += SAFETY * max(self._share * run_s, LEAST_COST_S)
            if self._left_s >= self._look_s:
                look = self._clock()
                self._look(window, inputs, outputs)
                took = self._clock() - look
                self._look_s += (took - self._look_s) * (0.2 if self._look_s else 1.0)
            most = MOST_LOOKS * self._look_s
            self._left_s = min(max(self._left_s - (self._clock() - begun), -most), most)

    def failed(self, code: str) -> None:
        """Count a call that ended in an error, by its stable code."""
        with self._lock:
            self._window.errors[code] += 1

    def window(self) -> Told:
        """Return what was counted since the last time, and begin anew."""
        with self._lock:
            now = self._clock()
            window, self._window = self._window, _Window(now)
        window.count()
        sketches: dict[str, Sketch] = {name: counts.sketch() for name, counts in window.times.items()}
        sketches |= {name: bins.sketch() for name, bins in window.bins.items()}
        sketches |= {name: Categories(dict(counts)) for name, counts in window.classes.items()}
        elapsed_ms = int((now - window.begun_s) * 1000)
        body = Sketches(self._slot, elapsed_ms, sketches)
        return Told(body, window.calls, window.looked_at, dict(window.errors))

    def _look(self, window: _Window, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        window.looked_at += 1
        for side, tensors in (("inputs", inputs), ("outputs", outputs)):
            known = self._reference.get(side, {})
            for name, values in tensors.items():
                entry = known.get(name, {})
                if "edges" in entry and values.dtype.kind in "biuf" and values.size:
                    self._bins(window, f"{side[:-1]}/{name}", entry["edges"]).add(_spread(values))
        for name in self._reference.get("classes", {}):
            if name in outputs and outputs[name].size:
                self._classify(window, name, outputs[name])

    def _classify(self, window: _Window, name: str, values: Array) -> None:
        """Count classes, confidence and entropy of rows of probabilities."""
        rows = values.reshape(-1, values.shape[-1])[:MOST_VALUES]
        winners, confidence = rows.argmax(axis=1), rows.max(axis=1)
        counts = window.classes.setdefault(f"class/{name}", Counter())
        for winner, number in zip(*np.unique(winners, return_counts=True), strict=True):
            key = str(winner)
            counts[key if key in counts or len(counts) < MOST_CATEGORIES else ""] += int(number)
        edges = self._reference["classes"][name]["confidence"]["edges"]
        self._bins(window, f"confidence/{name}", edges).add(confidence)
        entropy = -(rows * np.log(np.maximum(rows, 1e-12))).sum(axis=1) / math.log(rows.shape[1])
        self._bins(window, f"entropy/{name}", np.linspace(0, 1, ENTROPY_BINS + 1).tolist()).add(entropy)

    @staticmethod
    def _bins(window: _Window, name: str, edges: Sequence[float]) -> _Bins:
        found = window.bins.get(name)
        if found is None:
            found = window.bins[name] = _Bins(edges)
        return found


def _spread(values: Array) -> Array:
    """Return at most MOST_VALUES values, evenly from the whole tensor, as a vector."""
    flat = values.reshape(-1)
    return flat[:: max(1, -(-flat.size // MOST_VALUES))]
