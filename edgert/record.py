"""Telemetry as objects: what a device numbers and sends, and what the server answers. Bytes are left to `wire`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from edgert.columns import Column

Details = Mapping[str, str | int | float | bool | None]


class Sync(IntEnum):
    """How far a wall clock is to be trusted."""

    NONE = 0
    RTC = 1
    NTP = 2
    SERVER = 3


GAUGE, COUNTER = 0, 1


@dataclass(frozen=True)
class Stamp:
    """When something happened, in ms: the program's monotonic clock, and the wall clock, 0 where there is none."""

    mono_ms: int
    wall_ms: int = 0
    sync: Sync = Sync.NONE


@dataclass(frozen=True)
class Metric:
    """One column of a schema: values are integers times 10^-scale; `slot` is the place of its model, if it has one."""

    name: str
    unit: str
    scale: int = 0
    kind: int = GAUGE
    slot: int | None = None


Schema = tuple[Metric, ...]


@dataclass(frozen=True)
class Slot:
    """One loaded model: what was asked for and what runs; `reference` names the bins its sketches count into."""

    name: str
    version: str
    digest: str
    profile: str
    variant: str
    requested: Sequence[str]
    used: str
    reason: str
    reference: bytes


@dataclass(frozen=True)
class Birth:
    """Who the device is: the first record of each boot."""

    tenant: str
    device: str
    agent: str
    hardware: Mapping[str, str]
    schemas: Sequence[Schema]
    slots: Sequence[Slot]
    caps: Mapping[str, object] = field(default_factory=dict)
    keys: Sequence[bytes] = ()


@dataclass(frozen=True)
class Batch:
    """Samples of one schema. `after_ms` has each sample's time after the first; a column left out is None."""

    schema: bytes
    after_ms: Sequence[int]
    columns: Sequence[Column | None]


@dataclass(frozen=True)
class LogSketch:
    """Counts in buckets that grow by g = (1 + a) / (1 - a), a = `per_mille` / 1000; the first ends at g^`offset`."""

    per_mille: int
    zeros: int
    offset: int
    counts: Sequence[int]


@dataclass(frozen=True)
class BinSketch:
    """Counts in the bins of a reference profile: one below, the bins, one at or above the last edge."""

    nonfinite: int
    counts: Sequence[int]


@dataclass(frozen=True)
class Categories:
    """Counts of texts; "" is all others."""

    counts: Mapping[str, int]


Sketch = LogSketch | BinSketch | Categories


@dataclass(frozen=True)
class Sketches:
    """What one model did in one window."""

    slot: int
    window_ms: int
    sketches: Mapping[str, Sketch]


@dataclass(frozen=True)
class Event:
    """Something that happened: a stable code, 0 information, 1 warning or 2 error, and facts."""

    code: str
    severity: int
    after_ms: int = 0
    details: Details = field(default_factory=dict)


@dataclass(frozen=True)
class Loss:
    """Records `first` to `last` will not come; `epoch` None means the record's own."""

    first: int
    last: int
    reason: str
    epoch: bytes | None = None


@dataclass(frozen=True)
class Events:
    """Events and declarations of loss."""

    events: Sequence[Event] = ()
    lost: Sequence[Loss] = ()


@dataclass(frozen=True)
class Reported:
    """The state that is in force, and the desired version that it answers."""

    version: int
    state: Mapping[str, object]


@dataclass(frozen=True)
class LogLines:
    """Log lines: milliseconds after the record's stamp, level, text."""

    lines: Sequence[tuple[int, str, str]]


@dataclass(frozen=True)
class Result:
    """What came of a command: "done", "failed" or "refused"."""

    id: str
    status: str
    reason: str = ""
    result: Mapping[str, object] = field(default_factory=dict)


Body = Birth | Batch | Sketches | Events | Reported | LogLines | Result

KINDS: Mapping[type, str] = {
    Birth: "birth",
    Batch: "tel",
    Sketches: "sk",
    Events: "evt",
    Reported: "rep",
    LogLines: "log",
    Result: "resp",
}
"""The topic of each kind of body."""


@dataclass(frozen=True)
class Record:
    """One numbered message up. `coarse`: it stands for several that were merged."""

    epoch: bytes
    seq: int
    boot: int
    at: Stamp
    body: Body
    coarse: bool = False

    @property
    def kind(self) -> str:
        """The last token of its topic."""
        return KINDS[type(self.body)]


@dataclass(frozen=True)
class Watermark:
    """What the server has committed: every seq up to `upto` but those in the ranges `missing`."""

    epoch: bytes
    upto: int
    missing: Sequence[tuple[int, int]]
    time_ms: int
    backoff_ms: int | None = None


@dataclass(frozen=True)
class Presence:
    """Whether a device is connected."""

    on: bool
    epoch: bytes
    boot: int
