"""Drains the outbox to the broker and follows the server's watermark: what is committed goes, what lacks is resent.

One thread of its own, the only one that talks to the connection. What travels is in docs/wire-format.md.
"""

import math
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from edgert.errors import BadInput
from edgert.link.mqtt import Connected, Disconnected, Happening, Message, Taken
from edgert.link.outbox import Outbox, Waiting
from edgert.link.ranges import Range
from edgert.record import Birth, Presence, Stamp, Watermark
from edgert.stamps import stamp_at
from edgert.topics import Address
from edgert.wire import decode_watermark, encode_presence

IN_FLIGHT = 8
FETCHED = 4 * IN_FLIGHT
"""So many records are read from the outbox at a time."""

LEAST_BACKOFF_S, MOST_BACKOFF_S = 1.0, 300.0
REFUSED_BACKOFF_S = 60.0
"""A broker that refuses the account will not change its mind in a second."""

WATERMARK_WAIT_S = 3.0
"""How long the retained watermark is waited for before anything is sent."""

SILENCE_S = 30.0
"""Without a watermark for so long, what was sent is sent again."""

TICK_S = 0.2
HEARD_AT_ONCE = 64
"""So much is heard before something is sent again, however much comes down."""


class Link(Protocol):
    """What `mqtt.Connection` is to the publisher."""

    happenings: "queue.SimpleQueue[Happening]"

    def open(self) -> None: ...
    def subscribe(self, topics: list[str]) -> None: ...
    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int | None: ...
    def close(self) -> None: ...


@dataclass
class Counters:
    """What the link did since the program began."""

    connects: int = 0
    sent: int = 0
    sent_bytes: int = 0
    resent: int = 0
    watermarks: int = 0
    refused: int = 0
    last_error: str = ""
    cpu_s: float = 0.0


@dataclass
class _Sending:
    """The state of one connection: what was asked for again, how far sending is, and what the broker has to take.

    `fetched` are the next records in order, `sent_upto` is the last number that was among them, all of `epoch`.
    """

    epoch: bytes
    again: list[Range] = field(default_factory=list)
    fetched: deque[Waiting] = field(default_factory=deque)
    sent_upto: int = 0
    in_flight: dict[int, int] = field(default_factory=dict)
    heard_s: float = 0.0
    declared_s: float = -math.inf


def backoff_s(attempt: int, hint_ms: int, chance: float) -> float:
    """Return how long to wait before connection attempt `attempt`, 1 the first repeat: full jitter by `chance`."""
    most = min(MOST_BACKOFF_S, LEAST_BACKOFF_S * 2.0 ** min(attempt, 16))
    return max(hint_ms / 1000, LEAST_BACKOFF_S / 2) + chance * most


class Publisher:
    """Sends what waits in `outbox` for `address`, until `stop`. `birth` tells who the device is, at each boot.

    `allowance` says how many bytes may be sent now, None for any number: at 0 records stay where they are.
    """

    def __init__(
        self,
        outbox: Outbox,
        address: Address,
        link: Link,
        birth: Callable[[], Birth],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
        on_message: Callable[[str, bytes], None] | None = None,
        allowance: Callable[[], float | None] = lambda: None,
        mark_wait_s: float = WATERMARK_WAIT_S,
    ) -> None:
        self.counters = Counters()
        self._allowance = allowance
        self._server_ms: tuple[int, float] | None = None
        self._reborn = threading.Event()
        self._outbox, self._address, self._link, self._birth = outbox, address, link, birth
        self._clock, self._wall, self._chance, self._on_message = clock, wall, chance, on_message
        self._state: _Sending | None = None
        self._born: tuple[bytes, int] | None = None
        self._mark_wait_s = mark_wait_s
        self._hint_ms, self._attempt = 0, 0
        self._sent = (b"", 0)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgert-link", daemon=True)

    def start(self) -> None:
        """Number this boot's birth, and begin in a thread of its own."""
        self._be_born()
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Leave the broker with a good-bye; what waits stays in the outbox."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def rebirth(self) -> None:
        """Say again who the device is, from any thread."""
        self._reborn.set()

    def server_ms(self) -> int | None:
        """Return the server's wall clock by its last watermark, None where there was none."""
        if self._server_ms is None:
            return None
        then_ms, heard_s = self._server_ms
        return then_ms + int((self._clock() - heard_s) * 1000)

    def drain(self, timeout_s: float) -> None:
        """Wait until the server has everything, for a while, and only as long as it can be reached."""
        until = self._clock() + timeout_s
        while self.is_connected and self._outbox.depth().records and self._clock() < until:
            time.sleep(TICK_S / 4)

    @property
    def is_connected(self) -> bool:
        """Whether records can flow now."""
        return self._state is not None

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._link.open()
            refused = self._converse()
            self._link.close()
            self._attempt += 1
            least = REFUSED_BACKOFF_S * self._chance() if refused else 0.0
            self._stopping.wait(max(least, backoff_s(self._attempt, self._hint_ms, self._chance())))

    def _converse(self) -> bool:
        """Do all of one connection; return whether the broker refused it."""
        ended = self._await(Connected, WATERMARK_WAIT_S * 10)
        if isinstance(ended, Disconnected):
            return ended.refused
        self.counters.connects += 1
        self._link.subscribe([f"{self._address.root}/dn/{kind}" for kind in ("ack", "desired", "cmd")])
        mark = self._retained_mark()
        if mark is not None and self._is_old_copy(mark):
            self._renumber()
        self._be_born()
        self._outbox.begin_sending()
        self._state = _Sending(self._outbox.epoch, heard_s=self._clock())
        if mark is not None:
            self._follow(mark)
        self._link.publish(self._address.status, self._presence(on=True), retain=True)
        try:
            return self._exchange(self._state)
        finally:
            self._state = None
            self._outbox.end_sending()

    def _await(self, wanted: type, timeout_s: float) -> Happening | None:
        """Return the first happening that is `wanted` or the end of the connection; None where none comes in time."""
        until = self._clock() + timeout_s
        while not self._stopping.is_set() and self._clock() < until:
            found = self._next(TICK_S)
            if isinstance(found, wanted | Disconnected):
                return found
        return Disconnected("no answer from the broker")

    def _next(self, timeout_s: float) -> Happening | None:
        try:
            return self._link.happenings.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def _retained_mark(self) -> Watermark | None:
        """Return the watermark that the broker kept; None where there is none of this epoch in time."""
        until = self._clock() + self._mark_wait_s
        while not self._stopping.is_set() and self._clock() < until:
            found = self._next(TICK_S)
            if isinstance(found, Disconnected):
                self._link.happenings.put(found)
                return None
            if isinstance(found, Message):
                mark = self._read_mark(found)
                if mark is not None:
                    return mark
                self._pass_on(found)
        return None

    def _pass_on(self, message: Message) -> None:
        """Hand over what is no watermark: orders."""
        if self._on_message is not None and message.topic != self._address.down("ack"):
            self._on_message(message.topic, message.payload)

    def _is_old_copy(self, mark: Watermark) -> bool:
        return self._outbox.is_old_copy(mark, self._sent_of(mark.epoch))

    def _sent_of(self, epoch: bytes) -> int:
        """Return the highest number of an epoch that was handed over since the program began."""
        return self._sent[1] if self._sent[0] == epoch else 0

    def _renumber(self) -> None:
        """Give what waits new numbers in a new epoch, behind a birth."""
        self._outbox.renumber([(self._stamp(), self._birth())])
        self._born = (self._outbox.epoch, self._outbox.boot)

    def _be_born(self) -> None:
        """Number a birth where this boot, or a new epoch, has none yet."""
        key = (self._outbox.epoch, self._outbox.boot)
        if self._born != key or self._reborn.is_set():
            self._reborn.clear()
            self._outbox.put([(self._stamp(), self._birth())])
            self._born = (self._outbox.epoch, self._outbox.boot)

    def _exchange(self, state: _Sending) -> bool:
        """Send and listen until the connection ends; return whether the broker refused it."""
        while not self._stopping.is_set():
            self._be_born()
            if self._clock() - state.declared_s >= TICK_S:
                self._outbox.declare(self._stamp())
                state.declared_s = self._clock()
            if self._clock() - state.heard_s > SILENCE_S:
                self._begin_anew(state)
            self._send(state)
            for turn in range(HEARD_AT_ONCE):
                found = self._next(0 if turn else TICK_S)
                if found is None:
                    break
                if isinstance(found, Disconnected):
                    self.counters.last_error = found.reason
                    return found.refused
                self._hear(state, found)
            self.counters.cpu_s = time.thread_time()
        self._link.publish(self._address.status, self._presence(on=False), retain=True)
        return False

    def _begin_anew(self, state: _Sending) -> None:
        """Send all that waits, whatever was sent: the server is silent, or the numbers are those of another epoch."""
        if state.epoch != self._outbox.epoch:
            state.in_flight.clear()
        state.epoch, state.sent_upto, state.heard_s = self._outbox.epoch, 0, self._clock()
        state.again.clear()
        state.fetched.clear()

    def _hear(self, state: _Sending, found: Happening) -> None:
        if isinstance(found, Taken):
            seq = state.in_flight.pop(found.mid, None)
            self.counters.refused += bool(found.error)
            self.counters.last_error = found.error or self.counters.last_error
            self._attempt = 0 if seq is not None else self._attempt
        elif isinstance(found, Message):
            mark = self._read_mark(found)
            if mark is not None:
                self._follow(mark)
            else:
                self._pass_on(found)

    def _read_mark(self, message: Message) -> Watermark | None:
        """Return the watermark in a message; None where it is something else, or nonsense."""
        if message.topic != self._address.down("ack"):
            return None
        try:
            mark = decode_watermark(message.payload)
        except BadInput as exc:
            self.counters.last_error = exc.message
            return None
        self.counters.watermarks += 1
        self._server_ms = (mark.time_ms, self._clock())
        self._hint_ms = mark.backoff_ms or 0
        return mark

    def _follow(self, mark: Watermark) -> None:
        """Settle what a watermark says; what it misses goes again unless it is on its way."""
        state = self._state
        assert state is not None
        if mark.epoch != self._outbox.epoch:
            return
        state.heard_s = self._clock()
        if self._is_old_copy(mark):  # the broker had forgotten the mark when this connection began
            self._renumber()
            return
        on_way = set(state.in_flight.values())
        missing = self._outbox.settle(mark)
        state.again = [(first, last) for first, last in missing if not on_way.intersection(range(first, last + 1))]

    def _send(self, state: _Sending) -> None:
        """Hand over records until enough are on their way: first those that are missing, then new ones."""
        if state.epoch != self._outbox.epoch:
            self._begin_anew(state)
        while len(state.in_flight) < IN_FLIGHT:
            left = self._allowance()
            if left is not None and left <= 0:
                return
            one = self._to_send(state)
            if one is None:
                return
            mid = self._link.publish(self._address.up(one.kind), one.payload)
            if mid is None:
                return
            state.in_flight[mid] = one.seq
            self._sent = (state.epoch, max(one.seq, self._sent_of(state.epoch)))
            self.counters.sent += 1
            self.counters.sent_bytes += len(one.payload)

    def _to_send(self, state: _Sending) -> Waiting | None:
        while state.again:
            first, last = state.again.pop(0)
            found = self._outbox.waiting(first - 1, 1)
            if found and found[0].seq <= last:
                if found[0].seq < last:
                    state.again.insert(0, (found[0].seq + 1, last))
                self.counters.resent += 1
                return found[0]
        if not state.fetched:
            state.fetched.extend(self._outbox.waiting(state.sent_upto, FETCHED))
        if not state.fetched:
            return None
        state.sent_upto = state.fetched[0].seq
        return state.fetched.popleft()

    def _presence(self, *, on: bool) -> bytes:
        return encode_presence(Presence(on, self._outbox.epoch, self._outbox.boot))

    def _stamp(self) -> Stamp:
        return stamp_at(self._clock(), self._wall())
