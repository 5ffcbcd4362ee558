"""Reports added up: counters and bins since the start, gauges as last seen. How they are told is left to the sinks.

The number of series is bounded: what is one too many counts under the label value `other`, or not at all.
"""

import math
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgert.columns import INTEGERS, Column
from edgert.record import Batch, BinSketch, Birth, Categories, Event, Events, LogSketch, Metric, Sketches
from edgert.sinks.durations import Durations
from edgert.sinks.metric_names import COUNTERS, GAUGES, HISTOGRAMS, INFO, Family, family_of, scaled
from edgert.sinks.sink import Items
from edgert.wire import schema_hash

OTHER = "other"
Value = float | Durations

DURATIONS = Family(
    "inference_duration",
    HISTOGRAMS,
    "Time of a call by stage; its buckets and sum are estimated from the midpoints of finer log buckets.",
    ("model", "stage"),
    "seconds",
)
EVENTS = Family(
    "events", COUNTERS, "Events by code and severity: 0 information, 1 warning, 2 error.", ("severity", "code")
)
FAILURES = Family("inference_failures", COUNTERS, "Calls that failed, by the code of the error.", ("error",))
LAST_REPORT = Family("last_report_timestamp", GAUGES, "Wall clock of the newest report.", (), "seconds")
MODEL = Family("model", INFO, "A loaded model; digest and version are the bundle's, provider is the one that runs it.")
DEVICE = Family("device", INFO, "Who the device says it is.")
DROPPED = Family(
    "series_dropped", COUNTERS, "What was not told: too many series, or a schema or name that cannot be used."
)
OWN = (DURATIONS, EVENTS, FAILURES, LAST_REPORT, MODEL, DEVICE, DROPPED)

FAILED = "inference_failed"
"""The event whose details are counts by the code of an error."""


@dataclass(frozen=True)
class Snapshot:
    """All series at one moment: per family label values -> value; `models` are the names of the slots."""

    birth: Birth | None
    models: Sequence[str]
    families: Mapping[Family, Mapping[tuple[str, ...], Value]]
    dropped: int


class Totals:
    """Adds up reports, from any thread: at most `max_series` series, at most `most_values` of one label of counts."""

    def __init__(self, max_series: int = 1000, most_values: int = 64) -> None:
        self._lock = threading.Lock()
        self._max_series, self._most_values = max_series, most_values
        self._birth: Birth | None = None
        self._models = list[str]()
        self._schemas = dict[bytes, Sequence[Metric]]()
        self._families = {family.name: family for family in OWN}
        self._series = dict[Family, dict[tuple[str, ...], Value]]()
        self._siblings = Counter[tuple[Family, tuple[str, ...]]]()
        self.dropped = 0

    def add(self, items: Items) -> None:
        """Add a report."""
        with self._lock:
            for at, body in items:
                if isinstance(body, Birth):
                    self._begin(body)
                elif isinstance(body, Batch):
                    self._add_batch(body)
                elif isinstance(body, Sketches):
                    self._add_sketches(body)
                elif isinstance(body, Events):
                    for event in body.events:
                        self._add_event(event)
                if at.wall_ms:
                    self._put(LAST_REPORT, (), at.wall_ms / 1000)

    def snapshot(self) -> Snapshot:
        """Return what there is now."""
        with self._lock:
            families = {
                family: {key: one.copy() if isinstance(one, Durations) else one for key, one in series.items()}
                for family, series in self._series.items()
                if series
            }
            return Snapshot(self._birth, tuple(self._models), families, self.dropped)

    def _begin(self, birth: Birth) -> None:
        """Take the names and schemas of a birth; bins of a model that has others now begin anew."""
        before = {} if self._birth is None else dict(zip(self._models, self._birth.slots, strict=True))
        names = [slot.name for slot in birth.slots]
        self._models = [
            name if names.count(name) == 1 else f"{name}-{place}" for place, name in enumerate(names)
        ]  # a label that two slots share would add up what does not belong together
        self._birth, self._schemas = birth, {schema_hash(schema): schema for schema in birth.schemas}
        for model, slot in zip(self._models, birth.slots, strict=True):
            if model in before and before[model].reference != slot.reference:
                self._forget_bins(model)

    def _model(self, slot: int) -> str:
        return self._models[slot] if slot < len(self._models) else str(slot)

    def _add_batch(self, batch: Batch) -> None:
        schema = self._schemas.get(batch.schema)
        if schema is None:
            self.dropped += 1
            return
        for metric, column in zip(schema, batch.columns, strict=False):
            values = [] if column is None else [value for value in column.values if value is not None]
            if column is not None and values:
                self._add_column(metric, column, values)

    def _add_column(self, metric: Metric, column: Column, values: Sequence[float]) -> None:
        family, places = family_of(metric)
        places += metric.scale if column.kind == INTEGERS else 0
        labels = () if metric.slot is None else (self._model(metric.slot),)
        if family.kind == GAUGES:
            self._put(family, labels, scaled(values[-1], places))
        else:
            added = scaled(sum(values), places)
            self._count(family, labels, added if 0 < added < math.inf else 0)  # a step back is no count

    def _add_sketches(self, body: Sketches) -> None:
        model = self._model(body.slot)
        for name, sketch in body.sketches.items():
            kind, _, tensor = name.partition("/")
            if isinstance(sketch, LogSketch):
                self._add_durations(model, kind, sketch)
            elif isinstance(sketch, BinSketch):
                self._add_bins(model, kind, tensor, sketch)
            else:
                self._add_categories(model, kind, tensor, sketch)

    def _add_durations(self, model: str, kind: str, sketch: LogSketch) -> None:
        stage = kind.removesuffix("_seconds")
        key = self._key(DURATIONS, (model, stage), Durations()) if stage != kind else None
        if key is None:
            self.dropped += 1
            return
        held = self._series[DURATIONS][key]
        assert isinstance(held, Durations)
        held.add(sketch)

    def _add_bins(self, model: str, kind: str, tensor: str, sketch: BinSketch) -> None:
        family = _counted(kind, "bin")
        for place, count in enumerate(sketch.counts):
            self._count(family, (model, tensor, str(place)), count)
        if sketch.nonfinite:
            self._count(family, (model, tensor, "nonfinite"), sketch.nonfinite)

    def _add_categories(self, model: str, kind: str, tensor: str, sketch: Categories) -> None:
        for value, count in sketch.counts.items():
            self._count(_counted(kind, "value"), (model, tensor, value or OTHER), count)

    def _add_event(self, event: Event) -> None:
        self._count(EVENTS, (str(event.severity), event.code), 1)
        if event.code == FAILED:
            for error, count in event.details.items():
                if isinstance(count, int) and count > 0:
                    self._count(FAILURES, (error,), count)

    def _count(self, family: Family, labels: tuple[str, ...], added: float) -> None:
        key = self._key(family, labels, 0)
        if key is not None:
            held = self._series[family][key]
            assert not isinstance(held, Durations)
            self._series[family][key] = held + added

    def _put(self, family: Family, labels: tuple[str, ...], value: float) -> None:
        key = self._key(family, labels, 0)
        if key == labels:
            self._series[family][key] = value

    def _key(self, family: Family, labels: tuple[str, ...], first: Value) -> tuple[str, ...] | None:
        """Return the labels to count under, after making the series; None where there is no room for it."""
        if self._families.setdefault(family.name, family) != family:
            self.dropped += 1  # two columns of one name that are not the same kind of thing
            return None
        series = self._series.setdefault(family, {})
        if labels in series:
            return labels
        group, full = labels[:-1], sum(map(len, self._series.values())) >= self._max_series
        if full or self._siblings[family, group] >= self._most_values:
            labels = (*group, OTHER) if family.kind == COUNTERS and labels else labels
            if labels in series:
                return labels
        if full:
            self.dropped += 1
            return None
        self._siblings[family, group] += 1
        series[labels] = first
        return labels

    def _forget_bins(self, model: str) -> None:
        for family, series in self._series.items():
            for labels in [one for one in series if family.labels[-1:] == ("bin",) and one[0] == model]:
                del series[labels]
                self._siblings[family, labels[:-1]] -= 1


def _counted(kind: str, what: str) -> Family:
    """Return the family of a kind of sketch, such as `input` or `class`, whose last label is `what`."""
    texts = {"bin": "Values by bin of the reference profile; 0 is below the first edge.", "value": "Answers by value."}
    known = kind if kind.replace("_", "").isalnum() and kind.isascii() else OTHER
    return Family(f"{known.lower()}_{what}s", COUNTERS, texts[what], ("model", "tensor", what))
