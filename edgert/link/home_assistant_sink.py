"""A sink that shows the device in Home Assistant: discovery, newest values and availability, all retained.

It shows what is newest, and keeps no history: who must not lose anything uses `publisher`.
"""

from edgert.link.home_assistant import (
    OFFLINE,
    ONLINE,
    State,
    availability_topic,
    discovery,
    discovery_topic,
    state_topic,
)
from edgert.link.live import Counters, Items, Live, Outgoing
from edgert.link.settings import Broker
from edgert.record import Birth
from edgert.topics import Address


class HomeAssistantSink:
    """Shows what is `put`; the first item is a birth. `client_id` is another than that of the device's own link."""

    def __init__(self, broker: Broker, address: Address, *, client_id: str = "") -> None:
        self._live = Live(broker, client_id or f"{address.device}.home_assistant", HomeAssistantSession(address))

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


class HomeAssistantSession:
    """What a device says when: discovery and availability at each connection, one state for all that came together."""

    is_leaving = False

    def __init__(self, address: Address) -> None:
        self._address = address
        self._birth: Birth | None = None
        self._state: State | None = None
        self._is_connected = False

    @property
    def is_ready(self) -> bool:
        """Whether there is a connection."""
        return self._is_connected

    def will(self) -> Outgoing:
        """Begin another connection, whose end makes the device unavailable."""
        self._is_connected = False
        return self._said(availability_topic(self._address), OFFLINE)

    def subscriptions(self) -> list[str]:
        """Nothing is heard: what is retained outlives a restart of Home Assistant."""
        return []

    def connected(self) -> list[Outgoing]:
        """Say all there is: the broker may have forgotten it."""
        self._is_connected = True
        return self._introduced()

    def heard(self, topic: str, payload: bytes) -> list[Outgoing]:
        """Nothing is asked for, and nothing is answered."""
        return []

    def due(self) -> list[Outgoing]:
        """Nothing is said of itself."""
        return []

    def told(self, items: Items) -> list[Outgoing]:
        """Return the state after all items, and the discovery document where there is a new birth."""
        said, is_new = list[Outgoing](), False
        for _, body in items:
            if isinstance(body, Birth):
                self._birth, self._state = body, State(body)
                said, is_new = self._introduced(), False
            elif self._state is not None:
                is_new |= self._state.take(body)
        if is_new and self._state is not None:
            said.append(self._said(state_topic(self._address), self._state.payload()))
        return said

    def farewell(self) -> list[Outgoing]:
        """Say that the device goes: a good disconnection brings no will."""
        return [self._said(availability_topic(self._address), OFFLINE)]

    def _introduced(self) -> list[Outgoing]:
        if self._birth is None or self._state is None:
            return []
        return [
            self._said(discovery_topic(self._address), discovery(self._address, self._birth)),
            self._said(state_topic(self._address), self._state.payload()),
            self._said(availability_topic(self._address), ONLINE),
        ]

    def _said(self, topic: str, payload: bytes) -> Outgoing:
        return Outgoing(topic, payload, qos=1, retain=True)
