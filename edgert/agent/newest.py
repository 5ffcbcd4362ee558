"""The newest input of a live device, handed from the thread that captures to the loop that runs.

Capturing is left to `camera` and `microphone`.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NoReturn

from edgert.agent.inputs import Feeds, Item
from edgert.errors import EdgertError

FIRST_RETRY_S, LAST_RETRY_S = 0.5, 30.0
MAX_FAILURES = 16  # that wait to be counted; a device that is opened again with back-off has one at a time


def retry_after(failures: int) -> float:
    """Return seconds until a device is opened again after so many failures in a row: twice as many each time."""
    return min(LAST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(failures - 1, 10)) * random.uniform(0.75, 1.0)


class Newest:
    """A queue of one: a newer input takes the place of one that still waits, which counts as dropped.

    A failure of the device is an input whose `read` raises it, so the loop counts it as any other.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._changed = threading.Condition()
        self._waiting: tuple[str, Callable[[], Feeds], float] | None = None
        self._failures = deque[tuple[str, EdgertError]](maxlen=MAX_FAILURES)

    @property
    def queued(self) -> int:
        """How many inputs wait: one or none."""
        return int(self._waiting is not None)

    def put(self, name: str, read: Callable[[], Feeds], *, counted: bool = True) -> None:
        """Let this one wait; what it replaces counts as dropped, unless it only brings that one up to date."""
        with self._changed:
            if self._waiting is not None and counted:
                self.dropped += 1
            self._waiting = name, read, time.monotonic()
            self._changed.notify()

    def fail(self, name: str, error: EdgertError) -> None:
        """Let a failure be counted; no newer input takes its place."""
        with self._changed:
            self._failures.append((name, error))
            self._changed.notify()

    def lose(self) -> None:
        """Count what the device itself lost."""
        with self._changed:
            self.dropped += 1

    def take(self, timeout_s: float) -> Item | None:
        """Return a failure, else the input that waits; None where neither comes in `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self._failures or self._waiting is not None, timeout_s)
            if self._failures:
                name, error = self._failures.popleft()
                return Item(name, lambda: _fail(error))
            if self._waiting is None:
                return None
            name, read, since = self._waiting
            self._waiting = None
        return Item(name, read, waited_s=time.monotonic() - since)


def _fail(error: EdgertError) -> NoReturn:
    raise error
