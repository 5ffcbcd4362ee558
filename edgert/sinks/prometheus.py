"""A sink that Prometheus reads: by HTTP at `/metrics`, or from a file for node_exporter's textfile collector.

What the series are is left to `totals`, their text to `prometheus_client` (extra `prometheus`).
"""

from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from edgert.disk import disk_failed, replaced_file
from edgert.errors import BadInput, EnvironmentFailed, MissingExtra
from edgert.sinks.durations import BOUNDS_S, Durations
from edgert.sinks.metric_names import COUNTERS, GAUGES, Family
from edgert.sinks.sink import Items
from edgert.sinks.totals import DEVICE, DROPPED, MODEL, Snapshot, Totals, Value

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

LOOPBACK = "127.0.0.1:9464"


class Prometheus:
    """Serves at `listen` ("HOST:PORT", None: nowhere) and writes `textfile` (None: none) with each report.

    BadInput for a `listen` that is none, EnvironmentFailed where the port is taken or the file cannot be written.
    """

    def __init__(self, listen: str | None = LOOPBACK, *, textfile: Path | None = None, max_series: int = 1000) -> None:
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError as exc:
            raise MissingExtra(
                "metrics for Prometheus need prometheus-client, which is not installed",
                "pip install 'edgert[prometheus]'",
            ) from exc
        self._totals, self._textfile, self._server = Totals(max_series), textfile, None
        self._registry: Any = CollectorRegistry()
        self._registry.register(self)
        self.port = 0
        if listen is not None:
            host, port = _address(listen)
            try:
                self._server, self._thread = start_http_server(port, host, self._registry)
            except OSError as exc:
                raise EnvironmentFailed(f"cannot listen at {listen}: {exc}", "name another HOST:PORT") from exc
            self.port = self._server.server_port

    def __call__(self, items: Items) -> None:
        """Add a report up, and write the file."""
        self._totals.add(items)
        if self._textfile is None:
            return
        from prometheus_client import generate_latest

        try:
            with replaced_file(self._textfile) as file:
                file.write(generate_latest(self._registry))
        except OSError as exc:
            raise disk_failed(exc, self._textfile) from exc

    def collect(self) -> "Iterator[Metric]":
        """Yield what a scrape gets; prometheus_client calls it."""
        from prometheus_client.metrics_core import CounterMetricFamily, InfoMetricFamily

        told = self._totals.snapshot()
        for family, facts in ((DEVICE, _device(told)), (MODEL, _models(told))):
            if facts:
                info = InfoMetricFamily(family.name, family.help)
                for fact in facts:
                    info.add_metric([], fact)
                yield info
        for family, series in told.families.items():
            yield _metric(family, series)
        yield CounterMetricFamily(DROPPED.name, DROPPED.help, told.dropped)

    def close(self) -> None:
        """Stop serving; the file stays."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None


def _address(listen: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{listen}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None or parts.path:
        raise BadInput(f"'{listen}' is no address to listen at", f"write HOST:PORT, as {LOOPBACK}")
    return host, port


def _metric(family: Family, series: Mapping[tuple[str, ...], Value]) -> "Metric":
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    if family.kind in (COUNTERS, GAUGES):
        kind = CounterMetricFamily if family.kind == COUNTERS else GaugeMetricFamily
        plain = kind(family.name, family.help, labels=family.labels)
        for labels, value in series.items():
            assert not isinstance(value, Durations)
            plain.add_metric(labels, value)
        return plain
    found = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    for labels, value in series.items():
        assert isinstance(value, Durations)
        bounds = [*(repr(bound) for bound in BOUNDS_S), "+Inf"]
        buckets = list(zip(bounds, accumulate(value.counts), strict=True))
        found.add_metric(labels, buckets, value.total_s)
    return found


def _device(told: Snapshot) -> list[dict[str, str]]:
    birth = told.birth
    if birth is None:
        return []
    hardware = {key: birth.hardware.get(key, "") for key in ("profile", "arch", "cpu", "system")}
    return [{"tenant": birth.tenant, "device": birth.device, "agent": birth.agent, **hardware}]


def _models(told: Snapshot) -> list[dict[str, str]]:
    slots = () if told.birth is None else told.birth.slots
    words = ("version", "digest", "profile", "variant", "reason")
    return [
        {
            "model": model,
            **{word: getattr(slot, word) for word in words},
            "provider": slot.used,
            "requested": ",".join(slot.requested),
        }
        for model, slot in zip(told.models, slots, strict=True)
    ]
