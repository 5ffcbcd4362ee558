"""Histograms that grow with what they count."""

import numpy as np
import pytest

from converters.quantize.observers import BINS, ChannelSums, Histogram
from tests.converters.quantize.nets import Array, normal


def histogram_of(*parts: Array) -> Histogram:
    """Return the histogram of arrays that come one after the other."""
    histogram = Histogram()
    for part in parts:
        histogram.add(part, float(part.min()), float(part.max()))
    return histogram


def _grown(values: Array) -> list[Array]:
    """Return ten parts whose range grows from part to part by orders of magnitude."""
    return [
        part * np.float32(scale) for part, scale in zip(np.split(values, 10), np.geomspace(1e-3, 50, 10), strict=True)
    ]


@pytest.mark.parametrize("offset", [0.0, -7.0, 1e4])
def test_histogram_that_grew_equals_numpys_over_all_values(offset):
    """Pairs of bins that became one hold exactly what counting everything between the final edges gives."""
    parts = [part + np.float32(offset) for part in _grown(normal(10_000))]
    histogram = histogram_of(*parts)
    expected, _ = np.histogram(np.concatenate(parts).astype(np.float64), histogram.edges)
    assert np.array_equal(histogram.counts, expected)
    assert histogram.counts.sum() == 10_000


def test_histogram_in_parts_in_any_order_equals_all_at_once():
    """Counting batch by batch gives the very bins and counts of counting everything (onnxruntime issue 18893)."""
    parts = _grown(normal(10_000))
    whole, forward, backward = (histogram_of(np.concatenate(parts)), histogram_of(*parts), histogram_of(*parts[::-1]))
    for other in (forward, backward):
        assert np.array_equal(other.counts, whole.counts)
        assert (other.exponent, other.first) == (whole.exponent, whole.first)


def test_histogram_covers_its_range_with_at_least_half_of_its_bins():
    """Doubling the width never leaves fewer than 2048 bins for the range."""
    for seed in range(40):
        values = normal(50, seed=seed) * np.float32(1.37**seed)
        counts, edges = histogram_of(values).used()
        assert BINS / 2 <= len(counts) <= BINS
        assert edges[0] <= values.min() < edges[1]
        assert edges[-2] <= values.max() < edges[-1]


def test_histogram_of_a_narrow_range_far_from_zero_stays_exact():
    """Bins are never narrower than float32 can tell apart; subnormal numbers and huge ones have their place too."""
    near = np.float32(1000) + np.arange(8, dtype=np.float32) * np.float32(2.0**-13)
    assert sorted(histogram_of(near).counts[histogram_of(near).counts > 0]) == [1] * 8
    for values in (np.array([0, 1e-42], np.float32), np.array([-3.4e38, 3.4e38], np.float32)):
        assert histogram_of(values).counts.sum() == 2


def test_histogram_covers_bounds_that_its_sample_does_not_reach():
    """The range comes from all values, the counts from a sample."""
    histogram = Histogram()
    histogram.add(np.array([0.5], np.float32), -4.0, 4.0)
    _, edges = histogram.used()
    assert edges[0] <= -4.0 < 4.0 < edges[-1]
    assert histogram.counts.sum() == 1


def test_share_outside_counts_both_tails_and_parts_of_bins():
    """The share is that of the values, to the resolution of a bin, and 0 for what covers everything."""
    values = np.arange(1000, dtype=np.float32)
    histogram = histogram_of(values)
    assert histogram.share_outside(99.5, 899.5) == pytest.approx(0.2, abs=0.002)
    assert histogram.share_outside(0.0, 899.5) == pytest.approx(0.1, abs=0.002)
    assert histogram.share_outside(-1.0, 999.0) == 0.0
    assert histogram.share_outside(2000.0, 3000.0) == 1.0
    assert Histogram().share_outside(0.0, 0.0) == 0.0


def test_channel_sums_weigh_every_value_alike():
    """The mean over samples of unequal size is the mean over all their values."""
    sums = ChannelSums(axis=1)
    for array in (normal(1, 3, 5), normal(1, 3, 50, seed=1) + 2):
        sums.add(array.min((0, 2)), array.max((0, 2)), array.sum((0, 2)), array[0, 0].size)
    together = np.concatenate([normal(1, 3, 5), normal(1, 3, 50, seed=1) + 2], axis=2)
    found = sums.statistics()
    assert np.allclose(found.mean, together.mean((0, 2)), atol=1e-6)
    assert np.array_equal(found.minimum, together.min((0, 2)))
    assert np.array_equal(found.maximum, together.max((0, 2)))
