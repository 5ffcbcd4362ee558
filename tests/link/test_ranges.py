"""Ranges hold exactly the numbers that they should."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from edgert.link.ranges import as_ranges, joined, size_of, without

NUMBERS = st.sets(st.integers(1, 60))
RANGES = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 9)).map(lambda pair: (pair[0], pair[0] + pair[1])))


def numbers_in(ranges) -> set[int]:
    return {number for first, last in ranges for number in range(first, last + 1)}


@given(NUMBERS)
def test_as_ranges_holds_the_numbers_in_the_fewest_ranges(numbers):
    """No two ranges touch, and nothing is added or left out."""
    ranges = as_ranges(numbers)
    assert numbers_in(ranges) == numbers
    assert all(left[1] + 1 < right[0] for left, right in pairwise(ranges))
    assert size_of(ranges) == len(numbers)


@given(RANGES)
def test_joined_holds_the_same_numbers_without_overlap(ranges):
    """Overlapping, touching, in any order."""
    assert numbers_in(joined(ranges)) == numbers_in(ranges)
    assert joined(ranges) == as_ranges(numbers_in(ranges))


@given(RANGES, RANGES)
def test_without_takes_exactly_the_others_away(ranges, taken):
    """Holes in the middle, at the ends, and across several ranges."""
    assert without(ranges, taken) == as_ranges(numbers_in(ranges) - numbers_in(taken))


def test_without_of_an_endless_range_costs_nothing():
    """A watermark may name any numbers: nothing is counted out one by one."""
    assert without([(1, 1 << 62)], [(5, 1 << 61)]) == [(1, 4), ((1 << 61) + 1, 1 << 62)]
