"""The loop of a device: take an input, run the bundle, count, and hand a report per window to the link.

Inference never waits for the link: reports go into the outbox, which a thread of its own drains.
"""

import hashlib
import importlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgert import __version__, strict_json
from edgert.agent_config import AgentConfig, InputConfig
from edgert.columns import INTEGERS, Column
from edgert.errors import BadInput, EdgertError, MissingExtra
from edgert.host import host_facts, notify_service, rss_bytes, temperature_c
from edgert.record import COUNTER, Batch, Birth, Body, Event, Events, Metric, Schema, Slot, Stamp, Sync
from edgert.runtime.inputs import Array, read_inputs, summarise
from edgert.runtime.model import Model, load
from edgert.runtime.prepare import Preparer, open_preparer
from edgert.runtime.telemetry import Telemetry
from edgert.wire import schema_hash

log = logging.getLogger("edgert")

Feeds = Mapping[str, Array]
IDLE_S = 0.2
LAST_WORDS_S = 3.0
"""How long an agent that was stopped waits for the server to take its last report; after that it stays stored."""

SCHEMA: Schema = (
    Metric("inferences_total", "1", 0, COUNTER, 0),
    Metric("errors_total", "1", 0, COUNTER, 0),
    Metric("resident_memory_bytes", "B", -4),
    Metric("cpu_ratio", "1", 3),
    Metric("temperature_celsius", "degC", 1),
    Metric("disk_free_bytes", "B", -6),
)
"""What is sampled in each window; a value is an integer times 10^-scale."""


@dataclass(frozen=True)
class Summary:
    """What an agent did until it was stopped."""

    calls: int
    errors: int
    windows: int
    waiting: int


class Reporter:
    """Where windows go: a list of stamps and bodies, numbered by whoever takes them. See `link_of` for MQTT."""

    def __init__(self, put: Callable[[list[tuple[Stamp, Body]]], object], close: Callable[[], int]) -> None:
        self.put, self.close = put, close


def run_agent(config: AgentConfig, stop: threading.Event, *, ready: Callable[[], None] = lambda: None) -> Summary:
    """Run until `stop` is set or the inputs end; everything that was measured is stored then.

    `ready` is called once the bundle is open. Raises what `load` raises, BadInput for a source that cannot be, and
    MissingExtra where the link's packages are not installed.
    """
    with load(config.bundle, device=config.device, threads=config.threads) as model:
        reference = strict_json.loads(model.bundle.file(model.bundle.manifest.reference).read_bytes(), "reference.json")
        assert isinstance(reference, dict)
        reporter = link_of(config, model) if config.link is not None else Reporter(lambda items: None, lambda: 0)
        window = _Window(config, reporter, Telemetry(reference))
        try:
            ready()
            window.tell(_started(model))
            preparer = open_preparer(model.bundle.manifest.task, model.inputs, model.bundle.file)
            for name, feeds in _inputs(config.input, model, preparer, stop, window):
                _serve(config, model, window, name, feeds)
                notify_service("WATCHDOG=1")
        finally:
            window.flush()
            waiting = reporter.close()
    return Summary(window.calls, window.errors, window.flushed, waiting)


def link_of(config: AgentConfig, model: Model) -> Reporter:
    """Open the outbox and begin to publish; closing returns how many records still wait."""
    try:
        from edgert.link.mqtt import Broker, Connection
        from edgert.link.outbox import Limits, Outbox
        from edgert.link.publisher import Publisher
        from edgert.record import Presence
        from edgert.wire import encode_presence
    except ImportError as exc:
        raise MissingExtra(f"the link needs {exc.name}, which is not installed", "pip install 'edgert[mqtt]'") from exc
    link, address = config.link, config.address
    assert link is not None and address is not None, "parse_agent_config checks it"
    outbox = Outbox(link.outbox, Limits(max_bytes=link.max_bytes, max_age_s=link.max_age_s))
    names = ("url", "username", "password_file", "ca_file", "cert_file", "key_file", "version")
    broker = Broker(**{name: getattr(link, name) for name in names})
    will = encode_presence(Presence(False, outbox.epoch, outbox.boot))
    connection = Connection(broker, address.device, (address.status, will))
    publisher = Publisher(outbox, address, connection, lambda: birth(config, model))
    publisher.start()

    def close() -> int:
        publisher.drain(LAST_WORDS_S)
        publisher.stop()
        left = outbox.depth().records
        outbox.close()
        return left

    return Reporter(outbox.put, close)


def birth(config: AgentConfig, model: Model) -> Birth:
    """Return who this device is and what it runs."""
    assert config.address is not None
    manifest, told, facts = model.bundle.manifest, model.explain(), host_facts()
    fallback = told["fallback"]
    slot = Slot(
        name=manifest.name,
        version=manifest.version,
        digest=model.bundle.digest,
        profile=manifest.profile,
        variant=told["variant"],
        requested=[placement.provider for placement in manifest.placements],
        used=told["provider"],
        reason="" if fallback is None else str(fallback["reason"])[:500],
        reference=_reference_hash(model),
    )
    hardware = {"arch": facts.arch, "cpu": facts.cpu_name, "system": facts.system, "profile": manifest.profile}
    caps = {"wire": [1], "merges": False, "max_bytes": 65_536}
    address = config.address
    return Birth(address.tenant, address.device, f"edgert/{__version__}", hardware, (SCHEMA,), (slot,), caps)


class _Window:
    """What is measured now: samples every `sample_s`, and the model's counts, which become records every `window_s`."""

    def __init__(self, config: AgentConfig, reporter: Reporter, telemetry: Telemetry) -> None:
        self.telemetry = telemetry
        self.calls = self.errors = self.flushed = 0
        self._config, self._reporter = config, reporter
        self._rows = list[tuple[float, tuple[int | None, ...]]]()
        self._counted = (0, 0)
        self._begun = self._sampled = time.monotonic()
        self._cpu = (time.process_time(), self._begun)

    def tell(self, event: Event) -> None:
        """Report an event."""
        self._reporter.put([(_now(), Events((event,)))])

    def tick(self) -> None:
        """Take a sample, and end the window, where it is time."""
        now = time.monotonic()
        if now - self._sampled >= self._config.sample_s:
            self._sample(now)
        if now - self._begun >= self._config.window_s:
            self.flush()

    def flush(self) -> None:
        """Report what there is since the last time."""
        now = time.monotonic()
        self._sample(now)
        told, rows = self.telemetry.window(), self._rows
        self._rows, self._begun, self.flushed = [], now, self.flushed + 1
        if self._config.link is None:
            return
        first = rows[0][0]
        after = tuple(int((at - first) * 1000) for at, _ in rows)
        columns = [Column(INTEGERS, tuple(row[place] for _, row in rows)) for place in range(len(SCHEMA))]
        stamp = _now(-(now - first))
        items: list[tuple[Stamp, Body]] = [(stamp, Batch(schema_hash(SCHEMA), after, columns))]
        if told.sketches.sketches:
            items.append((stamp, told.sketches))
        if told.errors:
            items.append((stamp, Events((Event("inference_failed", 2, 0, dict(told.errors)),))))
        self._reporter.put(items)

    def _sample(self, now: float) -> None:
        cpu, since = time.process_time(), max(now - self._cpu[1], 1e-3)
        warmth = temperature_c()
        self._rows.append(
            (
                now,
                (
                    self.calls - self._counted[0],
                    self.errors - self._counted[1],
                    rss_bytes() // 10_000,
                    int((cpu - self._cpu[0]) / since * 1000),
                    None if warmth is None else int(warmth * 10),
                    shutil.disk_usage(self._config.bundle.parent).free // 1_000_000,
                ),
            )
        )
        self._counted, self._cpu, self._sampled = (self.calls, self.errors), (cpu, now), now


def _serve(config: AgentConfig, model: Model, window: _Window, name: str, feeds: Feeds) -> None:
    """Run one input; a failure is counted and logged, and the next one is taken."""
    begun = time.perf_counter()
    try:
        outputs = model.run(feeds)
    except EdgertError as exc:
        window.errors += 1
        window.telemetry.failed(type(exc).__name__)
        log.warning("%s: %s", name, exc.message)
        return
    spent = time.perf_counter() - begun
    window.calls += 1
    window.telemetry.called(spent, feeds, outputs)
    if config.output is not None:
        line = {"input": name, "seconds": spent, "outputs": summarise(outputs)}
        with config.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _inputs(
    source: InputConfig, model: Model, preparer: Preparer, stop: threading.Event, window: _Window
) -> Iterator[tuple[str, Feeds]]:
    """Yield a name and feeds for each input, `every_s` apart, until `stop`."""
    if source.kind == "callable":
        items: Iterator[tuple[str, Callable[[], Feeds]]] = _from_callable(source.function)
    else:
        assert source.folder is not None
        items = _from_folder(source.folder, model, preparer, stop, window)
    for name, read in items:
        due = time.monotonic() + source.every_s
        try:
            yield name, read()
        except (EdgertError, OSError) as exc:
            window.errors += 1
            window.telemetry.failed(type(exc).__name__)
            log.warning("%s: %s", name, getattr(exc, "message", exc))
        window.tick()
        while not stop.is_set() and time.monotonic() < due:
            stop.wait(min(IDLE_S, max(due - time.monotonic(), 0)))
            window.tick()
        if stop.is_set():
            return


def _from_callable(name: str) -> Iterator[tuple[str, Callable[[], Feeds]]]:
    module, _, function = name.partition(":")
    try:
        made = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as exc:
        raise BadInput(
            f"the input '{name}' cannot be imported: {exc}", "write module:function, a generator of feeds"
        ) from exc
    for number, feeds in enumerate(made()):
        yield f"{name}[{number}]", lambda feeds=feeds: feeds  # type: ignore[misc]


def _from_folder(
    folder: Path, model: Model, preparer: Preparer, stop: threading.Event, window: _Window
) -> Iterator[tuple[str, Callable[[], Feeds]]]:
    """Yield the files of a folder by name, then those that appear; one that is being written is waited for."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder", "make it, or name another one in [input]")
    done, sizes = set[str](), dict[str, int]()
    while not stop.is_set():
        found = False
        for path in sorted(folder.iterdir()):
            if path.name in done or path.name.startswith(".") or not path.is_file():
                continue
            size = path.stat().st_size
            if time.time() - path.stat().st_mtime < IDLE_S and sizes.get(path.name) != size:
                sizes[path.name] = size
                continue
            done.add(path.name)
            found = True
            yield path.name, lambda path=path: _read(path, model, preparer)  # type: ignore[misc]
            if stop.is_set():
                return
        if not found:
            stop.wait(IDLE_S)
            window.tick()
            notify_service("WATCHDOG=1")


def _read(path: Path, model: Model, preparer: Preparer) -> Feeds:
    if preparer.takes_sound and path.suffix.lower() in (".wav", ".flac", ".ogg", ".mp3"):
        return preparer.sound(path)
    if preparer.takes_picture and path.suffix.lower() not in (".npy", ".npz"):
        return preparer.picture(path)
    return read_inputs([path], model.inputs)


def _started(model: Model) -> Event:
    told = model.explain()
    golden = told["golden"]
    facts: dict[str, str | int | float | bool | None] = {"provider": told["provider"], "variant": told["variant"]}
    if golden is not None:
        facts["golden_cosine"] = min(golden["cosine"].values(), default=1.0)
    if told["fallback"] is not None:
        facts |= {"wanted": str(told["fallback"]["from"]), "reason": str(told["fallback"]["reason"])[:500]}
    return Event("model_loaded", 1 if told["fallback"] else 0, 0, facts)


def _reference_hash(model: Model) -> bytes:
    return hashlib.sha256(model.bundle.file(model.bundle.manifest.reference).read_bytes()).digest()[:8]


def _now(ago_s: float = 0.0) -> Stamp:
    return Stamp(max(0, int((time.monotonic() + ago_s) * 1000)), int((time.time() + ago_s) * 1000), Sync.RTC)
