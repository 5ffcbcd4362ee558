"""What the subcommands print with: JSON documents, aligned tables, and a progress line on a terminal."""

import os
import sys
import time
from collections.abc import Sequence

import click

from edgert import strict_json

BAR_WIDTH = 24
LINE_WIDTH = 118


def print_json(document: object) -> None:
    """Print one JSON document on stdout and nothing else."""
    click.echo(strict_json.dumps(document), nl=False)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return `rows` under `header` with aligned columns."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows)]
    return "\n".join(line.rstrip() for line in lines)


def megabytes(size: int) -> str:
    """Return a size in MB of 10^6 bytes, or kB below a hundredth of that."""
    return f"{size / 1e6:.2f} MB" if size >= 10_000 else f"{size / 1e3:.2f} kB"


def printable(text: str) -> str:
    """Return a text on one line that cannot command a terminal, for what a file or a library said."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


def progress_text(stage: str, done: int, total: int) -> str:
    """Return a bar with percent and counts before the stage, cut to a line; total 0 gives the stage alone."""
    if not total:
        return stage[:LINE_WIDTH]
    share = min(done / total, 1.0)
    filled = int(BAR_WIDTH * share)
    bar = f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}]"
    return f"{bar} {int(100 * share):3} % {done}/{total} {stage}"[:LINE_WIDTH]


class ProgressLine:
    """A line on stderr that shows the stage and a bar; silent where stderr is not a terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._last = 0.0
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show `done` of `total` steps of `stage`; total 0 shows the stage alone."""
        if not self._shown:
            return
        now = time.monotonic()
        if stage == self._stage and now - self._last < 0.1 and done != total:
            return
        self._stage, self._last = stage, now
        sys.stderr.write(f"\r\x1b[K{progress_text(stage, done, total)}")
        sys.stderr.flush()

    def clear(self) -> None:
        """Wipe the line."""
        if self._shown and self._stage:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
