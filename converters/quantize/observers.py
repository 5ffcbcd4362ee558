"""What calibration remembers of a tensor: its extremes, those of its channels, and a histogram that grows with it.

Values are counted and forgotten; running the model is left to `calibrate`, narrower ranges to `choose_range`.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BINS = 4096
"""Bins of a histogram; as they double in width, between half of them and all of them cover the range."""

_LEAST_EXPONENT = -100
"""Narrower bins than 2**-100 would not be exact in float32."""

_MANTISSA_BITS = 24


@dataclass(frozen=True)
class TensorRange:
    """The range chosen for one tensor, the largest magnitude really seen, and how many values were seen."""

    minimum: float
    maximum: float
    absmax: float
    count: int


@dataclass
class Extremes:
    """Running minimum and maximum of one tensor."""

    minimum: float = np.inf
    maximum: float = -np.inf
    count: int = 0

    def add(self, minimum: float, maximum: float, count: int) -> None:
        """Take in the extremes of `count` further values."""
        if count:
            self.minimum, self.maximum = min(self.minimum, minimum), max(self.maximum, maximum)
            self.count += count

    def range(self) -> TensorRange:
        """Return the full range; a tensor that never held a value has the range 0..0."""
        if not self.count:
            return TensorRange(0.0, 0.0, 0.0, 0)
        return TensorRange(self.minimum, self.maximum, max(abs(self.minimum), abs(self.maximum)), self.count)


@dataclass(frozen=True)
class ChannelStatistics:
    """Extremes and mean of every channel of one tensor: float32 vectors over its axis `axis`."""

    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]
    mean: NDArray[np.float32]
    axis: int


@dataclass
class ChannelSums:
    """Running extremes and sums of every channel of one tensor; `count` is the number of values of one channel."""

    axis: int
    minimum: NDArray[np.float64] = field(default_factory=lambda: np.array(np.inf))
    maximum: NDArray[np.float64] = field(default_factory=lambda: np.array(-np.inf))
    total: NDArray[np.float64] = field(default_factory=lambda: np.array(0.0))
    count: int = 0

    def add(
        self,
        minimum: NDArray[np.floating],
        maximum: NDArray[np.floating],
        total: NDArray[np.floating],
        count: int,
    ) -> None:
        """Take in the extremes and sums, vectors [C], of `count` further values of each channel."""
        self.minimum, self.maximum = np.minimum(self.minimum, minimum), np.maximum(self.maximum, maximum)
        self.total = self.total + total.astype(np.float64)
        self.count += count

    def known(self) -> bool:
        """Return whether there is a value in each channel, and no sum was too large for its number format."""
        return bool(self.count and self.total.size and np.isfinite(self.total).all())

    def statistics(self) -> ChannelStatistics:
        """Return what was seen; it must be `known`."""
        vectors = (self.minimum, self.maximum, self.total / self.count)
        minimum, maximum, mean = (np.asarray(vector, np.float32) for vector in vectors)
        return ChannelStatistics(minimum, maximum, mean, self.axis)


@dataclass
class Histogram:
    """Counts of one tensor's values in BINS bins that are 2**`exponent` wide.

    Bin i holds x with (first + i) * width <= x < (first + i + 1) * width. Bins lie on multiples of their width, and a
    range that outgrows them makes pairs of bins one: what was counted keeps its place exactly, so that the result
    depends on the values alone, never on their order or on how they came in parts.
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    exponent: int = _LEAST_EXPONENT
    first: int = 0
    extremes: Extremes = field(default_factory=Extremes)

    def add(self, values: NDArray[np.floating], minimum: float, maximum: float) -> None:
        """Count values, of any shape, that all lie between two finite bounds; the bins grow to hold the bounds."""
        self._cover(minimum, maximum)
        scaled = np.floor(values.reshape(-1).astype(np.float32, copy=False) * np.float32(2.0**-self.exponent))
        places = (scaled - np.float32(self.first)).astype(np.int32)
        self.counts += np.bincount(places, minlength=BINS)

    def _cover(self, minimum: float, maximum: float) -> None:
        seen = self.extremes
        if minimum >= seen.minimum and maximum <= seen.maximum:
            return
        seen.add(minimum, maximum, 1)
        exponent = _exponent(seen.minimum, seen.maximum)
        first = math.floor(math.ldexp(seen.minimum, -exponent))
        if self.counts.any():
            filled = np.flatnonzero(self.counts)
            places = ((self.first + filled) >> (exponent - self.exponent)) - first
            counts = np.zeros_like(self.counts)
            np.add.at(counts, places, self.counts[filled])
            self.counts = counts
        self.exponent, self.first = exponent, first

    @property
    def edges(self) -> NDArray[np.float64]:
        """Return the BINS + 1 edges."""
        return np.ldexp((self.first + np.arange(BINS + 1)).astype(np.float64), self.exponent)

    def used(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the counts and the edges of the bins from the smallest to the largest value seen."""
        if not self.extremes.count:
            return self.counts[:0], self.edges[:1]
        last = math.floor(math.ldexp(self.extremes.maximum, -self.exponent)) - self.first
        return self.counts[: last + 1], self.edges[: last + 2]

    def share_outside(self, minimum: float, maximum: float) -> float:
        """Return the share of the values below `minimum` or above `maximum`; within a bin they count as evenly spread.

        0.0 where no value at all was counted.
        """
        counts, edges = self.used()
        total = counts.sum()
        if not total or (minimum <= self.extremes.minimum and maximum >= self.extremes.maximum):
            return 0.0
        below = np.concatenate([[0.0], np.cumsum(counts)])
        inside = np.interp(maximum, edges, below) - np.interp(minimum, edges, below)
        return float(1.0 - inside / total)


def _exponent(minimum: float, maximum: float) -> int:
    """Return the exponent of the narrowest bins that hold both bounds and have exact places in float32."""
    absmax = max(abs(minimum), abs(maximum))
    exponent = max(_LEAST_EXPONENT, math.frexp(absmax)[1] - _MANTISSA_BITS)
    width = (maximum - minimum) / BINS
    if width > 0.0:
        exponent = max(exponent, math.frexp(width)[1] - 1)
    while math.floor(math.ldexp(maximum, -exponent)) - math.floor(math.ldexp(minimum, -exponent)) >= BINS:
        exponent += 1
    return exponent
