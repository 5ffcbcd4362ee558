"""Orders on the device: done once, remembered, answered; a flood of them costs little."""

import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgert.agent.control import MOST_CHECKS, MOST_RESULTS, Control
from edgert.errors import BadInput
from edgert.link.orders import COMMAND, DESIRED, seal
from edgert.record import Events, Reported, Result
from edgert.topics import Address

HOME = Address("acme", "press-7")
PRIVATE = os.urandom(32)
PUBLIC = Ed25519PrivateKey.from_private_bytes(PRIVATE).public_key().public_bytes_raw()
NOW = 1_790_000_000_000


class Device:
    """A control with a command that counts and one that fails, and a desired state that it holds."""

    def __init__(self, path: Path | None, wall_ms: int = NOW) -> None:
        self.done, self.held, self.now_s = list[object](), list[object](), 0.0
        commands = {"count": self._count, "fail": self._fail}
        self.control = Control(
            HOME, [PUBLIC], path, commands, self._hold, wall_ms=lambda: wall_ms, clock=lambda: self.now_s
        )

    def _count(self, args):
        self.done.append(args)
        return {"times": len(self.done)}

    def _fail(self, args):
        raise BadInput("it is broken", "mend it")

    def _hold(self, state):
        self.held.append(state)
        if state.get("bad"):
            raise BadInput("no such state", "send another")
        return {"in force": True}

    def order(self, *payloads: tuple[str, bytes]):
        for kind, payload in payloads:
            self.control.hear(HOME.down(kind), payload)
        return self.control.follow()


def command(name: str = "count", id_: str = "c-1", private: bytes = PRIVATE, **fields: object) -> tuple[str, bytes]:
    document = {"tenant": "acme", "device": "press-7", "id": id_, "name": name, "args": {}, "expires_ms": NOW + 1000}
    return "cmd", seal(document | fields, COMMAND, private)


def desired(version: int, **fields: object) -> tuple[str, bytes]:
    document = {"tenant": "acme", "device": "press-7", "version": version, "state": {}, "expires_ms": NOW + 1000}
    return "desired", seal(document | fields, DESIRED, PRIVATE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders"


def test_command_is_done_once_and_its_repetition_gets_the_same_answer(path):
    """Replayed in the same process and after a restart: answered, not done."""
    device = Device(path)
    first = device.order(command())
    assert first == [Result("c-1", "done", "", {"times": 1})]
    assert device.order(command()) == first
    assert len(device.done) == 1
    again = Device(path)
    assert again.order(command()) == first
    assert again.done == []
    assert again.order(command(id_="c-2")) == [Result("c-2", "done", "", {"times": 1})]


def test_command_that_is_unknown_or_fails_is_answered_and_not_tried_again(path):
    """Refused with the names that there are; failed with the reason."""
    device = Device(path)
    (unknown,) = device.order(command("explode"))
    assert (unknown.status, unknown.reason) == ("refused", "no command 'explode'; there are count, fail")
    (failed,) = device.order(command("fail", "c-2"))
    assert (failed.status, failed.reason) == ("failed", "it is broken")
    assert device.order(command("fail", "c-2")) == [failed]


@pytest.mark.parametrize(
    ("order", "code", "why"),
    [
        (command(private=os.urandom(32)), "order_refused", "no known key"),
        (command(device="press-8"), "order_refused", "press-8"),
        (command(expires_ms=NOW), "order_refused", "expired"),
        (("cmd", b"nonsense"), "order_malformed", ""),
        (("desired", desired(1)[1][:-1]), "order_malformed", ""),
        (("desired", command()[1]), "order_refused", "no known key"),  # signed, for the other topic
    ],
)
def test_order_that_must_not_be_followed_is_told_and_nothing_is_done(path, order, code, why):
    """Forged, for another device, too late, nonsense, cut, on the wrong topic."""
    device = Device(path)
    (told,) = device.order(order)
    assert isinstance(told, Events)
    assert told.events[0].code == code
    assert why in told.events[0].details["why"]
    assert device.done == device.held == []
    assert not path.exists()


def test_desired_state_goes_forward_only_also_after_a_restart(path):
    """A newer version is put in force and reported; the same is silence, an older one is refused."""
    device = Device(path)
    assert device.order(desired(2, state={"window_s": 5})) == [Reported(2, {"in force": True})]
    assert device.order(desired(2, state={"window_s": 5})) == []
    again = Device(path)
    assert again.control.resume() == [Reported(2, {"in force": True})]
    assert again.held == [{"window_s": 5}]
    (older,) = again.order(desired(1))
    assert "older than 2" in older.events[0].details["why"]
    (other,) = again.order(desired(2, state={"window_s": 9}))
    assert other.events[0].code == "order_refused"
    assert again.order(desired(3)) == [Reported(3, {"in force": True})]
    assert len(again.held) == 2


def test_desired_state_that_cannot_be_held_is_reported_with_the_reason(path):
    """The server sees which version it answers, and why it is not in force."""
    assert Device(path).order(desired(4, state={"bad": True})) == [Reported(4, {"error": "no such state"})]


def test_device_whose_clock_was_never_set_takes_the_servers_time(path):
    """1970 would let every old order pass for young; without any time nothing is expired."""
    device = Device(path, wall_ms=5_000)
    assert device.order(command(expires_ms=1)) == [Result("c-1", "done", "", {"times": 1})]
    device.control.trust_time(lambda: NOW)
    (told,) = device.order(command(id_="c-2", expires_ms=NOW - 1))
    assert "expired" in told.events[0].details["why"]


def test_flood_of_orders_is_looked_at_slowly_and_counted(path):
    """Thousands at once: a few are done, the others are one event; later there is room again."""
    device = Device(path)
    flood = [command(id_=f"c-{number}") for number in range(3000)]
    told = device.order(*flood)
    assert [one.status for one in told[:-1]] == ["done"] * int(MOST_CHECKS)
    assert told[-1].events[0].details["why"].startswith(f"{3000 - int(MOST_CHECKS)} more")
    assert device.order(command(id_="late"))[0].events[0].code == "orders_dropped"
    device.now_s += 10
    assert device.order(command(id_="late"))[0].status == "done"


def test_memory_of_commands_is_bounded_and_forgets_the_oldest(path):
    """A device runs for years."""
    device = Device(path)
    for number in range(MOST_RESULTS + 10):
        device.now_s += 1
        device.order(command(id_=f"c-{number}"))
    results = json.loads(path.read_text())["results"]
    assert len(results) == MOST_RESULTS
    assert "c-9" not in results
    assert f"c-{MOST_RESULTS + 9}" in results


def test_damaged_memory_is_set_aside_and_told(path):
    """The agent starts; what it had done is not known any more, and the server learns that."""
    path.write_bytes(b"{")
    device = Device(path)
    assert device.control.resume()[0].events[0].code == "orders_forgotten"
    assert path.with_name("orders.damaged").read_bytes() == b"{"
    assert device.order(command())[0].status == "done"


def test_memory_that_cannot_be_written_lasts_as_long_as_the_process(tmp_path):
    """No folder: it is done once all the same."""
    device = Device(tmp_path / "none" / "orders")
    assert device.order(command(), command()) == [Result("c-1", "done", "", {"times": 1})] * 2


def test_topics_of_others_are_not_heard(path):
    """The watermark and another device's commands are not orders."""
    device = Device(path)
    device.control.hear(HOME.down("ack"), command()[1])
    device.control.hear(Address("acme", "press-8").down("cmd"), command()[1])
    assert device.control.follow() == []
