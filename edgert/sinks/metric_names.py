"""Names of metrics in base units: what Prometheus and OpenTelemetry call a column of a schema."""

import re
from dataclasses import dataclass

from edgert.record import COUNTER, Metric

COUNTERS, GAUGES, HISTOGRAMS, INFO = "counter", "gauge", "histogram", "info"

_SUFFIXES = {"s": ("seconds", 0), "ms": ("seconds", 3), "B": ("bytes", 0), "degC": ("celsius", 0), "%": ("ratio", 2)}
"""A unit -> its base unit as names end with it, and how many decimal places smaller it is."""

_OF_KINDS = r"(_(total|count|sum|bucket|created|info))+$"
"""Ends of names that say what kind of metric it is; here the kind does."""

UCUM = {"seconds": "s", "bytes": "By", "celsius": "Cel", "ratio": "1", "": "1"}
"""The base unit -> its code in the Unified Code for Units of Measure."""


@dataclass(frozen=True)
class Family:
    """Metrics of one name. `stem` has neither prefix, unit nor `_total`; `labels` are the names of its labels."""

    stem: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""

    @property
    def name(self) -> str:
        """The name in Prometheus's manner, without `_total`."""
        return "_".join(part for part in ("edgert", self.stem, self.unit) if part)


def family_of(metric: Metric) -> tuple[Family, int]:
    """Return what a column of a schema is called, and how many decimal places its unit is below the base unit."""
    kind = COUNTERS if metric.kind == COUNTER else GAUGES
    name = re.sub(r"[^a-z0-9_]", "_", metric.name.lower()).strip("_")
    name = re.sub(_OF_KINDS, "", name) or "unnamed"
    unit, places = _SUFFIXES.get(metric.unit, ("", 0))
    if metric.unit == "1" and kind == GAUGES and name.endswith("_ratio"):
        unit = "ratio"
    stem = name.removesuffix(f"_{unit}") if unit else name
    labels = () if metric.slot is None else ("model",)
    return Family(stem, kind, f"{metric.name} of the device's schema.", labels, unit), places


def scaled(value: float, places: int) -> float:
    """Return value * 10^-places; an integer stays one where it can."""
    factor: int = 10 ** abs(places)
    return value / factor if places > 0 else value * factor
