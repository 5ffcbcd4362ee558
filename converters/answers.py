"""What the original model gives for each sample: the yardstick that every candidate is held against.

Answers are kept, with their samples, up to a limit of bytes, so that the original runs once and not once per candidate;
beyond the limit it runs again.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from converters.samples import Samples

Arrays = Mapping[str, NDArray[np.generic]]
Pair = tuple[Arrays, Arrays]
"""One sample: inputs by name, and what the original gives for them by name. Both are read-only."""


class Answers:
    """Samples with the outputs of `run`; at most `most_bytes` of them are kept in memory."""

    def __init__(self, run: Callable[[Arrays], Arrays], samples: Samples, most_bytes: int) -> None:
        self._run, self._samples = run, samples
        self._room = most_bytes
        self._kept: list[Pair] = []

    def pairs(self, limit: int | None = None) -> Iterator[Pair]:
        """Yield each sample, at most `limit` of them, with what the original gives for it, in the samples' order."""
        count = self._samples.count if limit is None else min(limit, self._samples.count)
        if count <= len(self._kept):
            yield from self._kept[:count]
            return
        for index, feeds in enumerate(islice(iter(self._samples), count)):
            yield self._kept[index] if index < len(self._kept) else self._answered(index, feeds)

    def _answered(self, index: int, feeds: Arrays) -> Pair:
        pair = (dict(feeds), dict(self._run(feeds)))
        arrays = [array for side in pair for array in side.values()]
        size = sum(array.nbytes for array in arrays)
        if index != len(self._kept) or size > self._room or any(array.dtype.kind in "OU" for array in arrays):
            self._room = 0 if index == len(self._kept) else self._room  # what is kept has no gaps
            return pair
        for array in arrays:
            array.setflags(write=False)
        self._room -= size
        self._kept.append(pair)
        return pair
