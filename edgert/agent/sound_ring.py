"""The last samples of a sound, and the windows that they complete.

Where samples come from, and who waits for windows, is left to `microphone`.
"""

from collections.abc import Callable

import numpy as np

from edgert.runtime.mel import Wave


class Ring:
    """Calls `ready` with each window of `window` samples, `hop` samples after the one before.

    Blocks may be of any size, the window is a copy. Where `hop` is longer than the window, the samples between two of
    them are left out.
    """

    def __init__(self, window: int, hop: int, ready: Callable[[Wave], None]) -> None:
        self._samples, self._next = np.zeros(window, np.float32), 0
        self._missing, self._hop, self._ready = window, hop, ready

    def add(self, block: Wave) -> None:
        """Add samples, mono; `ready` is called for each window that they complete."""
        while block.size >= self._missing:
            self._store(block[: self._missing])
            block = block[self._missing :]
            self._missing = self._hop
            self._ready(np.roll(self._samples, -self._next))
        self._missing -= block.size
        self._store(block)

    def _store(self, piece: Wave) -> None:
        """Write the piece over the oldest samples."""
        size = self._samples.size
        piece = piece[-size:]
        first = min(piece.size, size - self._next)
        self._samples[self._next : self._next + first] = piece[:first]
        self._samples[: piece.size - first] = piece[first:]
        self._next = (self._next + piece.size) % size
