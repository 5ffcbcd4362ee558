"""Where reports go: the link, and the sinks beside it."""

from collections.abc import Callable

from edgert.agent.budget import Budget
from edgert.agent.config import AgentConfig
from edgert.agent.identity import birth
from edgert.agent.linked import Items, Linked, Orders
from edgert.agent.sink_config import (
    CallableSinkConfig,
    HomeAssistantConfig,
    JsonlConfig,
    OtelConfig,
    PrometheusConfig,
    SinkConfig,
    SparkplugConfig,
)
from edgert.agent.window import Detail, LinkState
from edgert.errors import MissingExtra
from edgert.record import Event, Events
from edgert.runtime.model import Model
from edgert.sinks.fan_out import FanOut
from edgert.sinks.sink import Sink
from edgert.stamps import stamp_now
from edgert.topics import Address


class Reports:
    """Hands reports to the link, which may shorten them, and to the sinks, which get all of it.

    Opening raises MissingExtra where the packages of one of them are not installed.
    """

    def __init__(self, config: AgentConfig, model: Callable[[], Model], orders: Orders) -> None:
        self._address, self._model = config.address, model
        self._link = Linked(config, model, orders) if config.link is not None else None
        named = {f"{place}-{_word(one)}": _open(one, config.address) for place, one in enumerate(config.sinks)}
        self._sinks = FanOut(named)
        self.wanted = self._link is not None or bool(named)

    @property
    def detail(self) -> Detail:
        """How much the next report tells the server."""
        return Detail() if self._link is None else self._link.detail

    def start(self) -> None:
        """Say who the device is, and begin to publish."""
        self._tell_sinks_birth()
        if self._link is not None:
            self._link.start()

    def put(self, items: Items) -> None:
        """Hand stamps and bodies on."""
        if self._link is not None:
            self._link.put(items)
        self._sinks(items)

    def tell(self, *events: Event) -> None:
        """Report events."""
        self.put([(stamp_now(), Events(events))])

    def report(self, items: Items) -> None:
        """Hand a window's report on."""
        if self._link is not None:
            self._link.report(items)
        self._sinks(items)

    def follow(self) -> None:
        """Do what the server ordered since the last time."""
        if self._link is not None:
            self._link.follow()

    def state(self) -> LinkState:
        """Return what the link tells about itself."""
        return LinkState() if self._link is None else self._link.state()

    def spend(self, budget: Budget, window_s: float) -> None:
        """Plan with another budget and window from now on."""
        if self._link is not None:
            self._link.spend(budget, window_s)

    def rebirth(self) -> None:
        """Say again who the device is."""
        self._tell_sinks_birth()
        if self._link is not None:
            self._link.rebirth()

    def close(self) -> int:
        """Let go, and return how many records still wait for the server."""
        self._sinks.close()
        return 0 if self._link is None else self._link.close()

    def _tell_sinks_birth(self) -> None:
        if self._address is not None:
            self._sinks([(stamp_now(), birth(self._address, self._model()))])


def _word(config: SinkConfig) -> str:
    return type(config).__name__.removesuffix("Config").lower()


def _open(config: SinkConfig, address: Address | None) -> Sink:
    """Return the sink that a table names; its packages are imported only now."""
    assert address is not None, "parse_agent_config checks it"
    if isinstance(config, JsonlConfig):
        from edgert.sinks.jsonl import JsonLines

        return JsonLines(config.path, max_bytes=config.max_bytes)
    if isinstance(config, PrometheusConfig):
        from edgert.sinks.prometheus import Prometheus

        return Prometheus(config.listen, textfile=config.textfile)
    if isinstance(config, OtelConfig):
        from edgert.sinks.otel import OpenTelemetry

        return OpenTelemetry(config.url)
    if isinstance(config, CallableSinkConfig):
        from edgert.sinks.callable import callable_sink

        return callable_sink(config.function)
    return _broker_sink(config, address)


def _broker_sink(config: SparkplugConfig | HomeAssistantConfig, address: Address) -> Sink:
    try:
        from edgert.link.home_assistant_sink import HomeAssistantSink
        from edgert.link.sparkplug_sink import SparkplugSink
    except ImportError as exc:
        message = f"a sink that talks to a broker needs {exc.name}, which is not installed"
        raise MissingExtra(message, "pip install 'edgert[mqtt]'") from exc
    if isinstance(config, HomeAssistantConfig):
        return HomeAssistantSink(config.broker, address, client_id=config.client_id)
    return SparkplugSink(config.broker, address, client_id=config.client_id, primary_host=config.primary_host)
