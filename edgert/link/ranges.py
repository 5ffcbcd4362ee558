"""Ranges of numbers: [first, last] pairs, both ends included."""

from collections.abc import Iterable, Sequence

Range = tuple[int, int]


def as_ranges(numbers: Iterable[int]) -> list[Range]:
    """Return ascending ranges that hold exactly these numbers."""
    found = list[Range]()
    for number in sorted(set(numbers)):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def joined(ranges: Iterable[Range]) -> list[Range]:
    """Return ascending ranges that neither overlap nor touch, and hold the same numbers."""
    found = list[Range]()
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


def without(ranges: Sequence[Range], taken: Sequence[Range]) -> list[Range]:
    """Return what of `ranges` is not in `taken`."""
    found = list[Range]()
    for first, last in joined(ranges):
        begin = first
        for low, high in joined(taken):
            if high < begin or low > last:
                continue
            if low > begin:
                found.append((begin, low - 1))
            begin = high + 1
        if begin <= last:
            found.append((begin, last))
    return found


def size_of(ranges: Iterable[Range]) -> int:
    """Return how many numbers ascending, separate ranges hold."""
    return sum(last - first + 1 for first, last in ranges)
