"""What Prometheus reads: real scrapes over HTTP, and files, read by the parsers of prometheus_client."""

import inspect
import ipaddress
import socket
import threading
import urllib.error
import urllib.request

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from edgert.errors import BadInput, EnvironmentFailed
from edgert.record import BinSketch, Categories, Sketches
from edgert.sinks.prometheus import Prometheus
from tests.link.brokers import free_port
from tests.sinks.reports import AT, HARDWARE, born, window, with_slots

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def sink():
    made = Prometheus("127.0.0.1:0")
    yield made
    made.close()


def scrape(sink: Prometheus, accept: str = "text/plain") -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{sink.port}/metrics", headers={"Accept": accept})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        return answer.read().decode()


def values(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return all samples of a text; a series that is there twice fails."""
    found = {}
    for family in parse_text(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def value(text: str, name: str, **labels: str) -> float:
    return values(text)[name, frozenset(labels.items())]


def test_scrape_has_counters_gauges_and_who_the_device_is(sink):
    """Values of two windows, read by a real parser over real HTTP."""
    sink(born())
    sink(window())
    sink(window())
    text = scrape(sink)
    assert value(text, "edgert_inferences_total", model="digits") == 20
    assert value(text, "edgert_resident_memory_bytes") == 50_000_000
    assert value(text, "edgert_cpu_ratio") == 0.25
    assert value(text, "edgert_temperature_celsius") == 43.1
    assert value(text, "edgert_class_values_total", model="digits", tensor="y", value="7") == 6
    assert value(text, "edgert_class_values_total", model="digits", tensor="y", value="other") == 4
    assert value(text, "edgert_input_bins_total", model="digits", tensor="x", bin="2") == 12
    assert value(text, "edgert_inference_failures_total", error="BadInput") == 2
    assert value(text, "edgert_series_dropped_total") == 0
    device = {"tenant": "acme", "device": "press-7", "agent": "edgert/0.1.0", **HARDWARE}
    assert value(text, "edgert_device_info", **device) == 1
    model = {"model": "digits", "version": "3", "digest": "sha256:ab", "profile": "x86-avx2", "variant": "fp32"}
    provider = dict.fromkeys(("provider", "requested"), "CPUExecutionProvider")
    assert value(text, "edgert_model_info", reason="", **model, **provider) == 1


def test_scrape_has_one_histogram_of_all_windows(sink):
    """Cumulative buckets with fixed bounds; the count is exact, the sum is estimated, which its help says."""
    sink(born())
    sink(window())
    sink(window())
    text, run = scrape(sink), {"model": "digits", "stage": "run"}
    name = "edgert_inference_duration_seconds"
    assert value(text, f"{name}_bucket", le="0.0025", **run) == 0
    assert value(text, f"{name}_bucket", le="0.005", **run) == 18
    assert value(text, f"{name}_bucket", le="0.5", **run) == 20
    assert value(text, f"{name}_bucket", le="+Inf", **run) == value(text, f"{name}_count", **run) == 20
    assert value(text, f"{name}_sum", **run) == pytest.approx(18 * 0.004 + 2 * 0.3, rel=0.021)
    assert len([key for key in values(text) if key[0] == f"{name}_bucket"]) <= 20
    assert "estimated" in next(family for family in parse_text(text) if family.name == name).documentation


def test_openmetrics_that_a_prometheus_server_asks_for_is_the_same(sink):
    """Both formats hold the same samples, and the stricter parser takes all of it."""
    sink(born())
    sink(window())
    plain = values(scrape(sink))
    families = list(parse_openmetrics(scrape(sink, OPENMETRICS)))
    found = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
    assert found == plain


def test_scrape_before_any_report_is_empty_but_valid(sink):
    """Prometheus may come first."""
    assert value(scrape(sink), "edgert_series_dropped_total") == 0


def test_labels_with_quotes_newlines_and_any_letters_come_through(sink):
    """Names of classes are the user's."""
    odd = 'a "b"\\\n\u4e2d'
    sink([(AT, Sketches(0, 1, {f"class/{odd}": Categories({odd: 1}), "od d/x": BinSketch(0, (1,))}))])
    text = scrape(sink)
    assert value(text, "edgert_class_values_total", model="0", tensor=odd, value=odd) == 1
    assert value(text, "edgert_other_bins_total", model="0", tensor="x", bin="0") == 1


def test_model_that_was_replaced_has_no_info_any_more(sink):
    """`edgert_model_info` tells what runs now."""
    sink(born())
    sink(born(with_slots("letters")))
    models = {dict(labels)["model"] for name, labels in values(scrape(sink)) if name == "edgert_model_info"}
    assert models == {"letters"}


def test_scrapes_while_reports_come_are_each_of_one_moment(sink):
    """Every scrape has whole windows: classes and calls of the same number of them."""
    sink(born())
    stop = threading.Event()

    def feed():
        while not stop.is_set():
            sink(window())

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        for _ in range(20):
            found = values(scrape(sink))
            calls = found.get(("edgert_inferences_total", frozenset({("model", "digits")})), 0)
            classes = sum(one for (name, _), one in found.items() if name == "edgert_class_values_total")
            assert classes == calls / 2
    finally:
        stop.set()
        thread.join()


def test_textfile_is_replaced_whole_with_each_report(tmp_path):
    """The file is what a scrape would be, nothing is left beside it, and no port is opened."""
    path = tmp_path / "edgert.prom"
    sink = Prometheus(None, textfile=path)
    sink(born())
    sink(window())
    assert value(path.read_text(), "edgert_inferences_total", model="digits") == 10
    sink(window())
    assert value(path.read_text(), "edgert_inferences_total", model="digits") == 20
    assert [one.name for one in tmp_path.iterdir()] == ["edgert.prom"]
    assert sink.port == 0
    sink.close()


def test_textfile_that_cannot_be_written_says_so_and_keeps_counting(tmp_path):
    """The error is one that the fan-out counts; the next file that can be written has all of it."""
    folder = tmp_path / "later"
    sink = Prometheus(None, textfile=folder / "edgert.prom")
    with pytest.raises(EnvironmentFailed):
        sink([*born(), *window()])
    folder.mkdir()
    sink(window())
    assert value((folder / "edgert.prom").read_text(), "edgert_inferences_total", model="digits") == 20


@pytest.mark.parametrize(
    "listen", ["", "9464", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", "http://a:1", "a:1/metrics"]
)
def test_address_that_is_none_is_refused(listen):
    """HOST:PORT and nothing else."""
    with pytest.raises(BadInput, match="no address"):
        Prometheus(listen)


def test_port_that_is_taken_is_an_error_with_a_remedy():
    """Two agents at one address."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(EnvironmentFailed, match="cannot listen"):
            Prometheus(f"127.0.0.1:{other.getsockname()[1]}")


def test_closed_sink_gives_its_port_back():
    """After `close` nobody answers, and another one can listen there."""
    port = free_port()
    sink = Prometheus(f"127.0.0.1:{port}")
    scrape(sink)
    sink.close()
    with pytest.raises(urllib.error.URLError):
        scrape(sink)
    again = Prometheus(f"127.0.0.1:{port}")
    scrape(again)
    again.close()


def test_it_listens_on_the_loopback_unless_told_otherwise():
    """The default is not seen from outside."""
    host, _, _ = inspect.signature(Prometheus).parameters["listen"].default.partition(":")
    assert ipaddress.ip_address(host).is_loopback
