"""Orders of the server: taken from the link's thread, followed in the loop, remembered over a restart, and answered.

Signatures, addressee and time are checked by `link.orders`; what an order does is the loop's.
"""

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgert import strict_json
from edgert.disk import replaced_file
from edgert.errors import BadInput, EdgertError
from edgert.link.orders import Command, Desired, Refused, read_command, read_desired
from edgert.record import Body, Event, Events, Reported, Result
from edgert.stamps import CLOCK_SET_S
from edgert.topics import Address

MOST_WAITING = 32
CHECKS_PER_S, MOST_CHECKS = 5.0, 20.0
"""Orders looked at: a flood costs the device no more than that, and what is beyond is counted."""

MOST_RESULTS = 256
Act = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Does what a command or a desired state asks, and returns what came of it; raises EdgertError where it cannot."""


@dataclass
class Memory:
    """What outlives a restart: the desired state in force, and the results of commands that were done."""

    version: int = 0
    digest: str = ""
    state: Mapping[str, Any] = field(default_factory=dict)
    results: dict[str, list[Any]] = field(default_factory=dict)


class Control:
    """Follows the orders for `address` that one of `keys` signed. `path` is where it remembers, None for nowhere.

    `hear` may be called from any thread; `follow` does what came since, and returns the bodies that answer.
    """

    def __init__(
        self,
        address: Address,
        keys: Sequence[bytes],
        path: Path | None,
        commands: Mapping[str, Act],
        desire: Act,
        *,
        wall_ms: Callable[[], int] = lambda: int(time.time() * 1000),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.memory, self._damage = _read(path)
        self._address, self._keys, self._path = address, keys, path
        self._commands, self._desire, self._wall_ms, self._clock = commands, desire, wall_ms, clock
        self._lock, self._waiting = threading.Lock(), deque[tuple[str, bytes]]()
        self._tokens, self._refilled_s = MOST_CHECKS, clock()
        self._flood = 0
        self._server_ms: Callable[[], int | None] = lambda: None

    def trust_time(self, server_ms: Callable[[], int | None]) -> None:
        """Say where the server's time comes from, for a device whose own clock is not set."""
        self._server_ms = server_ms

    def resume(self) -> list[Body]:
        """Put the desired state in force again that was before a restart; return what is to be reported."""
        if self._damage:
            return [_event("orders_forgotten", self._damage)]
        if not self.memory.version:
            return []
        return [self._in_force(Desired(self.memory.version, self.memory.state, 0, bytes.fromhex(self.memory.digest)))]

    def hear(self, topic: str, payload: bytes) -> None:
        """Keep an order for the loop; beyond a few the oldest go, for the server sends again what has no answer."""
        if topic not in (self._address.down("desired"), self._address.down("cmd")):
            return
        with self._lock:
            now = self._clock()
            self._tokens = min(MOST_CHECKS, self._tokens + (now - self._refilled_s) * CHECKS_PER_S)
            self._refilled_s = now
            if self._tokens < 1 or len(self._waiting) >= MOST_WAITING:
                self._flood += 1
                return
            self._tokens -= 1
            self._waiting.append((topic, payload))

    def follow(self) -> list[Body]:
        """Do what was ordered since the last time; return the results, and the state that is in force."""
        with self._lock:
            waiting, self._waiting = list(self._waiting), deque()
            flood, self._flood = self._flood, 0
        found = list[Body]()
        for topic, payload in waiting:
            try:
                is_command = topic == self._address.down("cmd")
                found += [self._do(payload)] if is_command else self._hold(payload)
            except BadInput as exc:
                code = "order_refused" if isinstance(exc, Refused) else "order_malformed"
                found.append(_event(code, exc.message))
        if flood:
            found.append(_event("orders_dropped", f"{flood} more than are looked at in this time"))
        return found

    def _do(self, payload: bytes) -> Result:
        """Do a command once; one that was done is answered as it was then."""
        command = read_command(payload, self._address, self._keys, self._now_ms())
        known = self.memory.results.get(command.id)
        if known is not None:
            return Result(command.id, *known)
        result = self._done(command)
        results = {**self.memory.results, command.id: [result.status, result.reason, dict(result.result)]}
        self.memory.results = dict(list(results.items())[-MOST_RESULTS:])
        self._remember()
        return result

    def _done(self, command: Command) -> Result:
        act = self._commands.get(command.name)
        if act is None:
            known = ", ".join(sorted(self._commands))
            return Result(command.id, "refused", f"no command {command.name[:40]!r}; there are {known}")
        try:
            return Result(command.id, "done", "", act(command.args))
        except EdgertError as exc:
            return Result(command.id, "failed", exc.message[:500])

    def _hold(self, payload: bytes) -> list[Body]:
        """Put a desired state in force; the one that is there already is silence."""
        held = self.memory
        before = Desired(held.version, held.state, 0, bytes.fromhex(held.digest)) if held.version else None
        wanted = read_desired(payload, self._address, self._keys, before, self._now_ms())
        if before is not None and wanted.version == before.version:
            return []
        self.memory.version, self.memory.digest, self.memory.state = wanted.version, wanted.digest.hex(), wanted.state
        self._remember()
        return [self._in_force(wanted)]

    def _in_force(self, wanted: Desired) -> Reported:
        try:
            return Reported(wanted.version, self._desire(wanted.state))
        except EdgertError as exc:
            return Reported(wanted.version, {"error": exc.message[:500]})

    def _now_ms(self) -> int | None:
        own = self._wall_ms()
        return own if own >= CLOCK_SET_S * 1000 else self._server_ms()

    def _remember(self) -> None:
        """Write what was done before it is answered; where that fails it is remembered until the end of the process."""
        if self._path is None:
            return
        try:
            with replaced_file(self._path) as file:
                file.write(json.dumps(vars(self.memory), default=repr).encode())
        except OSError:
            self._path = None


def _event(code: str, why: str) -> Events:
    return Events((Event(code, 1, 0, {"why": why[:200]}),))


def _read(path: Path | None) -> tuple[Memory, str]:
    """Return what was remembered, and why nothing is where the file is damaged; that is renamed."""
    if path is None or not path.exists():
        return Memory(), ""
    try:
        found = Memory(**strict_json.loads(path.read_bytes(), path.name))  # type: ignore[arg-type]
        bytes.fromhex(found.digest)
    except (BadInput, OSError, TypeError, ValueError) as exc:
        with contextlib.suppress(OSError):
            path.rename(path.with_name(path.name + ".damaged"))
        return Memory(), str(exc)
    return found, ""
