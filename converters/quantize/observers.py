"""What calibration remembers of a tensor: its extremes, and counts between fixed edges. Pure numpy.

From a histogram a narrower range is chosen by percentile or by mean squared error. Values
are counted and forgotten; running the model is left to `calibrate`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 2048
METHODS = ("minmax", "percentile", "mse")


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


@dataclass
class Histogram:
    """Counts of one tensor's values in equal bins between fixed edges, so that partial counts add up exactly."""

    full: TensorRange
    counts: NDArray[np.int64]

    @classmethod
    def between(cls, full: TensorRange, bins: int = BINS) -> "Histogram":
        """Return an empty histogram whose edges are the extremes of `full`."""
        return cls(full, np.zeros(bins, np.int64))

    def add(self, values: NDArray[np.floating]) -> None:
        """Count an array of any shape; a value outside the edges counts in the outermost bin."""
        bins, span = len(self.counts), self.full.maximum - self.full.minimum
        if span <= 0.0:
            self.counts[0] += values.size
            return
        places = np.subtract(values.reshape(-1), self.full.minimum, dtype=np.float32)
        places *= np.float32(bins / span)
        np.clip(places, 0, bins - 1, out=places)
        self.counts += np.bincount(places.astype(np.int32), minlength=bins)

    @property
    def edges(self) -> NDArray[np.float64]:
        """Return the len(counts) + 1 edges."""
        return np.linspace(self.full.minimum, self.full.maximum, len(self.counts) + 1)


def choose_range(histogram: Histogram, method: str, levels: int = 256, percentile: float = 99.999) -> TensorRange:
    """Return the range that `method` (a word of METHODS) chooses for an encoding with `levels` steps."""
    full = histogram.full
    if method == "minmax" or full.maximum <= full.minimum or not histogram.counts.any():
        return full
    choose: Mapping[str, Callable[[], tuple[float, float]]] = {
        "percentile": lambda: _percentile(histogram, percentile),
        "mse": lambda: _least_squares(histogram, levels),
    }
    minimum, maximum = choose[method]()
    return TensorRange(float(minimum), float(maximum), full.absmax, full.count)


def _percentile(histogram: Histogram, percentile: float) -> tuple[float, float]:
    """Cut the same share off both tails, each at the outer edge of its bin."""
    tail = (1.0 - percentile / 100.0) / 2.0 * histogram.counts.sum()
    below, above = np.cumsum(histogram.counts), np.cumsum(histogram.counts[::-1])
    first = int(np.searchsorted(below, tail, side="right"))
    last = len(histogram.counts) - int(np.searchsorted(above, tail, side="right"))
    return histogram.edges[first], histogram.edges[max(last, first + 1)]


_SHRINK = np.concatenate([np.linspace(1.0, 0.5, 51), np.geomspace(0.49, 0.02, 40)])


def _candidates(histogram: Histogram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return candidate ranges as two equally long vectors: every shrunk minimum with every shrunk maximum."""
    low, high = min(histogram.full.minimum, 0.0), max(histogram.full.maximum, 0.0)
    lows, highs = (_SHRINK * low if low < 0 else np.zeros(1)), (_SHRINK * high if high > 0 else np.zeros(1))
    grid = np.meshgrid(lows, highs, indexing="ij")
    return grid[0].ravel(), grid[1].ravel()


def _least_squares(histogram: Histogram, levels: int) -> tuple[float, float]:
    """Minimise the squared error: step^2 / 12 for each value kept plus the squared distance of each value cut off."""
    edges = histogram.edges
    centres = (edges[:-1] + edges[1:]) / 2.0
    counts = histogram.counts.astype(np.float64)
    moments = [np.concatenate([[0.0], np.cumsum(counts * centres**power)]) for power in range(3)]
    lows, highs = _candidates(histogram)

    def cut(places: NDArray[np.intp], bound: NDArray[np.float64], above: bool) -> NDArray[np.float64]:
        zero, one, two = ((m[-1] - m[places]) if above else m[places] for m in moments)
        return np.asarray(two - 2.0 * bound * one + bound**2 * zero)

    first, last = np.searchsorted(centres, lows), np.searchsorted(centres, highs, side="right")
    kept = moments[0][last] - moments[0][first]
    error = cut(first, lows, False) + cut(last, highs, True) + kept * ((highs - lows) / (levels - 1)) ** 2 / 12.0
    error[highs - lows <= 0.0] = np.inf
    best = int(np.argmin(error))
    return lows[best], highs[best]
