"""Several sinks as one: one that fails stops neither the others nor who calls. What a sink does is left to it."""

import logging
from collections.abc import Callable, Mapping

from edgert.sinks.sink import Items, Sink

log = logging.getLogger("edgert")


class FanOut:
    """Hands each report to all sinks, in order; itself a sink that never raises.

    `failures` counts by the sink's name; each kind of failure of a sink is logged the first time.
    """

    def __init__(self, sinks: Mapping[str, Sink]) -> None:
        self.failures = dict.fromkeys(sinks, 0)
        self._sinks, self._told = dict(sinks), set[tuple[str, type[Exception]]]()

    def __call__(self, items: Items) -> None:
        """Give every sink the report."""
        for name, sink in self._sinks.items():
            self._try(name, lambda sink=sink: sink(items))  # type: ignore[misc]

    def close(self) -> None:
        """Close every sink that can be closed."""
        for name, sink in self._sinks.items():
            self._try(name, getattr(sink, "close", lambda: None))

    def _try(self, name: str, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as exc:  # noqa: BLE001 - a sink is anybody's code, and inference goes on whatever it does
            self.failures[name] += 1
            if (name, type(exc)) not in self._told:
                self._told.add((name, type(exc)))
                what = f"{type(exc).__name__}: {getattr(exc, 'message', exc)}"
                log.warning("sink '%s' failed, which is told once: %s", name, what)
