"""What is measured between two reports: samples of the host and the counters, and the counts of the model."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from edgert.columns import INTEGERS, Column
from edgert.host import rss_bytes, temperature_c
from edgert.record import COUNTER, Batch, Body, Event, Events, Metric, Schema, Stamp, Sync
from edgert.runtime.telemetry import Telemetry
from edgert.wire import schema_hash

SCHEMA: Schema = (
    Metric("inferences_total", "1", 0, COUNTER, 0),
    Metric("errors_total", "1", 0, COUNTER, 0),
    Metric("resident_memory_bytes", "B", -4),
    Metric("cpu_ratio", "1", 3),
    Metric("temperature_celsius", "degC", 1),
    Metric("disk_free_bytes", "B", -6),
)
"""What is sampled in each window; a value is an integer times 10^-scale."""


@dataclass
class Counts:
    """What the loop has counted since it began."""

    calls: int = 0
    errors: int = 0


class Window:
    """Collects samples every `sample_s`; `reports` makes them, and the model's counts, into bodies and begins anew."""

    def __init__(self, telemetry: Telemetry, counts: Counts, disk: Path) -> None:
        self._telemetry, self._counts, self._disk = telemetry, counts, disk
        self._rows = list[tuple[float, tuple[int | None, ...]]]()
        self._told = (0, 0)
        self.begun = self.sampled = time.monotonic()
        self._cpu = (time.process_time(), self.begun)

    def sample(self) -> None:
        """Look at the host and the counters now."""
        now, cpu = time.monotonic(), time.process_time()
        warmth = temperature_c()
        counts = (self._counts.calls, self._counts.errors)
        row = (
            counts[0] - self._told[0],
            counts[1] - self._told[1],
            rss_bytes() // 10_000,
            int((cpu - self._cpu[0]) / max(now - self._cpu[1], 1e-3) * 1000),
            None if warmth is None else int(warmth * 10),
            shutil.disk_usage(self._disk).free // 1_000_000,
        )
        self._rows.append((now, row))
        self._told, self._cpu, self.sampled = counts, (cpu, now), now

    def reports(self) -> list[tuple[Stamp, Body]]:
        """Return what there is since the last time, and begin anew."""
        self.sample()
        rows, self._rows, now = self._rows, [], self.sampled
        self.begun = now
        told, first = self._telemetry.window(), rows[0][0]
        after = tuple(int((at - first) * 1000) for at, _ in rows)
        columns = [Column(INTEGERS, tuple(row[place] for _, row in rows)) for place in range(len(SCHEMA))]
        stamp = stamp_now(now - first)
        items: list[tuple[Stamp, Body]] = [(stamp, Batch(schema_hash(SCHEMA), after, columns))]
        if told.sketches.sketches:
            items.append((stamp, told.sketches))
        if told.errors:
            items.append((stamp, Events((Event("inference_failed", 2, 0, dict(told.errors)),))))
        return items


def stamp_now(ago_s: float = 0.0) -> Stamp:
    """Return the stamp of the moment `ago_s` seconds ago."""
    return Stamp(max(0, int((time.monotonic() - ago_s) * 1000)), int((time.time() - ago_s) * 1000), Sync.RTC)
