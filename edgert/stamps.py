"""The stamps of records: both clocks of the device, and how far its wall clock is to be trusted."""

import time
from pathlib import Path

from edgert.record import Stamp, Sync

CLOCK_SET_S = 1_735_689_600
"""2025: a wall clock before that was never set."""

SYNCHRONISED = Path("/run/systemd/timesync/synchronized")
"""Is there once systemd-timesyncd has set the clock by NTP."""


def clock_sync(wall_s: float, synchronised: Path = SYNCHRONISED) -> Sync:
    """Return how far a wall clock that says `wall_s` is to be trusted."""
    if wall_s < CLOCK_SET_S:
        return Sync.NONE
    return Sync.NTP if synchronised.exists() else Sync.RTC


def stamp_at(mono_s: float, wall_s: float) -> Stamp:
    """Return the stamp of a moment that both clocks were read at."""
    return Stamp(max(0, int(mono_s * 1000)), int(wall_s * 1000), clock_sync(wall_s))


def stamp_now(ago_s: float = 0.0) -> Stamp:
    """Return the stamp of the moment `ago_s` seconds ago."""
    return stamp_at(time.monotonic() - ago_s, time.time() - ago_s)
