"""What a collector of OpenTelemetry gets, decoded from the bytes of a real HTTP request."""

import logging
import socket
import time

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE, Metric

from edgert.errors import BadInput
from edgert.sinks.otel import OpenTelemetry
from tests.link.brokers import free_port
from tests.sinks.collector import Collector
from tests.sinks.reports import born, window, with_slots


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    """The exporter's HTTP library would ask a proxy of the environment also for the loopback."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def collector():
    made = Collector()
    yield made
    made.close()


def attributes(pairs) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in pairs}


def points(metric: Metric) -> dict[frozenset, object]:
    """Return the points of a metric by their attributes."""
    data = getattr(metric, metric.WhichOneof("data"))
    return {frozenset(attributes(point.attributes).items()): point for point in data.data_points}


def point(metric: Metric, **labels: str) -> object:
    return points(metric)[frozenset(labels.items())]


def test_collector_gets_cumulative_values_of_all_windows(collector):
    """Counters, gauges and bins after two windows, in the units of UCUM."""
    sink = OpenTelemetry(collector.url)
    sink(born())
    sink(window())
    sink(window())
    sink.close()
    assert (sink.sent, sink.dropped, len(collector.requests)) == (3, 0, 3)
    told = collector.metrics()
    calls = told["edgert.inferences"]
    assert (calls.unit, calls.sum.is_monotonic) == ("1", True)
    assert calls.sum.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
    assert point(calls, model="digits").as_int == 20
    assert told["edgert.resident_memory"].unit == "By"
    assert point(told["edgert.resident_memory"]).as_int == 50_000_000
    assert point(told["edgert.cpu"]).as_double == 0.25
    assert (told["edgert.temperature"].unit, point(told["edgert.temperature"]).as_double) == ("Cel", 43.1)
    assert point(told["edgert.class_values"], model="digits", tensor="y", value="7").as_int == 6
    assert point(told["edgert.input_bins"], model="digits", tensor="x", bin="2").as_int == 12
    one = point(calls, model="digits")
    assert 0 < one.start_time_unix_nano <= one.time_unix_nano


def test_collector_gets_a_histogram_with_fixed_bounds(collector):
    """Counts per bucket, their sum, and the estimated sum of seconds; no minimum that nobody knows."""
    sink = OpenTelemetry(collector.url)
    sink(born())
    sink(window())
    sink.close()
    metric = collector.metrics()["edgert.inference_duration"]
    found = point(metric, model="digits", stage="run")
    assert metric.unit == "s"
    assert (found.count, sum(found.bucket_counts), len(found.bucket_counts)) == (10, 10, len(found.explicit_bounds) + 1)
    assert found.bucket_counts[list(found.explicit_bounds).index(0.005)] == 9
    assert found.sum == pytest.approx(9 * 0.004 + 0.3, rel=0.021)
    assert not found.HasField("min")


def test_resource_is_the_device_and_its_models(collector):
    """Who it is, and what runs; of two models the words are joined."""
    sink = OpenTelemetry(collector.url)
    sink(born())
    sink(born(with_slots("det", "rec")))
    sink.close()
    first, second = (attributes(request.resource_metrics[0].resource.attributes) for request in collector.requests)
    assert first["service.name"] == "edgert"
    assert first["service.version"] == "0.1.0"
    assert (first["service.namespace"], first["service.instance.id"]) == ("acme", "press-7")
    assert (first["edgert.model.name"], first["edgert.model.digest"]) == ("digits", "sha256:ab")
    assert first["edgert.model.provider"] == "CPUExecutionProvider"
    assert (first["host.arch"], first["os.type"], first["edgert.profile"]) == ("x86_64", "linux", "x86-avx2")
    assert (second["edgert.model.name"], second["edgert.model.version"]) == ("det,rec", "3,3")


def test_collector_that_never_answers_never_keeps_the_caller(collector):
    """While the first request hangs a hundred reports are given: the queue is bounded, the rest counted as dropped."""
    collector.answering.clear()
    sink = OpenTelemetry(collector.url, queue=4)
    sink(born())
    assert collector.asked.wait(20)
    for _ in range(100):
        sink(window())
    assert (sink.sent, sink.dropped) == (0, 96)
    collector.answering.set()
    sink.close(timeout_s=20)
    assert (sink.sent, sink.dropped) == (5, 96)
    assert point(collector.metrics()["edgert.inferences"], model="digits").as_int == 1000


def test_collector_that_is_not_there_is_told_once_and_closing_does_not_wait_for_it(caplog):
    """Nobody listens: all is dropped and counted, after one warning."""
    sink = OpenTelemetry(f"http://127.0.0.1:{free_port()}/v1/metrics", timeout_s=0.2)
    with caplog.at_level(logging.WARNING, logger="edgert"):
        for _ in range(3):
            sink(window())
        sink.close(timeout_s=20)
    assert (sink.sent, sink.dropped) == (0, 3)
    assert [record.name for record in caplog.records].count("edgert") == 1


def test_closing_while_a_request_hangs_counts_what_was_not_sent():
    """A server that accepts and says nothing: `close` ends, and the reports behind are dropped."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        sink = OpenTelemetry(f"http://127.0.0.1:{silent.getsockname()[1]}/v1/metrics", timeout_s=30)
        sink(born())
        peer, _ = silent.accept()
        sink(window())
        sink(window())
        sink.close(timeout_s=0.1)
        assert (sink.sent, sink.dropped) == (0, 2)
        peer.close()


def test_collector_that_refuses_and_comes_back_gets_the_sum(collector):
    """A report that was refused is not sent again; the next one has its counts in it."""
    sink = OpenTelemetry(collector.url)
    collector.status = 400
    sink(born())
    sink(window())
    for _ in range(2000):
        if sink.dropped == 2:
            break
        time.sleep(0.01)
    collector.status = 200
    sink(window())
    sink.close()
    assert (sink.sent, sink.dropped) == (1, 2)
    assert point(collector.metrics()["edgert.inferences"], model="digits").as_int == 20


@pytest.mark.parametrize("url", ["", "127.0.0.1:4318", "grpc://127.0.0.1:4317", "http://"])
def test_url_that_is_none_is_refused(url):
    """OTLP over HTTP goes to an http or https address."""
    with pytest.raises(BadInput, match="no address"):
        OpenTelemetry(url)
