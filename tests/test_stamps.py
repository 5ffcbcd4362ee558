"""Stamps: the moment on both clocks, and what the wall clock is worth."""

import time

from edgert.record import Stamp, Sync
from edgert.stamps import CLOCK_SET_S, clock_sync, stamp_at, stamp_now


def test_clock_is_trusted_as_far_as_it_is_set(tmp_path):
    """1970 on a board without a battery; a battery's clock; one that NTP has set."""
    mark = tmp_path / "synchronized"
    assert clock_sync(3600.0, mark) == Sync.NONE
    assert clock_sync(CLOCK_SET_S + 1.0, mark) == Sync.RTC
    mark.touch()
    assert clock_sync(CLOCK_SET_S + 1.0, mark) == Sync.NTP
    assert clock_sync(3600.0, mark) == Sync.NONE


def test_stamp_is_the_same_moment_on_both_clocks():
    """Ten seconds ago is ten seconds less on each; monotonic time never goes below its beginning."""
    before = time.monotonic(), time.time()
    stamp = stamp_now(10.0)
    assert -10.001 <= stamp.mono_ms / 1000 - before[0] < -8 or stamp.mono_ms == 0
    assert -10.001 <= stamp.wall_ms / 1000 - before[1] < -8
    assert stamp_at(-5.0, 12.0) == Stamp(0, 12_000, Sync.NONE)
