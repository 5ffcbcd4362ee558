"""Keeps a connection for a sink that tells only what is new; without outbox and watermark, what breaks is lost.

One thread of its own. What is said is left to a `Session`, which decides and does not act; what must not be lost goes
through `publisher`.
"""

import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgert.errors import EdgertError
from edgert.link.mqtt import Connected, Connection, Disconnected, Happening, Message, Subscribed, Taken
from edgert.link.publisher import REFUSED_BACKOFF_S, backoff_s
from edgert.link.settings import Broker
from edgert.record import Birth, Body, Stamp

Items = Sequence[tuple[Stamp, Body]]

MOST_WAITING = 256
"""So many bodies are kept while there is no connection; the oldest go first, and are counted."""

IN_FLIGHT = 8
ANSWER_S = 30.0
LAST_WORDS_S = 2.0
TICK_S = 0.2


@dataclass(frozen=True)
class Outgoing:
    """One message to publish."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False


class Session(Protocol):
    """Decides what is said; each method returns it. All are called by one thread."""

    @property
    def is_ready(self) -> bool:
        """Whether bodies may be told now; until then they wait."""

    @property
    def is_leaving(self) -> bool:
        """Whether this connection is to end once what was said is sent; another one follows."""

    def will(self) -> Outgoing:
        """Begin another connection, and return what the broker says when it breaks: at QoS 1."""

    def subscriptions(self) -> list[str]:
        """Return what is to be heard, at QoS 1."""

    def connected(self) -> list[Outgoing]: ...
    def heard(self, topic: str, payload: bytes) -> list[Outgoing]: ...
    def due(self) -> list[Outgoing]:
        """Return what is said now without anything having come."""

    def told(self, items: Items) -> list[Outgoing]: ...
    def farewell(self) -> list[Outgoing]: ...


@dataclass
class Counters:
    """What the sink did since the program began; `dropped` counts bodies and messages that nobody got."""

    connects: int = 0
    sent: int = 0
    dropped: int = 0
    last_error: str = ""


class Live:
    """Publishes what `session` says of the items that are put, until `close`. Nothing here makes the caller wait."""

    def __init__(
        self, broker: Broker, client_id: str, session: Session, chance: Callable[[], float] = random.random
    ) -> None:
        self.counters = Counters()
        self._broker, self._client_id, self._session, self._chance = broker, client_id, session, chance
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._waiting = deque[tuple[Stamp, Body]]()
        self._outgoing, self._in_flight = deque[Outgoing](), set[int]()
        self._thread = threading.Thread(target=self._run, name=f"edgert-{client_id}", daemon=True)
        self._thread.start()

    def put(self, items: Items) -> None:
        """Take items; where too many wait, the oldest that is no birth goes."""
        with self._lock:
            self._waiting.extend(items)
            while len(self._waiting) > MOST_WAITING:
                births = [place for place, (_, body) in enumerate(self._waiting) if isinstance(body, Birth)]
                oldest = next(place for place in range(len(self._waiting)) if place not in births[-1:])
                del self._waiting[oldest]
                self.counters.dropped += 1

    def close(self) -> int:
        """Tell what waits, if it can be told now, take leave and return how many bodies nobody got."""
        self._stopping.set()
        self._thread.join(2 * LAST_WORDS_S + 1)
        return len(self._waiting)

    def _run(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            will = self._session.will()
            link = Connection(self._broker, self._client_id, (will.topic, will.payload), retain_will=will.retain)
            refused = False
            try:
                link.open()
                before = self.counters.sent
                refused = self._converse(link)
                attempt = 0 if self.counters.sent > before else attempt
            except (EdgertError, OSError, ValueError) as exc:  # a certificate that is not there, or none
                self.counters.last_error = str(exc)
            finally:
                link.close()
            self.counters.dropped += len(self._outgoing)
            self._outgoing.clear()
            self._in_flight.clear()
            attempt += 1
            least = REFUSED_BACKOFF_S * self._chance() if refused else 0.0
            self._stopping.wait(max(least, backoff_s(attempt, 0, self._chance())))

    def _converse(self, link: Connection) -> bool:
        """Do all of one connection; return whether the broker refused it."""
        ended = self._await(link, Connected)
        topics = self._session.subscriptions()
        if ended is None and topics:
            link.subscribe(topics, qos=1)
            ended = self._await(link, Subscribed)
        if ended is not None:
            self.counters.last_error = ended.reason
            return ended.refused
        self.counters.connects += 1
        self._outgoing.extend(self._session.connected())
        until: float | None = None
        while True:
            if self._stopping.is_set() and until is None:
                until = time.monotonic() + LAST_WORDS_S
            self._say(link)
            if until is not None and self._is_said(until):
                break
            found = _next(link, TICK_S if until is None else TICK_S / 4)
            while found is not None:
                if isinstance(found, Disconnected):
                    self.counters.last_error = found.reason
                    return found.refused
                self._hear(found)
                found = _next(link, 0)
            if self._session.is_leaving:
                self._leave(link)
                return False
        self._outgoing.extend(self._session.farewell())
        self._leave(link)
        return False

    def _is_said(self, until: float) -> bool:
        left = len(self._outgoing) + len(self._in_flight) + (len(self._waiting) if self._session.is_ready else 0)
        return not left or time.monotonic() > until

    def _leave(self, link: Connection) -> None:
        until = time.monotonic() + LAST_WORDS_S
        while (self._outgoing or self._in_flight) and time.monotonic() < until:
            self._send(link)
            found = _next(link, TICK_S / 4)
            if isinstance(found, Disconnected):
                return
            self._in_flight -= {found.mid} if isinstance(found, Taken) else set()

    def _await(self, link: Connection, wanted: type) -> Disconnected | None:
        """Wait for what is wanted; return the end of the connection where that comes first."""
        until = time.monotonic() + ANSWER_S
        while not self._stopping.is_set() and time.monotonic() < until:
            found = _next(link, TICK_S)
            if isinstance(found, Disconnected):
                return found
            if isinstance(found, wanted):
                return None
            if isinstance(found, Message):
                link.happenings.put(found)
                time.sleep(TICK_S / 10)
        return Disconnected("no answer from the broker")

    def _hear(self, found: Happening) -> None:
        if isinstance(found, Taken):
            self._in_flight.discard(found.mid)
            self.counters.last_error = found.error or self.counters.last_error
        elif isinstance(found, Message):
            self._outgoing.extend(self._session.heard(found.topic, found.payload))

    def _say(self, link: Connection) -> None:
        """Let the session tell what waits, once all before is on its way, and send as much as may be."""
        self._outgoing.extend(self._session.due())
        if self._session.is_ready and not self._outgoing:
            with self._lock:
                items = list(self._waiting)
                self._waiting.clear()
            if items:
                self._outgoing.extend(self._session.told(items))
        self._send(link)

    def _send(self, link: Connection) -> None:
        while self._outgoing and len(self._in_flight) < IN_FLIGHT:
            one = self._outgoing[0]
            mid = link.publish(one.topic, one.payload, retain=one.retain, qos=one.qos)
            if mid is None:
                return
            self._outgoing.popleft()
            self._in_flight.add(mid)
            self.counters.sent += 1


def _next(link: Connection, timeout_s: float) -> Happening | None:
    try:
        return link.happenings.get(timeout=timeout_s) if timeout_s else link.happenings.get_nowait()
    except queue.Empty:
        return None
