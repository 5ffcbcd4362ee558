"""A sink that publishes reports to a broker as Sparkplug B, beside or instead of the link of docs/wire-format.md.

Its promise is weaker. Sparkplug sends at QoS 0 and knows no commit: what is under way when a connection breaks is
lost, and `seq`, which counts modulo 256, cannot tell a loss of 256 messages from none. Only bodies that had not been
told wait for the next connection, at most 256, in memory: a restart forgets them. Who must not lose anything uses
`publisher`.
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from edgert.errors import BadInput
from edgert.link.live import Counters, Items, Live, Outgoing
from edgert.link.settings import Broker
from edgert.link.sparkplug import EdgeNode, announced, is_rebirth, marked, state_topic, told, topic
from edgert.link.sparkplug_payload import SparkplugMetric, decode_payload
from edgert.record import Birth
from edgert.topics import Address

log = logging.getLogger("edgert")

REBIRTH_S = 1.0
"""However often a rebirth is asked for, there is one in so many seconds."""

_MAX_STATE = 4096


class SparkplugSink:
    """Publishes what is `put` as edge node `device` of group `tenant`; the first item is a birth.

    `client_id` is another than that of the device's own link, which is `device`. With `primary_host` the device is born
    only while that host says that it is online. `bd_seq` is the last number of an earlier run, where there is one.
    """

    def __init__(
        self, broker: Broker, address: Address, *, client_id: str = "", primary_host: str = "", bd_seq: int = -1
    ) -> None:
        session = SparkplugSession(address, primary_host, bd_seq)
        self._live = Live(broker, client_id or f"{address.device}.sparkplug", session)

    @property
    def counters(self) -> Counters:
        """What was sent, and what nobody got."""
        return self._live.counters

    def put(self, items: Items) -> None:
        """Take items; what comes before a birth has no names, and is left out."""
        self._live.put(items)

    def __call__(self, items: Items) -> None:
        """Take items, as sinks are called."""
        self.put(items)

    def close(self) -> int:
        """Send what waits, say that the device goes, and return how many bodies nobody got."""
        return self._live.close()


class SparkplugSession:
    """What an edge node says when: the order of birth, data and death. `now_ms` is the wall clock."""

    def __init__(
        self,
        address: Address,
        primary_host: str = "",
        bd_seq: int = -1,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address, self._now_ms, self._clock = address, now_ms, clock
        self._node = EdgeNode(bd_seq)
        self._birth: Birth | None = None
        self._host_topic = state_topic(primary_host) if primary_host else ""
        self._host_time_ms, self._host_is_online = -1, False
        self._is_connected = self._is_born = self._is_leaving = self._is_asked = False
        self._born_s = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether the device may be born, or is."""
        return self._is_connected and not self._is_leaving and (self._host_is_online or not self._host_topic)

    @property
    def is_leaving(self) -> bool:
        """Whether the primary host went."""
        return self._is_leaving

    def will(self) -> Outgoing:
        """Begin another connection: its death, which has the `bdSeq` of its births."""
        self._is_connected = self._is_born = self._is_leaving = self._is_asked = self._host_is_online = False
        self._node.next_connection()
        return self._death()

    def subscriptions(self) -> list[str]:
        """Return the topics of commands and of the primary host."""
        return [topic(self._address, "NCMD"), *([self._host_topic] if self._host_topic else [])]

    def connected(self) -> list[Outgoing]:
        """Be born, if who the device is is known and the host is there."""
        self._is_connected = True
        return self._be_born()

    def heard(self, name: str, payload: bytes) -> list[Outgoing]:
        """Take a command or the state of the host; what is neither is left alone."""
        if name == self._host_topic:
            return self._host_said(payload)
        try:
            self._is_asked |= is_rebirth(decode_payload(payload))
        except BadInput as exc:
            log.warning("a Sparkplug command was left alone: %s", exc.message)
        return []

    def due(self) -> list[Outgoing]:
        """Be born again, if it was asked for."""
        if not self._is_asked or not self._is_born or self._clock() - self._born_s < REBIRTH_S:
            return []
        return self._be_born()

    def told(self, items: Items) -> list[Outgoing]:
        """Return the data of items. A birth among them, or a name that the last birth did not have, is a birth."""
        said, metrics = list[Outgoing](), list[SparkplugMetric]()
        for at, body in items:
            if isinstance(body, Birth):
                said += self._data(metrics)
                metrics, self._birth = [], body
                self._node.begin(announced(body))
                said += self._be_born()
            elif self._birth is not None:
                try:
                    metrics += told(self._birth, at, body, self._now_ms())
                except BadInput as exc:
                    log.warning("a report was left out of Sparkplug: %s", exc.message)
        return said + self._data(metrics)

    def farewell(self) -> list[Outgoing]:
        """Say that the device goes: a good disconnection brings no will."""
        return [self._death()] if self._is_born else []

    def _data(self, metrics: list[SparkplugMetric]) -> list[Outgoing]:
        if not metrics:
            return []
        bare = [replace(one, value=None, timestamp=None) for one in metrics]
        born = self._be_born() if self._node.announce(bare) else []
        name = topic(self._address, "NDATA")
        data = [Outgoing(name, one) for one in self._node.data(marked(metrics), self._now_ms())]
        self._node.keep(metrics)
        return born + data

    def _be_born(self) -> list[Outgoing]:
        if self._birth is None or not self.is_ready:
            return []
        self._is_born, self._is_asked, self._born_s = True, False, self._clock()
        return [Outgoing(topic(self._address, "NBIRTH"), self._node.birth(self._now_ms()))]

    def _death(self) -> Outgoing:
        return Outgoing(topic(self._address, "NDEATH"), self._node.death(self._now_ms()))

    def _host_said(self, payload: bytes) -> list[Outgoing]:
        try:
            state = json.loads(payload[:_MAX_STATE])
            is_online, time_ms = state["online"], state["timestamp"]
        except (ValueError, TypeError, KeyError, RecursionError):
            log.warning("the state of the Sparkplug host was left alone: it is none")
            return []
        if not isinstance(is_online, bool) or not isinstance(time_ms, int) or time_ms < self._host_time_ms:
            return []
        self._host_time_ms, was_online, self._host_is_online = time_ms, self._host_is_online, is_online
        if is_online and not was_online:
            return self._be_born()
        if was_online and not is_online:
            self._is_leaving = True
            return self.farewell()
        return []
