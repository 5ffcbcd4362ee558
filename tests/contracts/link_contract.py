"""What any server of docs/wire-format.md promises a device: one class, of which each server has a subclass.

A subclass gives a running server by the fixture `server`; the tests play the device over a real broker, and ask the
server for nothing but its account.
"""

import itertools
import os
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from edgert import cbor
from edgert.columns import INTEGERS, Column
from edgert.link.orders import read_command
from edgert.record import Batch, Events, Loss, Metric
from edgert.wire import decode_watermark, encode_watermark, schema_hash
from tests.contracts.raw_device import RawDevice
from tests.link.brokers import KINDS, Process
from tests.link.consumer_process import Account
from tests.telemetry import SOAK

_NAMES = itertools.count(1)
BIG = cbor.MAX_PAYLOAD


class Server(Protocol):
    """What the contract needs of a server. `order_key` is the public key of what it signs commands with."""

    order_key: bytes

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...

    def save(self) -> None:
        """Keep a copy of the database; the server does not run."""

    def restore(self) -> None:
        """Put the copy in the place of the database; the server does not run."""

    def account(self, device: str) -> Account: ...

    def aside(self) -> list[bytes]:
        """Return the payloads that were kept unread, empty ones for those that were too large."""


class LinkContract:
    """The promises; pytest runs them in each subclass."""

    @pytest.fixture(scope="class", params=["mosquitto-5", "nats"] if SOAK else ["mosquitto-5"])
    @classmethod
    def broker(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
        """Yield a broker that all tests of a class share."""
        one = KINDS[request.param](tmp_path_factory.mktemp("broker"))
        one.start()
        yield one
        one.kill()

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, broker: Process, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        """Yield the server, running."""
        raise NotImplementedError

    @pytest.fixture
    def connect(self, broker: Process) -> Iterator[Callable[..., RawDevice]]:
        """Return a function that connects as a device, under a name that nobody had before."""
        open_ones = list[RawDevice]()

        def one(name: str = "") -> RawDevice:
            open_ones.append(RawDevice(broker.port, broker.version, name or f"raw-{next(_NAMES)}"))
            return open_ones[-1]

        yield one
        for device in open_ones:
            device.close()

    @pytest.fixture
    def device(self, connect: Callable[..., RawDevice], server: Server) -> RawDevice:
        """Return a device that the server knows: its birth, number 1, is committed."""
        one = connect()
        for _ in range(40):  # the server may still be on its way to the broker, which then keeps nothing for it
            one.birth()
            if one.until(lambda: bool(one.own_marks()), 0.5):
                break
        one.mark(lambda mark: mark.upto == 1)
        return one

    def test_server_commits_before_it_says_so(self, device, server):
        """What a watermark covers is in the account when the watermark arrives, every time."""
        for last in range(10, 40, 10):
            device.send(*range(device.own_marks()[-1].upto + 1, last + 1))
            mark = device.mark(lambda mark, last=last: mark.upto == last)
            assert mark.missing == ()
            found = server.account(device.address.device).committed
            assert {(device.epoch, seq) for seq in range(1, last + 1)} <= set(found)

    def test_server_keeps_one_of_duplicates(self, device, server):
        """The same number three times, in any order, is one record; the first stays."""
        device.send(2, 3, 2, 3, 2, 4)
        device.mark(lambda mark: mark.upto == 4)
        committed = server.account(device.address.device).committed
        assert sorted(committed) == [(device.epoch, seq) for seq in (1, 2, 3, 4)]

    def test_server_names_exactly_what_is_missing(self, device, server):
        """Ranges ascend and lie apart; when they arrive they are gone, whatever came behind them."""
        device.send(2, 5, 9, 10)
        assert device.mark(lambda mark: mark.upto == 10).missing == ((3, 4), (6, 8))
        device.send(7)
        assert device.mark(lambda mark: len(mark.missing) == 3).missing == ((3, 4), (6, 6), (8, 8))
        device.send(8, 6, 4, 3)
        device.mark(lambda mark: mark.upto == 10 and not mark.missing)

    def test_server_names_64_ranges_and_then_stops_below_the_first_it_does_not_name(self, device, server):
        """What is not told must not count as committed."""
        device.send(*range(3, 220, 2))
        mark = device.mark(lambda mark: len(mark.missing) == 64)
        assert mark.missing == tuple((seq, seq) for seq in range(2, 130, 2))
        assert mark.upto == 129

    def test_declared_loss_closes_the_account(self, device, server):
        """Lost numbers are no longer missing; one that is there all the same counts as committed."""
        device.send(2, 8)
        device.mark(lambda mark: mark.missing == ((3, 7),))
        losses = Events(lost=(Loss(2, 5, "cap"), Loss(6, 7, "merged", device.epoch), Loss(1, 40, "store", bytes(8))))
        device.say("evt", device.payload(9, losses))
        device.mark(lambda mark: mark.upto == 9 and not mark.missing)
        account = server.account(device.address.device)
        assert {(device.epoch, 2), (device.epoch, 8), (device.epoch, 9)} <= set(account.committed)
        lost = {(epoch, seq) for epoch, first, last in account.lost for seq in range(first, last + 1)}
        assert {(device.epoch, seq) for seq in (3, 4, 5, 6, 7)} | {(bytes(8), 1), (bytes(8), 40)} <= lost

    def test_unknown_schema_waits_for_the_birth_that_the_server_asks_for(self, device, server):
        """Kept, counted, not in the way; the command is signed, for this device; then it is a record as any other."""
        schema = (Metric("load", "1", 2),)
        batch = Batch(schema_hash(schema), (0,), (Column(INTEGERS, (7,)),))
        payload = device.payload(2, batch)
        device.say("tel", payload)
        device.send(3)
        device.mark(lambda mark: mark.upto == 3 and not mark.missing)
        committed = server.account(device.address.device).committed
        assert (device.epoch, 2) not in committed
        assert (device.epoch, 3) in committed
        assert payload in server.aside()
        assert device.until(lambda: device.commands)
        order = read_command(device.commands[0], device.address, [server.order_key], int(time.time() * 1000))
        assert order.name == "rebirth"
        device.birth(4, schemas=(schema,))
        device.mark(lambda mark: mark.upto == 4)
        assert device.until(lambda: (device.epoch, 2) in server.account(device.address.device).committed)
        assert payload not in server.aside()

    def test_records_before_the_birth_of_their_epoch_wait_for_it(self, device, server):
        """A store failed: batches of a new epoch come first; none of them is lost."""
        schema = (Metric("load", "1", 2),)
        device.epoch = os.urandom(8)
        batch = Batch(schema_hash(schema), (0,), (Column(INTEGERS, (7,)),))
        device.say("tel", device.payload(1, batch))
        device.say("tel", device.payload(2, batch))
        device.birth(3, schemas=(schema,))
        device.mark(lambda mark: mark.upto == 3 and not mark.missing)
        wanted = {(device.epoch, seq) for seq in (1, 2, 3)}
        assert device.until(lambda: wanted <= set(server.account(device.address.device).committed))

    def test_unreadable_payloads_are_kept_aside_and_block_nothing(self, device, server):
        """Numbers that can be read are counted; the record behind each is committed."""
        bomb = zlib.compressobj(9, wbits=-15)
        packed = bomb.compress(bytes(60_000_000)) + bomb.flush()
        counted = [
            ("evt", device.odd(2, {"lost": [[5, 3, None, "cap"]]})),
            ("evt", device.odd(3, [1, 2])),
            ("evt", device.odd(4, {}, flags=64)),
            ("evt", device.odd(5, {}, flags=2)),
            ("evt", device.odd(6, packed[: BIG - 100], flags=1)),
            ("evt", device.odd(7, b"\xff\xff", flags=1)),
            ("tel", device.odd(8, [bytes(8), 0, 1, []])),
            ("birth", device.odd(9, {"device": 7})),
        ]
        whole = device.payload(10)
        unnumbered = [
            ("evt", b""),
            ("evt", b"\xff" * 40),
            ("evt", whole[:-3]),
            ("evt", whole + b"\0"),
            ("evt", b"\x9f" + whole[1:] + b"\xff"),
            ("evt", b"\xc1" + whole),
            ("evt", cbor.dumps([1, b"short", 2, 1, 0, 0, 0, 0, {}])),
            ("evt", cbor.dumps([1, device.epoch, 0, 1, 0, 0, 0, 0, {}])),
            ("evt", b"\x81" * 5000 + b"\0"),
            ("evt", b"\x9a\xff\xff\xff\xff"),
        ]
        for kind, payload in counted + unnumbered:
            device.say(kind, payload)
        device.send(10)
        device.mark(lambda mark: mark.upto == 10 and not mark.missing)
        committed = server.account(device.address.device).committed
        assert sorted(committed) == [(device.epoch, 1), (device.epoch, 10)]
        assert {payload for _, payload in counted + unnumbered} <= set(server.aside())

    def test_unknown_version_is_kept_aside_byte_for_byte(self, device, server):
        """A newer device before a newer server: nothing of it is thrown away, and what is known goes on."""
        payload = device.odd(2, {"new": 1}, version=2, more=("and", "more"))
        device.say("evt", payload)
        device.send(3)
        device.mark(lambda mark: mark.upto == 3 and not mark.missing)
        assert payload in server.aside()
        assert (device.epoch, 2) not in server.account(device.address.device).committed

    def test_payload_at_the_limit_is_read_and_one_above_is_refused_unread(self, device, server):
        """65,536 bytes and one more; the one behind both is committed."""
        room = BIG - len(device.odd(2, {"pad": b""})) - 2
        largest = device.odd(2, {"pad": bytes(room)})
        assert len(largest) == BIG
        device.say("evt", largest)
        device.say("evt", device.odd(3, {"pad": bytes(room + 1)}))
        device.say("evt", bytes(300_000))
        device.send(4)
        assert device.mark(lambda mark: mark.upto == 4).missing == ((3, 3),)
        assert (device.epoch, 2) in server.account(device.address.device).committed
        assert max(map(len, server.aside())) <= BIG

    @pytest.mark.parametrize("part", ["shard", "tenant", "device", "kind"])
    def test_topic_that_is_not_the_devices_is_refused(self, device, connect, server, part):
        """A wrong shard, ids and kinds that are none: nobody's account changes, and the next is committed."""
        address = device.address
        wrong = {
            "shard": device.address.up("evt").replace(address.shard, "s00" if address.shard != "s00" else "s01"),
            "tenant": address.up("evt").replace("/acme/", "/Acme/"),
            "device": address.up("evt").replace(f"/{address.device}/", f"/{address.device.upper()}/"),
            "kind": address.up("evt").replace("/up/evt", "/up/evil"),
        }
        device.publish(wrong[part], device.payload(2))
        device.send(3)
        assert device.mark(lambda mark: mark.upto == 3).missing == ((2, 2),)
        assert server.account(address.device.upper()) == Account([], [])

    def test_birth_of_another_device_is_refused(self, device, server):
        """Its body says who it is, and that is not the topic: counted, never a birth."""
        device.birth(2, device="somebody-else")
        device.birth(3, tenant="evil")
        device.send(4)
        device.mark(lambda mark: mark.upto == 4 and not mark.missing)
        assert sorted(server.account(device.address.device).committed) == [(device.epoch, 1), (device.epoch, 4)]
        assert server.account("somebody-else") == Account([], [])

    def test_watermark_is_retained(self, device, connect):
        """Who connects later gets the last one at once."""
        device.send(2, 3)
        last = device.mark(lambda mark: mark.upto == 3)
        device.close()
        again = connect(device.address.device)
        assert again.until(lambda: again.marks)
        assert again.retained == [last]

    def test_watermark_comes_at_most_once_a_second_and_after_each_birth(self, device):
        """A hundred records over some seconds; the births in between are answered without waiting."""
        began, births = time.monotonic(), 0
        before = len(device.marks)
        for seq in range(2, 62):
            if seq % 20 == 0:
                device.birth(seq)
                births += 1
                device.mark(lambda mark, seq=seq: mark.upto >= seq)
            else:
                device.send(seq)
            time.sleep(0.04)
        device.mark(lambda mark: mark.upto == 61)
        assert len(device.marks) - before <= time.monotonic() - began + 1 + births

    def test_killed_server_loses_nothing_that_it_told(self, device, server):
        """kill -9 in the middle of a flood: the account holds every watermark, and the rest arrives when it is back."""
        device.send(*range(2, 150))
        device.mark(lambda mark: mark.upto > 1)
        server.kill()
        told = max(mark.upto for mark in device.own_marks())
        assert {(device.epoch, seq) for seq in range(1, told + 1)} <= set(
            server.account(device.address.device).committed
        )
        device.send(*range(150, 160))
        server.start()
        device.mark(lambda mark: mark.upto == 159 and not mark.missing)
        committed = server.account(device.address.device).committed
        assert len(committed) == len(set(committed)) == 159

    def test_older_database_asks_again_for_what_it_lacks(self, device, server):
        """The watermark goes back; what the device still has is committed again."""
        device.send(2, 3)
        device.mark(lambda mark: mark.upto == 3)
        server.stop()
        server.save()
        server.start()
        device.send(4, 5, 6)
        device.mark(lambda mark: mark.upto == 6)
        server.stop()
        server.restore()
        server.start()
        device.send(7)
        assert device.mark(lambda mark: mark.upto == 7 or mark.missing).missing == ((4, 6),)
        device.send(4, 5, 6)
        device.until(lambda: device.own_marks()[-1].upto == 7 and not device.own_marks()[-1].missing)
        committed = server.account(device.address.device).committed
        assert sorted(committed) == [(device.epoch, seq) for seq in range(1, 8)]

    def test_watermark_is_one_that_our_own_reader_takes(self, device):
        """Nothing in it that the format does not name, in the form that it names."""
        device.send(2, 4)
        mark = device.mark(lambda mark: mark.upto == 4)
        assert decode_watermark(encode_watermark(mark)) == mark
        assert abs(mark.time_ms - time.time() * 1000) < 60_000
