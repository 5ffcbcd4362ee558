"""Quantiles of counts in logarithmic buckets, for those who want numbers and not counts."""

from itertools import accumulate

from edgert.record import LogSketch


def count_of(sketch: LogSketch) -> int:
    """Return how many values were counted."""
    return sketch.zeros + sum(sketch.counts)


def quantile(sketch: LogSketch, share: float) -> float | None:
    """Return a value at most `per_mille` / 1000 beside the one that `share` of all are at or below; None of none."""
    left = share * (count_of(sketch) - 1) - sketch.zeros
    if count_of(sketch) == 0 or left < 0:
        return 0.0 if sketch.zeros else None
    error = sketch.per_mille / 1000
    growth = (1 + error) / (1 - error)
    reached = accumulate(sketch.counts)
    bucket = next((k for k, upto in enumerate(reached, sketch.offset) if upto > left), sketch.offset)
    try:
        return float(2 * growth**bucket / (growth + 1))
    except OverflowError:
        return None
