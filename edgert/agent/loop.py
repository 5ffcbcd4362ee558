"""The loop of a device: take an input, run the bundle, count, and hand a report per window to the sinks.

Inference never waits for the link: reports go into the outbox, which a thread of its own drains.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from edgert import strict_json
from edgert.agent.config import AgentConfig
from edgert.agent.inputs import Item, Reader, open_source
from edgert.agent.reports import Reports, open_reports
from edgert.agent.window import Counts, Window
from edgert.errors import EdgertError, EnvironmentFailed
from edgert.host import notify_service
from edgert.record import Event
from edgert.runtime.inputs import summarise
from edgert.runtime.model import Model, load
from edgert.runtime.prepare import open_preparer
from edgert.runtime.telemetry import Telemetry

log = logging.getLogger("edgert")

IDLE_S = 0.2


@dataclass(frozen=True)
class Summary:
    """What an agent did until it was stopped."""

    calls: int
    errors: int
    windows: int
    waiting: int


def run_agent(config: AgentConfig, stop: threading.Event, *, ready: Callable[[], None] = lambda: None) -> Summary:
    """Run until `stop` is set or the inputs end; everything that was measured is stored then.

    `ready` is called once the bundle is open. Raises what `load` raises, BadInput for a source that cannot be, and
    MissingExtra where the packages of the link or of a source are not installed.
    """
    with load(config.bundle, device=config.device, threads=config.threads) as model:
        loop = _Loop(config, model, open_reports(config, model))
        try:
            ready()
            loop.reports.tell(_started(model))
            loop.run(stop)
        finally:
            loop.flush()
            waiting = loop.reports.close()
    return Summary(loop.counts.calls, loop.counts.errors, loop.windows, waiting)


class _Loop:
    """One run of the agent: the model, what was counted, and the window that is open."""

    def __init__(self, config: AgentConfig, model: Model, reports: Reports) -> None:
        reference = strict_json.loads(model.bundle.file(model.bundle.manifest.reference).read_bytes(), "reference.json")
        assert isinstance(reference, dict)
        self.counts, self.windows, self.reports = Counts(), 0, reports
        self._config, self._model = config, model
        self._telemetry = Telemetry(reference)
        self._window = Window(self._telemetry, self.counts, config.bundle.parent)

    def run(self, stop: threading.Event) -> None:
        """Serve inputs until `stop`, or until there are no more."""
        preparer = open_preparer(self._model.bundle.manifest.task, self._model.inputs, self._model.bundle.file)
        source = open_source(self._config.input, Reader(self._model.inputs, preparer))
        try:
            while not stop.is_set() and not source.ended:
                item = source.take(IDLE_S)
                if item is not None:
                    self._serve(item)
                self._tick()
                notify_service("WATCHDOG=1")
        finally:
            source.close()

    def flush(self) -> None:
        """End the window and report it."""
        self.windows += 1
        self.reports.put(self._window.reports())

    def _tick(self) -> None:
        """Take a sample, and end the window, where it is time."""
        now = time.monotonic()
        if now - self._window.sampled >= self._config.sample_s:
            self._window.sample()
        if now - self._window.begun >= self._config.window_s:
            self.flush()

    def _serve(self, item: Item) -> None:
        """Run one input; a failure is counted and logged, and the next one is taken."""
        begun = time.perf_counter()
        try:
            feeds = item.read()
            read = time.perf_counter()
            outputs = self._model.run(feeds)
        except (EdgertError, OSError) as exc:
            self.counts.errors += 1
            self._telemetry.failed(type(exc).__name__)
            log.warning("%s: %s", item.name, getattr(exc, "message", exc))
            if item.answer is not None:
                item.answer(exc if isinstance(exc, EdgertError) else EnvironmentFailed(str(exc)))
            return
        done = time.perf_counter()
        if item.answer is not None:
            item.answer(outputs)
        self.counts.calls += 1
        if self._config.output is not None:
            line = {"input": item.name, "seconds": done - read, "outputs": summarise(outputs)}
            with self._config.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        around = {"pre": read - begun, "post": time.perf_counter() - done}
        if item.waited_s is not None:
            around["queue"] = item.waited_s
        self._telemetry.called(done - read, feeds, outputs, **around)


def _started(model: Model) -> Event:
    told = model.explain()
    golden = told["golden"]
    facts: dict[str, str | int | float | bool | None] = {"provider": told["provider"], "variant": told["variant"]}
    if golden is not None:
        facts["golden_cosine"] = min(golden["cosine"].values(), default=1.0)
    if told["fallback"] is not None:
        facts |= {"wanted": str(told["fallback"]["from"]), "reason": str(told["fallback"]["reason"])[:500]}
    return Event("model_loaded", 1 if told["fallback"] else 0, 0, facts)
