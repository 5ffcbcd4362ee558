"""The tables [[sink]] of a device's TOML file: one dataclass for each kind. What they do is left to `edgert.sinks`."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from edgert.link.settings import Broker
from edgert.strict_toml import Table

BROKER_KEYS = ("url", "username", "password_file", "ca_file", "cert_file", "key_file", "version")


@dataclass(frozen=True)
class JsonlConfig:
    """Lines of JSON in a file, and one old file, of `max_bytes` each."""

    path: Path
    max_bytes: int


@dataclass(frozen=True)
class PrometheusConfig:
    """`/metrics` at an address, a text file for node_exporter, or both."""

    listen: str | None
    textfile: Path | None


@dataclass(frozen=True)
class OtelConfig:
    """An OpenTelemetry collector, by OTLP over HTTP."""

    url: str


@dataclass(frozen=True)
class CallableSinkConfig:
    """A function `module:function` of the user's."""

    function: str


@dataclass(frozen=True)
class SparkplugConfig:
    """Sparkplug B, to a broker that may be another than the link's; `primary_host` is the host it is born for."""

    broker: Broker
    client_id: str
    primary_host: str


@dataclass(frozen=True)
class HomeAssistantConfig:
    """Home Assistant's MQTT discovery, to a broker that may be another than the link's."""

    broker: Broker
    client_id: str


SinkConfig = JsonlConfig | PrometheusConfig | OtelConfig | CallableSinkConfig | SparkplugConfig | HomeAssistantConfig


def parse_sink(table: Table, folder: Path) -> SinkConfig:
    """Return what a table says; paths are relative to `folder`. BadInput names the key of what is wrong."""
    if not table.has("kind"):
        raise table.error("kind", "is missing", f"write one of {', '.join(_KINDS)}")
    return _KINDS[table.word("kind", tuple(_KINDS))](table, folder)


def parse_broker(table: Table, folder: Path) -> Broker:
    """Return where a broker is; the password stands in a file of its own, so that this one holds no secret."""

    def file(key: str) -> Path | None:
        return folder / table.text(key) if table.has(key) else None

    url = table.text("url")
    try:
        address = urlsplit(url)
        known = address.scheme in ("mqtt", "mqtts") and bool(address.hostname) and address.port != 0
    except ValueError:  # a port that is no number, a bracket too many
        known = False
    if not known:
        raise table.error("url", f"is '{url[:80]}'", "write mqtt://host:1883 or mqtts://host:8883")
    return Broker(
        url=url,
        username=table.text("username") if table.has("username") else "",
        password_file=file("password_file"),
        ca_file=file("ca_file"),
        cert_file=file("cert_file"),
        key_file=file("key_file"),
        version=table.integer("version", 4, 5) if table.has("version") else 5,
    )


def _jsonl(table: Table, folder: Path) -> SinkConfig:
    table.allow(("kind", "path", "max_bytes"), required=("path",))
    most = table.integer("max_bytes", 10_000, 1 << 40) if table.has("max_bytes") else 10_000_000
    return JsonlConfig(folder / table.text("path"), most)


def _prometheus(table: Table, folder: Path) -> SinkConfig:
    table.allow(("kind", "listen", "textfile"))
    textfile = folder / table.text("textfile") if table.has("textfile") else None
    listen = table.text("listen") if table.has("listen") else None
    return PrometheusConfig(listen if listen or textfile else "127.0.0.1:9464", textfile)


def _otel(table: Table, _: Path) -> SinkConfig:
    table.allow(("kind", "url"), required=("url",))
    return OtelConfig(table.text("url"))


def _callable(table: Table, _: Path) -> SinkConfig:
    table.allow(("kind", "function"), required=("function",))
    return CallableSinkConfig(table.text("function"))


def _sparkplug(table: Table, folder: Path) -> SinkConfig:
    table.allow(("kind", *BROKER_KEYS, "client_id", "primary_host"), required=("url",))
    return SparkplugConfig(parse_broker(table, folder), _text(table, "client_id"), _text(table, "primary_host"))


def _home_assistant(table: Table, folder: Path) -> SinkConfig:
    table.allow(("kind", *BROKER_KEYS, "client_id"), required=("url",))
    return HomeAssistantConfig(parse_broker(table, folder), _text(table, "client_id"))


def _text(table: Table, key: str) -> str:
    return table.text(key) if table.has(key) else ""


_KINDS = {
    "jsonl": _jsonl,
    "prometheus": _prometheus,
    "otel": _otel,
    "callable": _callable,
    "sparkplug": _sparkplug,
    "home-assistant": _home_assistant,
}
