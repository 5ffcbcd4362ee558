"""A sink that sends metrics to an OpenTelemetry collector by OTLP over HTTP, from a thread of its own.

What the series are is left to `totals`, bytes and HTTP to the OpenTelemetry SDK and its exporter (extra `otel`).
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from edgert.errors import BadInput, MissingExtra
from edgert.sinks.durations import BOUNDS_S, Durations
from edgert.sinks.metric_names import COUNTERS, GAUGES, UCUM, Family
from edgert.sinks.sink import Items
from edgert.sinks.totals import Snapshot, Totals, Value

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import Metric, MetricsData

log = logging.getLogger("edgert")


class OpenTelemetry:
    """Sends what all reports add up to, after each, to `url`, as http://127.0.0.1:4318/v1/metrics.

    It never waits: at most `queue` reports wait for the collector, the oldest goes first, `dropped` counts those that
    were not sent. Since values are cumulative, the next one that arrives makes up for them. Headers and certificates
    are those of the exporter's own environment variables, OTEL_EXPORTER_OTLP_HEADERS and the like.
    """

    def __init__(self, url: str, *, timeout_s: float = 10.0, queue: int = 32, max_series: int = 1000) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise BadInput(f"'{url}' is no address of a collector", "write http://HOST:4318/v1/metrics")
        try:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        except ImportError as exc:
            raise MissingExtra(
                f"OpenTelemetry needs {exc.name}, which is not installed", "pip install 'edgert[otel]'"
            ) from exc
        logging.getLogger("opentelemetry.exporter").addHandler(
            logging.NullHandler()
        )  # it logs every failure; see _send
        self.sent = self.dropped = 0
        self._url, self._totals, self._begun_ns = url, Totals(max_series), time.time_ns()
        self._exporter = OTLPMetricExporter(endpoint=url, timeout=timeout_s)
        self._waiting, self._most = deque[tuple[int, Snapshot]](), queue
        self._wake, self._closing, self._told = threading.Condition(), False, False
        self._thread = threading.Thread(target=self._run, name="edgert-otel", daemon=True)
        self._thread.start()

    def __call__(self, items: Items) -> None:
        """Add a report up, and leave the sum for the thread."""
        self._totals.add(items)
        told = (time.time_ns(), self._totals.snapshot())
        with self._wake:
            if len(self._waiting) >= self._most:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(told)
            self._wake.notify()

    def close(self, timeout_s: float = 3.0) -> None:
        """Send what waits, in `timeout_s` at most."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout_s)
        self._exporter.shutdown()  # ends the pauses between attempts
        with self._wake:
            self.dropped += len(self._waiting)
            self._waiting.clear()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closing:
                    self._wake.wait()
                if not self._waiting:
                    return
                at_ns, told = self._waiting.popleft()
            self._send(at_ns, told)

    def _send(self, at_ns: int, told: Snapshot) -> None:
        from opentelemetry.sdk.metrics.export import MetricExportResult

        try:
            went = self._exporter.export(metrics_data(told, min(self._begun_ns, at_ns), at_ns))
            why = "" if went is MetricExportResult.SUCCESS else "the collector does not take it"
        except Exception as exc:  # noqa: BLE001 - the exporter is another's code, and its thread must go on
            why = f"{type(exc).__name__}: {exc}"
        with self._wake:
            self.sent += not why
            self.dropped += bool(why)
        if why and not self._told:
            log.warning("reports to %s are dropped, which is told once: %s", self._url, why)
            self._told = True


def metrics_data(told: Snapshot, begun_ns: int, at_ns: int) -> "MetricsData":
    """Return the sums as OpenTelemetry has them: cumulative, of one resource, the device and its models."""
    from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    metrics = [_metric(family, series, begun_ns, at_ns) for family, series in told.families.items()]
    scope = ScopeMetrics(InstrumentationScope("edgert"), metrics, "")
    return MetricsData([ResourceMetrics(Resource(_attributes(told)), [scope], "")])


def _attributes(told: Snapshot) -> dict[str, str]:
    """Return who the device is; of several models the words are joined, in the order of their slots."""
    found = {"service.name": "edgert"}
    birth = told.birth
    if birth is None:
        return found
    found |= {"service.namespace": birth.tenant, "service.instance.id": birth.device, "device.id": birth.device}
    found["service.version"] = birth.agent.rpartition("/")[2]
    known = {"arch": "host.arch", "cpu": "host.cpu.model.name", "system": "os.type", "profile": "edgert.profile"}
    found |= {known[key]: word for key, word in birth.hardware.items() if key in known and word}
    found["edgert.model.name"] = ",".join(told.models)
    for word, name in (("version", "version"), ("digest", "digest"), ("variant", "variant"), ("used", "provider")):
        found[f"edgert.model.{name}"] = ",".join(getattr(slot, word) for slot in birth.slots)
    return found


def _metric(family: Family, series: Mapping[tuple[str, ...], Value], begun_ns: int, at_ns: int) -> "Metric":
    from opentelemetry.sdk.metrics import export

    points: list[Any] = []
    for labels, value in series.items():
        attributes = dict(zip(family.labels, labels, strict=True))
        if isinstance(value, Durations):
            facts: Any = (sum(value.counts), value.total_s, value.counts, BOUNDS_S, None, None)
            points.append(export.HistogramDataPoint(attributes, begun_ns, at_ns, *facts))
        else:
            points.append(export.NumberDataPoint(attributes, begun_ns, at_ns, value))
    cumulative = export.AggregationTemporality.CUMULATIVE
    data: Any
    if family.kind == COUNTERS:
        data = export.Sum(points, cumulative, is_monotonic=True)
    elif family.kind == GAUGES:
        data = export.Gauge(points)
    else:
        data = export.Histogram(points, cumulative)
    return export.Metric(f"edgert.{family.stem}", family.help, UCUM[family.unit], data)
