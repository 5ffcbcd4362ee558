"""The link of an agent: the outbox, what publishes it, the orders that come down, and the budget of the day."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from edgert.agent.budget import MESSAGE_BYTES, STEPS, Budget, Planner, Spent
from edgert.agent.config import AgentConfig
from edgert.agent.identity import birth
from edgert.agent.window import LinkState, reduced
from edgert.errors import MissingExtra
from edgert.host import written_bytes
from edgert.record import Body, Event, Events, Presence, Record, Stamp
from edgert.runtime.model import Model
from edgert.stamps import stamp_now

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


class Linked:
    """The outbox, the thread that publishes what is in it, and the orders that come down."""

    def __init__(self, config: AgentConfig, model: Callable[[], Model], orders: Orders) -> None:
        try:
            from edgert.link.mqtt import Connection
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
        will = encode_presence(Presence(False, self._outbox.epoch, self._outbox.boot))
        connection = Connection(link.broker, address.device, (address.status, will))
        self._control = _control(config, orders)
        self._publisher = Publisher(
            self._outbox,
            address,
            connection,
            lambda: birth(address, model(), keys),
            on_message=self._control.hear if self._control is not None else None,
            allowance=self._allowance,
        )
        if self._control is not None:
            self._control.trust_time(self._publisher.server_ms)
        self._planner = Planner(config.budget, config.window_s, time.monotonic())
        self.detail = self._planner.detail

    def start(self) -> None:
        """Begin to publish, and put in force again what was ordered before a restart."""
        self._publisher.start()
        self._answer(self._control.resume() if self._control is not None else [])

    def put(self, items: Items) -> None:
        """Store stamps and bodies."""
        self._outbox.put(items)

    def report(self, items: Items) -> None:
        """Store a window's report, as much of it as the budget has room for."""
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
            event = Event("report_detail", 1 if self._planner.step else 0, 0, facts)
            self.put([(stamp_now(), Events((event,)))])

    def follow(self) -> None:
        """Do what the server ordered since the last time."""
        if self._control is not None:
            self._answer(self._control.follow())

    def state(self) -> LinkState:
        """Return what the link tells about itself."""
        depth, done = self._outbox.depth(), self._publisher.counters
        return LinkState(depth.records, depth.bytes, depth.oldest_s, done.sent_bytes, done.connects, done.resent)

    def spend(self, budget: Budget, window_s: float) -> None:
        """Plan with another budget and window from now on."""
        self._planner = Planner(budget, window_s, time.monotonic())
        self.detail = self._planner.detail

    def rebirth(self) -> None:
        """Say again who the device is."""
        self._publisher.rebirth()

    def close(self) -> int:
        """Send the last, for a moment, and return how many records still wait for the server."""
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
