"""The newest log lines, kept in memory until somebody asks for them."""

import logging
import time
from collections import deque

from edgert.record import LogLines, Stamp
from edgert.stamps import stamp_at

MOST_LINES = 500
LONGEST = 500
LINES_PER_RECORD = 100


class LogLinesKept(logging.Handler):
    """A handler that keeps the newest lines of the agent's log."""

    def __init__(self) -> None:
        super().__init__()
        self._lines = deque[tuple[float, float, str, str]](maxlen=MOST_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        line = (time.monotonic(), record.created, record.levelname.lower(), record.getMessage()[:LONGEST])
        self._lines.append(line)

    def records(self, most: int) -> list[tuple[Stamp, LogLines]]:
        """Return the newest lines, at most so many, as bodies with the stamps of their first lines."""
        lines = list(self._lines)[-max(0, most) :] if most > 0 else []
        found = list[tuple[Stamp, LogLines]]()
        for begin in range(0, len(lines), LINES_PER_RECORD):
            some = lines[begin : begin + LINES_PER_RECORD]
            mono, wall = some[0][0], some[0][1]
            told = tuple((int((at - mono) * 1000), level, text) for at, _, level, text in some)
            found.append((stamp_at(mono, wall), LogLines(told)))
        return found
