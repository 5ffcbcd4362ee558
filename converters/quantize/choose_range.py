"""Narrower ranges than the full one, chosen from a histogram: by percentile, by KL divergence, by squared error.

Every method looks at both ends apart, for the two tails of a tensor are rarely alike. Pure numpy; counting
is left to `observers`, choosing between methods to whoever measures them.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from converters.quantize.observers import Histogram, TensorRange

METHODS = ("minmax", "percentile", "kl", "mse")

_SHRINK = np.concatenate([np.linspace(1.0, 0.5, 51), np.geomspace(0.49, 0.02, 40)])
_KL_STEPS = 128
_KL_ROUNDS = 2

Floats = NDArray[np.float64]
Places = NDArray[np.intp]


def choose_range(
    histogram: Histogram, full: TensorRange, method: str, levels: int = 256, percentile: float = 99.999
) -> TensorRange:
    """Return the range that `method` (a word of METHODS) chooses for an encoding with `levels` steps.

    `full` is the whole range of the tensor; what is chosen lies within it.
    """
    if method == "minmax" or full.maximum <= full.minimum or not histogram.counts.any():
        return full
    counts, edges = histogram.used()
    choose: Mapping[str, Callable[[], tuple[float, float]]] = {
        "percentile": lambda: _percentile(counts, edges, percentile),
        "kl": lambda: _least_divergence(counts, edges, levels),
        "mse": lambda: _least_squares(counts, edges, full, levels),
    }
    minimum, maximum = choose[method]()
    return TensorRange(max(float(minimum), full.minimum), min(float(maximum), full.maximum), full.absmax, full.count)


def _percentile(counts: NDArray[np.int64], edges: Floats, percentile: float) -> tuple[float, float]:
    """Cut the same share off both tails, each at the outer edge of its bin."""
    tail = (1.0 - percentile / 100.0) / 2.0 * counts.sum()
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])
    first = int(np.searchsorted(below, tail, side="right"))
    last = len(counts) - int(np.searchsorted(above, tail, side="right"))
    return edges[first], edges[max(last, first + 1)]


def _least_divergence(counts: NDArray[np.int64], edges: Floats, levels: int) -> tuple[float, float]:
    """Minimise the KL divergence from the tensor's distribution to the one that `levels` steps can tell apart.

    Values cut off count in the outermost bins. The ends move in turn: all upper ends with the best lower one, then all
    lower ends with the best upper one. An end that is zero, or has zero beyond it, stays. The bin of zero counts no
    more than its neighbours: zero is encoded exactly, and the many zeros after a ReLU would outweigh everything.
    """
    bins = len(counts)
    if bins <= levels:
        return edges[0], edges[-1]
    zero = int(np.clip(np.searchsorted(edges, 0.0, side="right") - 1, 0, bins))
    counts = counts.copy()
    counts[zero : zero + 1] = np.minimum(
        counts[zero : zero + 1], counts[[max(zero - 1, 0), min(zero + 1, bins - 1)]].max()
    )
    first, last = 0, bins
    for _ in range(_KL_ROUNDS):
        lasts = np.unique(np.linspace(max(zero, first + levels), bins, _KL_STEPS).astype(np.intp))
        last = int(lasts[np.argmin(divergences(counts, np.full_like(lasts, first), lasts, levels))])
        firsts = np.unique(np.linspace(0, max(min(zero, last - levels), 0), _KL_STEPS).astype(np.intp))
        first = int(firsts[np.argmin(divergences(counts, firsts, np.full_like(firsts, last), levels))])
    return edges[first], edges[last]


def divergences(counts: NDArray[np.int64], firsts: Places, lasts: Places, levels: int) -> Floats:
    """Return KL(p || q) in nats for every range of bins `firsts[i]` up to and without `lasts[i]`.

    p is the histogram with what lies outside added to the two outermost bins. q has `levels` groups of bins; each
    spreads its own share, without what lies outside, over its bins that hold anything. Everything comes from running
    sums.
    """
    values = counts.astype(np.float64)
    mass, filled, entropy = (_running(part) for part in (values, values > 0, values * _log(values)))
    groups = firsts[:, None] + (lasts - firsts)[:, None] * np.arange(levels + 1) // levels
    in_group, bins_in_group = np.diff(mass[groups]), np.diff(filled[groups])
    inside, total = mass[lasts] - mass[firsts], mass[-1]
    spread = in_group * (_log(in_group) - _log(bins_in_group))
    found = entropy[lasts] - entropy[firsts] - spread.sum(axis=1)
    ends = ((firsts, mass[firsts], 0), (lasts - 1, total - mass[lasts], -1))
    for bin_, outside, group in ends:
        own, per_bin = values[bin_], in_group[:, group] / np.maximum(bins_in_group[:, group], 1.0)
        guessed = np.where(own > 0, per_bin, _EMPTY)
        found += (own + outside) * _log(own + outside) - own * _log(own) - outside * np.log(np.maximum(guessed, _EMPTY))
    return np.asarray(found / total + np.log(np.maximum(inside, _EMPTY) / total))


_EMPTY = 1e-4
"""Values that an empty bin is taken to hold, for the divergence to stay finite."""


def _log(values: Floats) -> Floats:
    """Return the logarithm, and 0 for 0."""
    return np.asarray(np.log(np.where(values > 0, values, 1.0)))


def _running(values: NDArray[np.generic]) -> Floats:
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _candidates(full: TensorRange) -> tuple[Floats, Floats]:
    """Return candidate ranges as two equally long vectors: every shrunk minimum with every shrunk maximum."""
    low, high = min(full.minimum, 0.0), max(full.maximum, 0.0)
    lows, highs = (_SHRINK * low if low < 0 else np.zeros(1)), (_SHRINK * high if high > 0 else np.zeros(1))
    grid = np.meshgrid(lows, highs, indexing="ij")
    return grid[0].ravel(), grid[1].ravel()


def _least_squares(counts: NDArray[np.int64], edges: Floats, full: TensorRange, levels: int) -> tuple[float, float]:
    """Minimise the squared error: step^2 / 12 for each value kept plus the squared distance of each value cut off."""
    centres = (edges[:-1] + edges[1:]) / 2.0
    moments = [_running(counts * centres**power) for power in range(3)]
    lows, highs = _candidates(full)

    def cut(places: Places, bound: Floats, above: bool) -> Floats:
        zero, one, two = ((m[-1] - m[places]) if above else m[places] for m in moments)
        return np.asarray(two - 2.0 * bound * one + bound**2 * zero)

    first, last = np.searchsorted(centres, lows), np.searchsorted(centres, highs, side="right")
    kept = moments[0][last] - moments[0][first]
    error = cut(first, lows, False) + cut(last, highs, True) + kept * ((highs - lows) / (levels - 1)) ** 2 / 12.0
    error[highs - lows <= 0.0] = np.inf
    best = int(np.argmin(error))
    return lows[best], highs[best]
