"""Metrics to measure the link with: noisy made-up gauges, and a minute of this kind of host that was recorded.

    python -m tests.bench_link_data BUNDLE FEEDS.npz     record tests/samples/host_metrics.json anew, on Linux

While it records, the bundle runs on the feeds about twenty times a second, as an agent would run it.
"""

import json
import math
import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import edgert
from edgert.columns import INTEGERS, Column
from edgert.host import rss_bytes
from edgert.record import COUNTER, GAUGE, Batch, BinSketch, Categories, LogSketch, Metric, Record, Sketches, Stamp, Sync
from edgert.wire import schema_hash

RECORDED = Path(__file__).parent / "samples" / "host_metrics.json"
EPOCH = bytes(range(1, 9))
SECONDS = 60
WALL_MS = 1_790_000_000_000

GAUGES = (
    # name, unit, scale, first value, noise, step: integers before scaling
    ("resident_memory_bytes", "B", -4, 14_250, 1.5, 20),
    ("memory_available_bytes", "B", -6, 21_840, 6, 6),
    ("memory_cached_bytes", "B", -6, 9_112, 1, 2),
    ("cpu_ratio", "1", 3, 412, 22.5, 4),
    ("system_cpu_ratio", "1", 3, 81, 9, 2),
    ("iowait_ratio", "1", 3, 12, 3, 1),
    ("load_1m", "1", 2, 131, 2, 6),
    ("temperature_celsius", "degC", 1, 562, 2, 2),
    ("board_temperature_celsius", "degC", 1, 431, 1, 1),
    ("power_milliwatts", "mW", 0, 5_420, 45, 20),
    ("supply_volts", "V", 3, 5_071, 4.5, 1),
    ("clock_hertz", "Hz", -6, 1_480, 30, 10),
    ("fan_rpm", "rpm", 0, 2_310, 12.5, 6),
    ("accelerator_ratio", "1", 3, 655, 27.5, 5),
    ("inference_milliseconds", "ms", 3, 10_640, 80, 10),
    ("queue_length", "1", 0, 2, 0.5, 0),
    ("link_rtt_milliseconds", "ms", 1, 238, 15, 3),
    ("signal_dbm", "dBm", 0, -67, 1, 1),
    ("received_bytes", "B", -1, 1_210, 35, 10),
    ("transmitted_bytes", "B", -1, 640, 25, 8),
)


@dataclass(frozen=True)
class Samples:
    """Rows of integers before scaling, one per time in milliseconds, and what their columns mean."""

    schema: tuple[Metric, ...]
    after_ms: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]

    def first(self, count: int) -> "Samples":
        """Return the first `count` samples."""
        return Samples(self.schema, self.after_ms[:count], self.rows[:count])

    def values(self) -> list[list[float]]:
        """Return the rows as what they stand for: integers where nothing is behind the point."""
        scales = [one.scale for one in self.schema]
        return [[_value(*pair) for pair in zip(row, scales, strict=True)] for row in self.rows]

    def record(self, seq: int = 70_000) -> Record:
        """Return them as the record of a device that has run for a day."""
        columns = tuple(Column(INTEGERS, column) for column in zip(*self.rows, strict=True))
        body = Batch(schema_hash(self.schema), self.after_ms, columns)
        return Record(EPOCH, seq, 3, Stamp(86_400_000, WALL_MS, Sync.NTP), body)


def _value(number: int, scale: int) -> float:
    return round(number / 10**scale, scale) if scale > 0 else number * 10**-scale


def synthetic(count: int = 60, seed: int = 5, noise: float = 1.0) -> Samples:
    """Return 20 gauges every five seconds: `noise` times their own about a value that wanders."""
    made = random.Random(seed)
    centres = [float(first) for _, _, _, first, _, _ in GAUGES]
    rows = []
    for _ in range(count):
        centres = [centre + made.gauss(0, one[5]) for centre, one in zip(centres, GAUGES, strict=True)]
        rows.append(
            tuple(round(made.gauss(centre, noise * one[4])) for centre, one in zip(centres, GAUGES, strict=True))
        )
    schema = tuple(Metric(name, unit, scale) for name, unit, scale, *_ in GAUGES)
    return Samples(schema, tuple(range(0, 5_000 * count, 5_000)), tuple(rows))


def recorded() -> Samples:
    """Return the recorded minute: 20 metrics of a host, once a second."""
    document = json.loads(RECORDED.read_text(encoding="utf-8"))
    schema = tuple(Metric(*entry) for entry in document["schema"])
    return Samples(schema, tuple(document["after_ms"]), tuple(tuple(row) for row in document["rows"]))


def sketches(seed: int = 7, window_ms: int = 300_000) -> Sketches:
    """Return what one classifier tells of a window: its times, input, output, classes, confidence and entropy."""
    made = random.Random(seed)

    def bell(bins: int, total: int) -> tuple[int, ...]:
        parts = [math.exp(-0.5 * ((place - bins / 2) / (bins / 7)) ** 2) for place in range(bins)]
        return tuple(round(made.uniform(0.8, 1.2) * total * part / sum(parts)) for part in parts)

    times = {f"{name}_seconds": LogSketch(20, 0, -160, bell(40, 6_000)) for name in ("pre", "run", "post")}
    bins = {name: BinSketch(0, bell(34, 60_000)) for name in ("input/x", "output/y")}
    bins |= {f"{name}/y": BinSketch(0, bell(12, 6_000)) for name in ("confidence", "entropy")}
    classes = {"class/y": Categories({str(number): made.randint(1, 2_000) for number in range(6)})}
    return Sketches(0, window_ms, {**times, **bins, **classes})


class _Host:
    """What Linux counts, as gauges and as what was added since the sample before."""

    def __init__(self) -> None:
        self.calls, self.busy_s = 0, 0.0
        self._before: dict[str, float] = {}
        self._at = time.monotonic()

    def sample(self) -> list[tuple[str, str, int, int, int]]:
        """Return (name, unit, scale, kind, integer before scaling) of now."""
        now = time.monotonic()
        elapsed, self._at = now - self._at, now
        cpu = dict(zip("user nice system idle iowait".split(), map(float, _words("/proc/stat")[1:6]), strict=True))
        stat = {line.split()[0]: float(line.split()[1]) for line in _lines("/proc/stat")}
        memory = {line.split(":")[0]: int(line.split()[1]) for line in _lines("/proc/meminfo")}
        network = [line.split(":")[1].split() for line in _lines("/proc/net/dev")[2:]]
        disk = next(line.split() for line in _lines("/proc/diskstats") if line.split()[2][-1].isalpha())
        load = _words("/proc/loadavg")
        added = self._added(
            {
                **{f"cpu_{name}": value for name, value in cpu.items()},
                "process": time.process_time(),
                "calls": self.calls,
                "busy": self.busy_s,
                "switches": stat["ctxt"],
                "interrupts": stat["intr"],
                "forks": stat["processes"],
                "written": float(disk[9]) * 512,
                "received": sum(float(one[0]) for one in network),
                "sent": sum(float(one[8]) for one in network),
            }
        )
        mean_ms = added["busy"] / max(1.0, added["calls"]) * 1000
        ratios = [
            (f"cpu_{name}_ratio", "1", 3, GAUGE, int(added[f"cpu_{name}"] * 10 / max(elapsed, 1e-3)))
            for name in ("user", "system", "iowait")
        ]
        return [
            ("inferences_total", "1", 0, COUNTER, int(added["calls"])),
            ("inference_milliseconds", "ms", 3, GAUGE, int(mean_ms * 1000)),
            ("resident_memory_bytes", "B", -4, GAUGE, rss_bytes() // 10_000),
            ("cpu_ratio", "1", 3, GAUGE, int(added["process"] / max(elapsed, 1e-3) * 1000)),
            *ratios,
            ("load_1m", "1", 2, GAUGE, int(float(load[0]) * 100)),
            ("load_5m", "1", 2, GAUGE, int(float(load[1]) * 100)),
            ("memory_available_bytes", "B", -6, GAUGE, memory["MemAvailable"] // 1000),
            ("memory_cached_bytes", "B", -6, GAUGE, memory["Cached"] // 1000),
            ("memory_dirty_bytes", "B", -4, GAUGE, memory["Dirty"] // 10),
            ("disk_free_bytes", "B", -6, GAUGE, shutil.disk_usage("/").free // 1_000_000),
            ("disk_written_bytes", "B", -3, COUNTER, int(added["written"] / 1000)),
            ("context_switches_total", "1", 0, COUNTER, int(added["switches"])),
            ("interrupts_total", "1", 0, COUNTER, int(added["interrupts"])),
            ("forks_total", "1", 0, COUNTER, int(added["forks"])),
            ("received_bytes", "B", 0, COUNTER, int(added["received"])),
            ("transmitted_bytes", "B", 0, COUNTER, int(added["sent"])),
            ("open_files", "1", 0, GAUGE, len(os.listdir("/proc/self/fd"))),  # noqa: PTH208  names alone
        ]

    def _added(self, now: dict[str, float]) -> dict[str, float]:
        before, self._before = self._before or now, now
        return {name: value - before[name] for name, value in now.items()}


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


def _words(path: str) -> list[str]:
    return _lines(path)[0].split()


def record_host(bundle: Path, feeds: Path) -> Samples:
    """Run the bundle and sample the host once a second for a minute."""
    host, stop = _Host(), threading.Event()
    inputs = dict(np.load(feeds))
    with edgert.load(bundle) as model:

        def serve() -> None:
            while not stop.wait(0.04):
                begun = time.perf_counter()
                model.run(inputs)
                host.busy_s += time.perf_counter() - begun
                host.calls += 1

        thread = threading.Thread(target=serve)
        thread.start()
        host.sample()
        begun, after, rows = time.monotonic(), list[int](), list[list[tuple[str, str, int, int, int]]]()
        for number in range(1, SECONDS + 1):
            time.sleep(max(0.0, begun + number - time.monotonic()))
            after.append(int((time.monotonic() - begun) * 1000))
            rows.append(host.sample())
        stop.set()
        thread.join()
    schema = tuple(Metric(name, unit, scale, kind) for name, unit, scale, kind, _ in rows[0])
    numbers = tuple(tuple(cell[4] for cell in row) for row in rows)
    return Samples(schema, tuple(at - after[0] for at in after), numbers)


def main(arguments: Sequence[str]) -> int:
    """Write the recording."""
    found = record_host(Path(arguments[0]), Path(arguments[1]))
    head = {"schema": [[one.name, one.unit, one.scale, one.kind] for one in found.schema], "after_ms": found.after_ms}
    rows = ",\n  ".join(json.dumps(row) for row in found.rows)
    text = json.dumps(head, indent=None)[:-1] + f', "rows": [\n  {rows}\n]}}\n'
    RECORDED.write_text(text, encoding="utf-8")
    print(f"{len(found.rows)} samples of {len(found.schema)} metrics in {RECORDED}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
