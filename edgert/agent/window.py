"""What is measured between two reports: samples of the host, the loop and the link, and the counts of the model."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgert import host
from edgert.columns import INTEGERS, Column
from edgert.record import COUNTER, Batch, Body, Event, Events, Metric, Schema, Sketches, Stamp
from edgert.runtime.telemetry import Telemetry
from edgert.stamps import stamp_now
from edgert.wire import schema_hash

SCHEMA: Schema = (
    Metric("inferences_total", "1", 0, COUNTER, 0),
    Metric("errors_total", "1", 0, COUNTER, 0),
    Metric("dropped_total", "1", 0, COUNTER, 0),
    Metric("resident_memory_bytes", "B", -4),
    Metric("cpu_ratio", "1", 3),
    Metric("temperature_celsius", "degC", 1),
    Metric("disk_free_bytes", "B", -6),
    Metric("battery_ratio", "1", 2),
    Metric("throttled_seconds_total", "s", 3, COUNTER),
    Metric("available_memory_bytes", "B", -6),
    Metric("queue_depth", "1"),
    Metric("outbox_records", "1"),
    Metric("outbox_bytes", "B", -2),
    Metric("outbox_oldest_seconds", "s"),
    Metric("link_sent_bytes_total", "B", 0, COUNTER),
    Metric("link_connects_total", "1", 0, COUNTER),
    Metric("link_resent_total", "1", 0, COUNTER),
    Metric("flash_written_bytes_total", "B", 0, COUNTER),
)
"""What is sampled in each window; a value is an integer times 10^-scale. The first ones matter most."""

COUNTERS = tuple(place for place, metric in enumerate(SCHEMA) if metric.kind == COUNTER)
CORE = 7
"""So many of the first columns are kept where bytes are short."""


@dataclass
class Counts:
    """What the loop counts since it began, and how much waits in front of it now."""

    calls: int = 0
    errors: int = 0
    dropped: int = 0
    queued: int = 0


@dataclass(frozen=True)
class LinkState:
    """What the link tells: how much waits in the outbox, and what it did since it began."""

    records: int = 0
    bytes: int = 0
    oldest_s: float = 0.0
    sent_bytes: int = 0
    connects: int = 0
    resent: int = 0


@dataclass(frozen=True)
class Detail:
    """How much a report tells: every how many windows there is one, how many columns, and which sketches."""

    windows: int = 1
    columns: int = len(SCHEMA)
    sketches: tuple[str, ...] | None = None

    def left_out(self) -> str:
        """Return in words what is not told."""
        out = [f"columns: {', '.join(metric.name for metric in SCHEMA[self.columns :])}"]
        out = out if self.columns < len(SCHEMA) else []
        if self.sketches is not None:
            out.append(f"sketches other than {', '.join(self.sketches)}")
        return "; ".join(out) or "nothing"


class Window:
    """Collects samples; `reports` makes them, and the model's counts, into bodies and begins anew."""

    def __init__(
        self, telemetry: Telemetry, counts: Counts, disk: Path, link: Callable[[], LinkState] = LinkState
    ) -> None:
        self._telemetry, self._counts, self._disk, self._link = telemetry, counts, disk, link
        self._rows = list[tuple[float, list[int | None]]]()
        self.begun = self.sampled = time.monotonic()
        self._cpu, self._totals = time.process_time(), dict[int, int]()
        self._throttled_ms = 0
        self._measured()

    def watch(self, telemetry: Telemetry) -> None:
        """Report the counts of another model from now on."""
        self._telemetry = telemetry

    def sample(self) -> None:
        """Look at the host and the counters now."""
        self._rows.append((time.monotonic(), self._measured()))

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

    def _measured(self) -> list[int | None]:
        now, cpu = time.monotonic(), time.process_time()
        elapsed = max(now - self.sampled, 1e-3)
        link, counts = self._link(), self._counts
        warmth, battery = host.temperature_c(), host.battery_ratio()
        memory, flash = host.available_memory_bytes(), host.written_bytes()
        row: list[int | None] = [
            counts.calls,
            counts.errors,
            counts.dropped,
            host.rss_bytes() // 10_000,
            int((cpu - self._cpu) / elapsed * 1000),
            None if warmth is None else int(warmth * 10),
            shutil.disk_usage(self._disk).free // 1_000_000,
            None if battery is None else int(battery * 100),
            self._throttled(elapsed),
            None if memory is None else memory // 1_000_000,
            counts.queued,
            link.records,
            link.bytes // 100,
            int(link.oldest_s),
            link.sent_bytes,
            link.connects,
            link.resent,
            flash,
        ]
        for place in COUNTERS:
            total = row[place]
            if total is not None:
                row[place] = total - self._totals.get(place, total)
                self._totals[place] = total
        self._cpu, self.sampled = cpu, now
        return row

    def _throttled(self, elapsed_s: float) -> int:
        """Return for how many ms the processor has been held back since the window's program began."""
        told = host.throttled_ms()
        if told is not None:
            return told
        self._throttled_ms += int(elapsed_s * 1000) if host.is_capped() else 0
        return self._throttled_ms


def reduced(items: Sequence[tuple[Stamp, Body]], detail: Detail) -> list[tuple[Stamp, Body]]:
    """Return a report without what `detail` leaves out."""
    found = list[tuple[Stamp, Body]]()
    for stamp, body in items:
        if isinstance(body, Batch):
            found.append((stamp, replace(body, columns=body.columns[: detail.columns])))
        elif isinstance(body, Sketches) and detail.sketches is not None:
            kept = {name: one for name, one in body.sketches.items() if name.startswith(detail.sketches)}
            if kept:
                found.append((stamp, replace(body, sketches=kept)))
        else:
            found.append((stamp, body))
    return found
