"""Ranges chosen from histograms."""

import math

import numpy as np
import pytest

from converters.quantize.affine import activation_affine, dequantize, quantize
from converters.quantize.choose_range import METHODS, choose_range, divergences
from converters.quantize.observers import TensorRange
from tests.converters.quantize.nets import Array, normal
from tests.converters.quantize.test_observers import histogram_of

NARROW = ("percentile", "kl", "mse")


def _full(values: Array) -> TensorRange:
    minimum, maximum = float(values.min()), float(values.max())
    return TensorRange(minimum, maximum, max(-minimum, maximum), values.size)


def _chosen(values: Array, method: str, levels: int = 256) -> TensorRange:
    return choose_range(histogram_of(values), _full(values), method, levels)


def _outliers() -> Array:
    values = normal(200_000, seed=3)
    values[:3] = 60.0, 80.0, -70.0
    return values


def _error(values: Array, chosen: TensorRange) -> float:
    affine = activation_affine(chosen, "uint8")
    return float(np.mean((dequantize(quantize(values, affine), affine) - values) ** 2))


@pytest.mark.parametrize("method", NARROW)
def test_choose_range_with_outliers_errs_less_than_minmax(method):
    """Each method cuts a few far values off both tails, and the typical value comes back more exactly for it."""
    values = _outliers()
    chosen, typical = _chosen(values, method), values[3:]
    assert -70.0 < chosen.minimum < 0 < chosen.maximum < 80.0
    assert _error(typical, chosen) < _error(typical, _full(values))
    assert chosen.absmax == 80.0


def test_choose_range_mse_is_the_least_error_of_the_methods():
    """The squared error over all values, outliers included, is smallest with the range that minimises it."""
    values = _outliers()
    best = _error(values, _chosen(values, "mse"))
    assert all(best <= 1.02 * _error(values, _chosen(values, method)) for method in METHODS)


@pytest.mark.parametrize("method", NARROW)
def test_choose_range_of_one_sided_data_cuts_one_side(method):
    """Data after a ReLU keeps its lower end at 0, and data below 0 its upper end: the tails are cut apart."""
    values = np.maximum(_outliers(), 0)
    above, below = _chosen(values, method), _chosen(-values, method)
    assert above.minimum == 0.0
    assert above.maximum < 75.0
    assert below.maximum == 0.0
    assert below.minimum > -75.0


def test_choose_range_percentile_cuts_each_tail_by_its_own_share():
    """Of skewed data the long tail is cut where its own share lies, whatever the other tail is."""
    values = np.random.default_rng(0).exponential(1.0, 400_000).astype(np.float32) - 1
    chosen = choose_range(histogram_of(values), _full(values), "percentile", percentile=99.0)
    expected = np.quantile(values, [0.005, 0.995])
    assert [chosen.minimum, chosen.maximum] == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_choose_range_of_a_constant_tensor_is_that_constant(method):
    """A tensor that always holds one value has a range of no width, and no method stumbles over it."""
    chosen = _chosen(np.full(9, 2.5, np.float32), method)
    assert (chosen.minimum, chosen.maximum) == (2.5, 2.5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [2, 5, 300])
def test_choose_range_of_few_values_stays_within_them(method, count):
    """However few values there are, the range has a width and lies within what was seen."""
    values = normal(count, seed=count)
    chosen = _chosen(values, method)
    assert values.min() <= chosen.minimum < chosen.maximum <= values.max()


def test_choose_range_kl_with_more_levels_than_bins_keeps_everything():
    """16 bits tell every bin from its neighbour: there is nothing to win by cutting."""
    values = _outliers()
    chosen = _chosen(values, "kl", levels=65536)
    assert (chosen.minimum, chosen.maximum) == (-70.0, 80.0)


def _slow_divergence(counts: Array, first: int, last: int, levels: int) -> float:
    """Return KL(p || q) bin by bin, in plain loops."""
    p = [float(count) for count in counts[first:last]]
    p[0] += float(counts[:first].sum())
    p[-1] += float(counts[last:].sum())
    q = [0.0] * len(p)
    for group in range(levels):
        start, stop = group * len(p) // levels, (group + 1) * len(p) // levels
        filled = [place for place in range(start, stop) if counts[first + place] > 0]
        for place in filled:
            q[place] = sum(float(counts[first + place]) for place in filled) / len(filled)
    q = [1e-4 if p[place] > 0 and q[place] == 0 else q[place] for place in range(len(p))]
    inside = float(counts[first:last].sum())
    return sum(p[i] / sum(p) * math.log((p[i] / sum(p)) / (q[i] / inside)) for i in range(len(p)) if p[i] > 0)


@pytest.mark.parametrize("levels", [16, 255])
def test_divergences_equal_those_of_plain_loops(levels):
    """Running sums give the divergence of every pair of thresholds, those that cut into empty bins included."""
    random = np.random.default_rng(levels)
    counts = random.poisson(np.where(random.random(600) < 0.3, 0.0, 40 * np.exp(-(np.linspace(-2, 3, 600) ** 2))))
    counts[::37] = 0
    firsts = np.repeat(np.arange(0, 200, 37), 3)
    lasts = np.tile([601 - 37 * 3, 512, 600], len(firsts) // 3)
    expected = [_slow_divergence(counts, first, last, levels) for first, last in zip(firsts, lasts, strict=True)]
    assert divergences(counts, firsts, lasts, levels) == pytest.approx(expected, abs=1e-9)
