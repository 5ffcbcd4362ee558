"""Log buckets merged over windows into a histogram with few, fixed bounds, as Prometheus and OpenTelemetry want it."""

import math
from bisect import bisect_left
from dataclasses import dataclass, field

from edgert.record import LogSketch

BOUNDS_S = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""The upper bounds of the buckets, in seconds; one more has what is above."""

_MOST_EXPONENT = 700
"""e to this power is still a float."""


@dataclass
class Durations:
    """Counts per bucket, not cumulative, and the estimated sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    total_s: float = 0.0

    def add(self, sketch: LogSketch) -> None:
        """Add a window: a log bucket counts with its midpoint, the value that is `per_mille` / 1000 from both ends."""
        share = sketch.per_mille / 1000
        growth = math.log((1 + share) / (1 - share))
        self.counts[0] += sketch.zeros
        for bucket, count in enumerate(sketch.counts, sketch.offset):
            if count:
                exponent = max(-_MOST_EXPONENT, min(_MOST_EXPONENT, bucket * growth))
                middle = math.exp(exponent) * (1 - share)
                self.counts[bisect_left(BOUNDS_S, middle)] += count
                self.total_s += count * middle

    def copy(self) -> "Durations":
        """Return the same, apart from what will be added."""
        return Durations(list(self.counts), self.total_s)
