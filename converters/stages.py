"""How long each stage of a conversion takes: a progress callable that looks at the clock and hands everything on."""

import time
from collections.abc import Callable

from converters.request import Progress, StageTime

Clock = Callable[[], float]
FIRST = "reading the model"
"""What runs before any stage is reported."""


class StageClock:
    """Called as any `Progress`; a stage lasts until another one is reported, and may come back."""

    def __init__(self, progress: Progress, clock: Clock = time.perf_counter) -> None:
        self._progress, self._clock = progress, clock
        self._seconds = {FIRST: 0.0}
        self._stage, self._since = FIRST, clock()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Note that `stage` runs now, and report it."""
        self._note()
        self._stage = stage
        self._seconds.setdefault(stage, 0.0)
        self._progress(stage, done, total)

    def times(self) -> tuple[StageTime, ...]:
        """Return the time of every stage so far, in the order in which they began."""
        self._note()
        return tuple(StageTime(stage, seconds) for stage, seconds in self._seconds.items())

    def _note(self) -> None:
        now = self._clock()
        self._seconds[self._stage] += now - self._since
        self._since = now
