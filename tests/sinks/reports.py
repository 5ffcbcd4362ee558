"""What an agent tells: a birth, and windows with metrics, sketches and events."""

from dataclasses import replace

from edgert.agent.window import SCHEMA
from edgert.columns import INTEGERS, Column
from edgert.record import (
    Batch,
    BinSketch,
    Birth,
    Body,
    Categories,
    Event,
    Events,
    Sketch,
    Sketches,
    Slot,
    Stamp,
    Sync,
)
from edgert.runtime.telemetry import LogCounts
from edgert.wire import schema_hash

Items = list[tuple[Stamp, Body]]

AT = Stamp(1000, 1_790_000_000_000, Sync.NTP)
SLOT = Slot(
    "digits",
    "3",
    "sha256:ab",
    "x86-avx2",
    "fp32",
    ("CPUExecutionProvider",),
    "CPUExecutionProvider",
    "",
    b"reference"[:8],
)
HARDWARE = {"arch": "x86_64", "cpu": 'An "odd"\\name\nof a CPU', "system": "linux", "profile": "x86-avx2"}
BIRTH = Birth("acme", "press-7", "edgert/0.1.0", HARDWARE, (SCHEMA,), (SLOT,))


def born(birth: Birth = BIRTH) -> Items:
    """Return a report that has a birth alone."""
    return [(AT, birth)]


def with_slots(*names: str, reference: bytes = SLOT.reference) -> Birth:
    """Return a birth of a device that runs these models."""
    return replace(BIRTH, slots=tuple(replace(SLOT, name=name, reference=reference) for name in names))


def batch(*rows: tuple[int | None, ...]) -> Batch:
    """Return samples of the agent's schema."""
    columns = [Column(INTEGERS, values) for values in zip(*rows, strict=True)]
    return Batch(schema_hash(SCHEMA), tuple(range(0, 5000 * len(rows), 5000)), columns)


def durations(*seconds: float) -> Sketch:
    """Return the log buckets of calls that took so long."""
    counts = LogCounts()
    for one in seconds:
        counts.add(one)
    return counts.sketch()


def window(calls: int = 10, **sketches: Sketch) -> Items:
    """Return a window of `calls` calls in two samples, three of a class, one failed."""
    samples = batch((calls - 4, 1, 0, 4096, 125, None, 900), (4, 0, 0, 5000, 250, 431, 800))
    told: dict[str, Sketch] = {
        "run_seconds": durations(*[0.004] * (calls - 1), 0.3),
        "class/y": Categories({"7": 3, "": 2}),
        "input/x": BinSketch(1, (0, 4, 6, 2)),
    }
    failed = Events((Event("inference_failed", 2, 0, {"BadInput": 1}),))
    return [(AT, samples), (AT, Sketches(0, 10_000, told | sketches)), (AT, failed)]
