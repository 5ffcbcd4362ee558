"""Histograms and the ranges chosen from them."""

import numpy as np
import pytest

from converters.quantize.affine import activation_affine, dequantize, quantize
from converters.quantize.observers import Histogram, TensorRange, choose_range
from tests.converters.quantize.nets import Array, normal


def _histogram(values: Array) -> Histogram:
    minimum, maximum = float(values.min()), float(values.max())
    full = TensorRange(minimum, maximum, max(-minimum, maximum), values.size)
    histogram = Histogram.between(full)
    histogram.add(values)
    return histogram


def _outliers() -> Array:
    values = normal(200_000, seed=3)
    values[:3] = 60.0, 80.0, -70.0
    return values


def _error(values: Array, chosen: TensorRange) -> float:
    affine = activation_affine(chosen, "uint8")
    return float(np.mean((dequantize(quantize(values, affine), affine) - values) ** 2))


def test_histogram_in_parts_equals_all_at_once():
    """Counting batch by batch gives the very counts of counting everything (onnxruntime issue 18893)."""
    values = normal(10_000)
    whole = _histogram(values)
    parts = Histogram.between(whole.full)
    for part in np.split(values, 10):
        parts.add(part.reshape(10, -1))
    assert np.array_equal(parts.counts, whole.counts)
    assert whole.counts.sum() == values.size


@pytest.mark.parametrize("method", ["percentile", "mse"])
def test_choose_range_with_outliers_errs_less_than_minmax(method):
    """Each method cuts a few far values off both tails, and the typical value comes back more exactly for it."""
    values = _outliers()
    chosen = choose_range(_histogram(values), method)
    typical = values[3:]
    assert -70.0 < chosen.minimum < 0 < chosen.maximum < 80.0
    assert _error(typical, chosen) < _error(typical, _histogram(values).full)
    assert chosen.absmax == 80.0


def test_choose_range_mse_is_the_least_error_of_the_methods():
    """The squared error over all values, outliers included, is smallest with the range that minimises it."""
    values = _outliers()
    histogram = _histogram(values)
    best = _error(values, choose_range(histogram, "mse"))
    assert all(best <= 1.02 * _error(values, choose_range(histogram, m)) for m in ("minmax", "percentile"))


def test_choose_range_percentile_of_one_sided_data_cuts_one_side():
    """Data after a ReLU keeps its lower end at 0: the tails are cut apart, not as one absolute value."""
    chosen = choose_range(_histogram(np.maximum(_outliers(), 0)), "percentile")
    assert chosen.minimum == 0.0
    assert chosen.maximum < 61.0


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_choose_range_of_a_constant_tensor_is_that_constant(method):
    """A tensor that always holds one value has a range of no width, and no method stumbles over it."""
    chosen = choose_range(_histogram(np.full(9, 2.5, np.float32)), method)
    assert (chosen.minimum, chosen.maximum) == (2.5, 2.5)
