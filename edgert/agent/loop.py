"""The loop of a device: take an input, run the bundle, count, and hand a report per window to the sinks.

Inference never waits for the link: reports go into the outbox, which a thread of its own drains.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgert import strict_json
from edgert.agent.config import AgentConfig, parse_rates
from edgert.agent.input_config import CallableConfig, FolderConfig
from edgert.agent.inputs import Item, Reader, open_source
from edgert.agent.linked import Act
from edgert.agent.log_lines import MOST_LINES, LogLinesKept
from edgert.agent.reports import Reports
from edgert.agent.slots import find_bundle
from edgert.agent.window import Counts, Window
from edgert.errors import BadInput, EdgertError, EnvironmentFailed
from edgert.host import notify_service
from edgert.record import Event
from edgert.runtime.inputs import summarise
from edgert.runtime.model import Model, load
from edgert.runtime.prepare import open_preparer
from edgert.runtime.telemetry import Telemetry

log = logging.getLogger("edgert")

IDLE_S = 0.2
SLOT = "main"
"""The one slot of an agent, in the desired state."""


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
    loop = _Loop(config, _load(config, config.bundle))
    try:
        loop.reports.start()
        ready()
        loop.reports.tell(_started(loop.model))
        loop.run(stop)
    finally:
        loop.flush()
        waiting = loop.reports.close()
        loop.model.close()
    return Summary(loop.counts.calls, loop.counts.errors, loop.windows, waiting)


class _Loop:
    """One run of the agent: the model, what was counted, the window that is open, and what the server may ask."""

    def __init__(self, config: AgentConfig, model: Model) -> None:
        self.model, self.counts, self.windows = model, Counts(), 0
        self.commands: dict[str, Act] = {"rebirth": self._rebirth, "report": self._report, "log": self._log}
        self._config, self._window_s, self._budget = config, config.window_s, config.budget
        self._reopen, self._log_lines = False, LogLinesKept()
        log.addHandler(self._log_lines)
        self._telemetry, self._reader = _telemetry(model, config), _reader(model)
        self.reports = Reports(config, lambda: self.model, self)
        self._window = Window(self._telemetry, self.counts, config.bundle.parent, self.reports.state)

    def run(self, stop: threading.Event) -> None:
        """Serve inputs until `stop`, or until there are no more."""
        source = open_source(self._config.input, self._reader)
        try:
            while not stop.is_set() and not source.ended:
                if self._reopen:
                    source.close()
                    source, self._reopen = open_source(self._config.input, self._reader), False
                item = source.take(IDLE_S)
                if item is not None:
                    self._serve(item)
                self.counts.dropped, self.counts.queued = source.dropped, source.queued
                self._tick()
                notify_service("WATCHDOG=1")
        finally:
            source.close()
            log.removeHandler(self._log_lines)

    def flush(self) -> None:
        """End the window and report it."""
        self.windows += 1
        if self.reports.wanted:
            self.reports.report(self._window.reports())

    def desire(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Put in force what of a desired state this device can do; return what is in force."""
        window_s, level, budget = parse_rates(dict(state), "the desired state")
        self._window_s = self._window_s if window_s is None else window_s
        if level:
            log.setLevel(level.upper())
        if budget is not None or window_s is not None:
            self._budget = self._config.budget if budget is None else budget
            self.reports.spend(self._budget, self._window_s)
        found: dict[str, Any] = {"window_s": self._window_s, "log_level": level or "as it was"}
        slots = state.get("slots")
        if isinstance(slots, Mapping):
            try:
                self._run_slots(slots)
            except EdgertError as exc:
                found["error"] = exc.message[:500]
            found["slots"] = {SLOT: self.model.bundle.digest}
        return found

    def _run_slots(self, slots: Mapping[str, Any]) -> None:
        """Run the bundle that is wanted; where it cannot be opened the one that runs goes on."""
        if list(slots) != [SLOT]:
            raise BadInput(f"slots are {', '.join(map(str, slots))}; there is one here, '{SLOT}'", "name that one")
        if slots[SLOT] == self.model.bundle.digest:
            return
        model = _load(self._config, find_bundle(self._config.library, slots[SLOT]))
        reader = _reader(model)
        if not reader.fits(self._reader):
            model.close()
            raise BadInput("the bundle takes other inputs than the one that runs", "change [input] for it, and restart")
        self.flush()
        before, self.model = self.model, model
        before.close()
        self._telemetry = _telemetry(model, self._config)
        self._window.watch(self._telemetry)
        self._reader.use(reader)
        self._reopen = not isinstance(self._config.input, FolderConfig | CallableConfig)
        self.reports.rebirth()
        self.reports.tell(_started(model))

    def _rebirth(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        self.reports.rebirth()
        return {}

    def _report(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        self.flush()
        return {}

    def _log(self, args: Mapping[str, Any]) -> Mapping[str, Any]:
        """Report the newest log lines: at most `lines` of them."""
        wanted = args.get("lines", MOST_LINES)
        records = self._log_lines.records(wanted if isinstance(wanted, int) else MOST_LINES)
        self.reports.put(records)
        return {"records": len(records)}

    def _tick(self) -> None:
        """Follow orders, take a sample, and end the window, where it is time."""
        self.reports.follow()
        now, windows = time.monotonic(), self.reports.detail.windows
        if now - self._window.sampled >= min(self._config.sample_s, self._window_s) * windows:
            self._window.sample()
        if now - self._window.begun >= self._window_s * windows:
            self.flush()

    def _serve(self, item: Item) -> None:
        """Run one input; a failure is counted and logged, and the next one is taken."""
        begun = time.perf_counter()
        try:
            feeds = item.read()
            read = time.perf_counter()
            outputs = self.model.run(feeds)
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


def _load(config: AgentConfig, path: Path) -> Model:
    return load(path, device=config.device, threads=config.threads)


def _telemetry(model: Model, config: AgentConfig) -> Telemetry:
    reference = strict_json.loads(model.bundle.file(model.bundle.manifest.reference).read_bytes(), "reference.json")
    assert isinstance(reference, dict)
    return Telemetry(reference, share=config.budget.cpu_share)


def _reader(model: Model) -> Reader:
    return Reader(model.inputs, open_preparer(model.bundle.manifest.task, model.inputs, model.bundle.file))


def _started(model: Model) -> Event:
    told = model.explain()
    golden = told["golden"]
    facts: dict[str, str | int | float | bool | None] = {"provider": told["provider"], "variant": told["variant"]}
    if golden is not None:
        facts["golden_cosine"] = min(golden["cosine"].values(), default=1.0)
    if told["fallback"] is not None:
        facts |= {"wanted": str(told["fallback"]["from"]), "reason": str(told["fallback"]["reason"])[:500]}
    return Event("model_loaded", 1 if told["fallback"] else 0, 0, facts)
