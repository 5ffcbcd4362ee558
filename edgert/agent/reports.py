"""Where reports go: the sinks, the outbox and its link; how much they may tell; and who the device says it is."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from edgert import __version__
from edgert.agent.budget import MESSAGE_BYTES, STEPS, Budget, Planner, Spent
from edgert.agent.config import AgentConfig
from edgert.agent.window import SCHEMA, Detail, LinkState, reduced, stamp_now
from edgert.errors import MissingExtra
from edgert.host import host_facts, written_bytes
from edgert.record import Birth, Body, Event, Events, Presence, Record, Slot, Stamp
from edgert.runtime.model import Model

if TYPE_CHECKING:
    from edgert.agent.control import Control

LAST_WORDS_S = 3.0
"""How long an agent that was stopped waits for the server to take its last report; after that it stays stored."""

Items = Sequence[tuple[Stamp, Body]]
Act = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class Orders(Protocol):
    """What the loop does when the server asks."""

    @property
    def commands(self) -> Mapping[str, Act]: ...

    def desire(self, state: Mapping[str, Any]) -> Mapping[str, Any]: ...


class Reports:
    """What takes reports where nobody wants any; `Linked` is the other one."""

    wanted = False
    detail = Detail()

    def start(self) -> None:
        """Begin to publish, and put in force again what was ordered before a restart."""

    def put(self, items: Items) -> None:
        """Hand stamps and bodies on."""

    def tell(self, *events: Event) -> None:
        """Report events."""
        if events:
            self.put([(stamp_now(), Events(events))])

    def report(self, items: Items) -> None:
        """Hand a window's report on, as much of it as the budget has room for."""

    def follow(self) -> None:
        """Do what the server ordered since the last time."""

    def state(self) -> LinkState:
        """Return what the link tells about itself."""
        return LinkState()

    def spend(self, budget: Budget, window_s: float) -> None:
        """Plan with another budget and window from now on."""

    def rebirth(self) -> None:
        """Say again who the device is."""

    def close(self) -> int:
        """Let go, and return how many records still wait for the server."""
        return 0


def open_reports(config: AgentConfig, model: Callable[[], Model], orders: Orders) -> Reports:
    """Open what the configuration names; MissingExtra where its packages are not installed."""
    if config.link is None:
        return Reports()
    return Linked(config, model, orders)


class Linked(Reports):
    """The outbox, the thread that publishes what is in it, and the orders that come down."""

    wanted = True

    def __init__(self, config: AgentConfig, model: Callable[[], Model], orders: Orders) -> None:
        try:
            from edgert.link.mqtt import Broker, Connection
            from edgert.link.outbox import Outbox
            from edgert.link.publisher import Publisher
            from edgert.link.signing import open_signer
            from edgert.wire import encode, encode_presence
        except ImportError as exc:
            message = f"the link needs {exc.name}, which is not installed"
            raise MissingExtra(message, "pip install 'edgert[mqtt]'") from exc
        link, address = config.link, config.address
        assert link is not None and address is not None, "parse_agent_config checks it"
        self._encode = encode
        signer = open_signer(link.sign_key_file, address) if link.sign_key_file is not None else None
        keys = (signer.public_key,) if signer is not None else ()
        self._outbox = Outbox(link.outbox, link.limits, sign=signer.sign if signer is not None else None)
        names = ("url", "username", "password_file", "ca_file", "cert_file", "key_file", "version")
        broker = Broker(**{name: getattr(link, name) for name in names})
        will = encode_presence(Presence(False, self._outbox.epoch, self._outbox.boot))
        connection = Connection(broker, address.device, (address.status, will))
        self._control = _control(config, orders)
        self._publisher = Publisher(
            self._outbox,
            address,
            connection,
            lambda: birth(config, model(), keys),
            on_message=self._control.hear if self._control is not None else None,
            allowance=self._allowance,
        )
        if self._control is not None:
            self._control.trust_time(self._publisher.server_ms)
        self.spend(config.budget, config.window_s)

    def start(self) -> None:
        self._publisher.start()
        self._answer(self._control.resume() if self._control is not None else [])

    def put(self, items: Items) -> None:
        self._outbox.put(items)

    def report(self, items: Items) -> None:
        self._outbox.put(reduced(items, self.detail))
        sizes = dict[int, float]()
        if self._planner.budget.bytes_per_day is not None:
            sizes = {step: self._size(reduced(items, detail)) for step, detail in enumerate(STEPS)}
        if self._planner.reported(time.monotonic(), self._spent(), sizes):
            self.detail = self._planner.detail
            facts: dict[str, str | int | float | bool | None] = {
                "step": self._planner.step,
                "window_s": self._planner.window_s * self.detail.windows,
                "left_out": self.detail.left_out(),
            }
            if self._planner.reason:
                facts["because"] = self._planner.reason
            self.tell(Event("report_detail", 1 if self._planner.step else 0, 0, facts))

    def follow(self) -> None:
        if self._control is not None:
            self._answer(self._control.follow())

    def state(self) -> LinkState:
        depth, done = self._outbox.depth(), self._publisher.counters
        return LinkState(depth.records, depth.bytes, depth.oldest_s, done.sent_bytes, done.connects, done.resent)

    def spend(self, budget: Budget, window_s: float) -> None:
        self._planner = Planner(budget, window_s, time.monotonic())
        self.detail = self._planner.detail

    def rebirth(self) -> None:
        self._publisher.rebirth()

    def close(self) -> int:
        self._publisher.drain(LAST_WORDS_S)
        self._publisher.stop()
        left = self._outbox.depth().records
        self._outbox.close()
        return left

    def _answer(self, bodies: Sequence[Body]) -> None:
        if bodies:
            self._outbox.put([(stamp_now(), body) for body in bodies])

    def _size(self, items: Items) -> float:
        """Return how many bytes a report has on the wire, about."""
        records = (Record(bytes(8), 1 << 20, 1, stamp, body) for stamp, body in items)
        return sum(len(self._encode(record)) + MESSAGE_BYTES for record in records)

    def _spent(self) -> Spent:
        done = self._publisher.counters
        messages = done.sent + done.watermarks + 4 * done.connects
        flash = written_bytes() or 0
        return Spent(done.sent_bytes + MESSAGE_BYTES * messages, flash, done.cpu_s)

    def _allowance(self) -> float | None:
        return self._planner.left(time.monotonic(), self._spent())


def _control(config: AgentConfig, orders: Orders) -> "Control | None":
    """Return what follows orders; None where no key is known whose orders could be followed."""
    from edgert.agent.control import Control

    link, address = config.link, config.address
    assert link is not None and address is not None
    if not link.order_keys:
        return None
    path = None if link.outbox is None else link.outbox.with_name(link.outbox.name + ".orders")
    return Control(address, link.order_keys, path, orders.commands, orders.desire)


def birth(config: AgentConfig, model: Model, keys: Sequence[bytes] = ()) -> Birth:
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
    caps = {"wire": [1], "merges": True, "max_bytes": 65_536}
    address = config.address
    return Birth(address.tenant, address.device, f"edgert/{__version__}", hardware, (SCHEMA,), (slot,), caps, keys)


def _reference_hash(model: Model) -> bytes:
    return hashlib.sha256(model.bundle.file(model.bundle.manifest.reference).read_bytes()).digest()[:8]
