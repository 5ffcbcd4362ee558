"""The outbox: nothing that got a number vanishes silently, whatever happens to process, disk and server."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from edgert.columns import INTEGERS, Column
from edgert.link.numbers import BLOCK, NumbersFile
from edgert.link.outbox import NUMBERS_SUFFIX, Outbox
from edgert.link.ranges import as_ranges
from edgert.link.settings import Limits
from edgert.record import (
    COUNTER,
    Batch,
    Birth,
    Event,
    Events,
    LogLines,
    Metric,
    Record,
    Stamp,
    Watermark,
)
from edgert.wire import decode, schema_hash

AT = Stamp(1000, 1_790_000_000_000)


def event(text: str = "x") -> tuple[Stamp, Events]:
    return AT, Events((Event("something", 0, 0, {"text": text}),))


def log(text: str) -> tuple[Stamp, LogLines]:
    return AT, LogLines(((0, "info", text),))


def records(outbox: Outbox) -> list[Record]:
    return [decode(one.payload, one.kind) for one in outbox.waiting(0, 10_000)]


def lost_in(found: list[Record]) -> set[tuple[bytes, int]]:
    """Return the (epoch, seq) that records declare lost."""
    return {
        (loss.epoch, number)
        for record in found
        if isinstance(record.body, Events)
        for loss in record.body.lost
        for number in range(loss.first, loss.last + 1)
    }


def mark(outbox: Outbox, upto: int, *missing: tuple[int, int]) -> Watermark:
    return Watermark(outbox.epoch, upto, missing, 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


def test_put_numbers_records_one_after_the_other(path):
    """The payload says what the store says, epoch and boot included."""
    outbox = Outbox(path)
    assert outbox.put([event("a"), event("b")]) == [1, 2]
    assert outbox.put([event("c")]) == [3]
    found = records(outbox)
    assert [record.seq for record in found] == [1, 2, 3]
    assert {record.epoch for record in found} == {outbox.epoch}
    assert {record.boot for record in found} == {1}


def test_reopened_outbox_goes_on_where_it_stopped(path):
    """Same epoch, next number, one more boot; what waits still waits."""
    first = Outbox(path)
    first.put([event("a")])
    epoch = first.epoch
    first.close()
    second = Outbox(path)
    assert (second.epoch, second.boot) == (epoch, 2)
    assert second.put([event("b")]) == [2]
    assert [record.boot for record in records(second)] == [1, 2]
    assert second.declare(AT) == []


def test_settle_deletes_what_is_committed_and_names_what_to_send_again(path):
    """Up to the mark only; what the server misses stays and is named."""
    outbox = Outbox(path)
    outbox.put([event(str(number)) for number in range(10)])
    assert outbox.settle(mark(outbox, 8, (3, 4), (7, 7))) == [(3, 4), (7, 7)]
    assert [record.seq for record in records(outbox)] == [3, 4, 7, 9, 10]
    assert outbox.settle(mark(outbox, 10)) == []
    assert records(outbox) == []


def test_settle_of_another_epoch_or_of_endless_ranges_deletes_nothing_wrong(path):
    """A watermark is what came over the network: it may say anything."""
    outbox = Outbox(path)
    outbox.put([event(), event()])
    assert outbox.settle(Watermark(bytes(8), 2, (), 0)) == []
    assert len(records(outbox)) == 2
    assert outbox.settle(mark(outbox, 1 << 63, (1, 1 << 62))) == [(1, 2)]
    assert len(records(outbox)) == 2


def test_number_that_the_server_misses_and_nobody_has_is_declared_once(path):
    """The server had it, went back to a backup, and the device has deleted it."""
    outbox = Outbox(path)
    outbox.put([event(), event(), event()])
    outbox.settle(mark(outbox, 3))
    for _ in range(3):
        outbox.settle(mark(outbox, 3, (2, 3)))
        outbox.declare(AT)
    found = records(outbox)
    assert lost_in(found) == {(outbox.epoch, 2), (outbox.epoch, 3)}
    assert len(found) == 1


def test_over_the_cap_what_matters_least_goes_first_and_is_declared(path):
    """Logs before events; each number that went is declared, with the reason."""
    outbox = Outbox(path, Limits(max_bytes=20_000))
    outbox.put([event("keep")])
    outbox.put([log(os.urandom(500).hex()) for _ in range(40)])
    kinds = [one.kind for one in outbox.waiting(0, 100)]
    assert kinds.count("evt") == 1
    assert 10 < kinds.count("log") < 40
    assert outbox.depth().bytes <= 20_000
    there = {one.seq for one in outbox.waiting(0, 100)}
    outbox.declare(AT)
    found = records(outbox)
    assert lost_in(found) == {(outbox.epoch, number) for number in set(range(1, 42)) - there}
    assert {loss.reason for record in found if record.kind == "evt" for loss in record.body.lost} == {"cap"}


def test_declarations_of_loss_outlive_a_cap_of_nothing(path):
    """What says that something is lost is never dropped itself."""
    outbox = Outbox(path, Limits(max_bytes=1))
    for number in range(50):
        outbox.put([log(str(number))])
        outbox.declare(AT)
    assert len(lost_in(records(outbox))) == 50
    assert {one.kind for one in outbox.waiting(0, 1000)} == {"evt"}


def test_records_too_old_are_dropped_and_declared(path):
    """Past the age nobody wants them."""
    now = [1000.0]
    outbox = Outbox(path, Limits(max_age_s=60), lambda: now[0], mono=lambda: now[0])
    outbox.put([event("old")])
    now[0] += 61
    outbox.put([event("new")])
    assert [one.seq for one in outbox.waiting(0, 10)] == [2]
    assert outbox.depth().oldest_s == 0
    outbox.declare(AT)
    assert lost_in(records(outbox)) == {(outbox.epoch, 1)}


def test_clock_that_is_set_makes_nothing_old(path):
    """A board begins in 1970, NTP gives it the time: what waits is minutes old, not decades, and ages from there."""
    wall, mono = [100.0], [100.0]
    outbox = Outbox(path, Limits(max_age_s=3600), lambda: wall[0], mono=lambda: mono[0])
    outbox.put([event("old")])
    wall[0], mono[0] = 1_790_000_000.0, 160.0
    outbox.put([event("new")])
    assert [one.seq for one in outbox.waiting(0, 10)] == [1, 2]
    assert outbox.depth().oldest_s == pytest.approx(60, abs=0.01)
    wall[0], mono[0] = wall[0] + 3570, mono[0] + 3570
    outbox.put([event("newer")])
    assert [one.seq for one in outbox.waiting(0, 10)] == [2, 3]
    wall[0] -= 1_000_000
    outbox.put([event("back")])
    wall[0], mono[0] = wall[0] + 3610, mono[0] + 3610
    outbox.put([event("last")])
    assert [one.seq for one in outbox.waiting(0, 10)] == [5]


def test_restored_copy_is_recognised_and_renumbered(path):
    """The server is past the next number: a new epoch, all that waits under new numbers, nothing lost."""
    outbox = Outbox(path)
    outbox.put([event("a"), event("b")])
    old = outbox.epoch
    assert not outbox.is_old_copy(mark(outbox, 2))
    assert outbox.is_old_copy(mark(outbox, 3))
    assert outbox.is_old_copy(mark(outbox, 9, (1, 2)))
    outbox.renumber([(AT, BIRTH)])
    assert outbox.epoch != old
    first, *rest = records(outbox)
    assert (first.seq, first.body) == (1, BIRTH)
    assert [(one.seq, one.body.events[0].details["text"]) for one in rest] == [(2, "a"), (3, "b")]
    assert {one.epoch for one in records(outbox)} == {outbox.epoch}
    outbox.declare(AT)
    assert min(number for epoch, number in lost_in(records(outbox)) if epoch == old) == 1
    epoch = outbox.epoch
    outbox.close()
    assert Outbox(path).epoch == epoch


def test_old_copy_is_recognised_by_what_was_sent_not_by_what_was_given_meanwhile(path):
    """It gave more numbers since it began than the server has; none of them was sent, so they are not these."""
    outbox = Outbox(path)
    outbox.put([event("a"), event("b")])
    outbox.close()
    again = Outbox(path)
    again.put([event(str(number)) for number in range(10)])
    assert not again.is_old_copy(mark(again, 2), sent=0)
    assert again.is_old_copy(mark(again, 3), sent=0)
    assert not again.is_old_copy(mark(again, 7), sent=7)
    assert again.is_old_copy(mark(again, 8), sent=7)


def test_damaged_file_is_set_aside_and_its_numbers_are_declared(path):
    """A new epoch, an event that says why, and the old numbers lost, all that may have been given."""
    outbox = Outbox(path)
    outbox.put([event() for _ in range(5)])
    old = outbox.epoch
    outbox.close()
    path.write_bytes(b"not a database, " * 100)
    again = Outbox(path)
    assert again.on_disk
    assert again.epoch != old
    assert list(path.parent.glob("outbox.db.damaged-*"))
    again.declare(AT)
    found = records(again)
    assert found[0].body.events[0].code == "outbox_reset"
    assert lost_in(found) == {(old, number) for number in range(1, BLOCK + 1)}
    again.close()
    third = Outbox(path)
    assert third.declare(AT) == []
    assert third.epoch == again.epoch


def test_lost_tail_of_a_power_cut_gives_no_number_twice(path):
    """The file is that of before, the system has started anew: numbers go on behind all that may have been given."""
    outbox = Outbox(path)
    outbox.put([event()])
    outbox._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = path.read_bytes()
    outbox.put([event() for _ in range(3)])
    epoch = outbox.epoch
    outbox.close()
    path.write_bytes(before)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("UPDATE meta SET value = 'another boot' WHERE key = 'machine'")
    database.close()
    again = Outbox(path)
    assert again.epoch == epoch
    assert again.put([event()]) == [BLOCK + 1]
    again.declare(AT)
    assert lost_in(records(again)) == {(epoch, number) for number in range(2, BLOCK + 1)}


def test_memory_alone_needs_no_file(tmp_path):
    """`ram`: nothing on disk, a new epoch each time."""
    outbox = Outbox(None)
    outbox.put([event()])
    assert not outbox.on_disk
    assert not list(tmp_path.iterdir())
    assert Outbox(None).epoch != outbox.epoch


def test_folder_that_cannot_be_written_leaves_memory(tmp_path):
    """A read-only system, or no folder at all: it works, and an event says so."""
    outbox = Outbox(tmp_path / "no" / "such" / "folder" / "outbox.db")
    assert not outbox.on_disk
    assert {one.body.events[0].code for one in records(outbox)} == {"outbox_reset"}
    assert outbox.put([event()])


def test_numbers_file_survives_a_torn_write(tmp_path):
    """Whichever half is damaged, the other still says what was reserved before."""
    file = NumbersFile(tmp_path / "n")
    file.write({b"12345678": 1000})
    file.write({b"12345678": 2000})
    data = (tmp_path / "n").read_bytes()
    for half, left in ((slice(0, 512), {2000, 1000}), (slice(512, 1024), {2000, 1000})):
        torn = bytearray(data)
        torn[half] = os.urandom(512)
        (tmp_path / "n").write_bytes(torn)
        assert NumbersFile(tmp_path / "n").upto[b"12345678"] in left
    (tmp_path / "n").write_bytes(b"short")
    assert NumbersFile(tmp_path / "n").upto == {}


SCHEMA = (Metric("calls_total", "1", 0, COUNTER),)
BIRTH = Birth("acme", "press-7", "test/1", {}, (SCHEMA,), ())


def minute(number: int) -> tuple[Stamp, Batch]:
    """Return twelve samples of a minute: in all 12 times `number`, with much noise before it."""
    values = (0, 2 * number) * 6
    at = Stamp(60_000 * number, 1_790_000_000_000 + 60_000 * number)
    return at, Batch(schema_hash(SCHEMA), tuple(range(0, 60_000, 5_000)), [Column(INTEGERS, values)])


def calls(found: list[Record]) -> int:
    return sum(sum(one.body.columns[0].values) for one in found if isinstance(one.body, Batch))


def test_over_the_cap_old_metrics_become_coarser_before_any_is_dropped(path):
    """Every call is still counted, the old minutes are quarters, and what they stand for is declared as merged."""
    outbox = Outbox(path, Limits(max_bytes=6_000))
    outbox.put([(AT, BIRTH), event("keep")])
    for number in range(1, 241):
        outbox.put([minute(number)])
    assert outbox.depth().bytes <= 6_000
    outbox.declare(AT)
    found = records(outbox)
    assert calls(found) == sum(12 * number for number in range(1, 241))
    coarse = [one for one in found if one.coarse]
    assert coarse[0].at == minute(1)[0]
    assert max(len(one.body.after_ms) for one in coarse) == 12
    assert not found[-2].coarse or found[-2].body.after_ms
    assert {loss.reason for one in found if isinstance(one.body, Events) for loss in one.body.lost} == {"merged"}
    numbers = {(outbox.epoch, one.seq) for one in found} | lost_in(found)
    assert numbers == {(outbox.epoch, number) for number in range(1, outbox.following)}


def test_metrics_that_may_have_been_sent_are_not_merged(path):
    """The server could have them already and would count them twice; that outlives a restart."""
    outbox = Outbox(path, Limits(max_bytes=3_000))
    outbox.put([(AT, BIRTH)])
    outbox.begin_sending()
    outbox.put([minute(number) for number in range(1, 31)])
    outbox.end_sending()
    sent = outbox.following - 1
    outbox.close()
    again = Outbox(path, Limits(max_bytes=3_000))
    again.put([(AT, BIRTH)])
    for number in range(31, 200):
        again.put([minute(number)])
    found = records(again)
    coarse = [one for one in found if one.coarse]
    assert coarse
    assert min(one.at.mono_ms for one in coarse) >= minute(31)[0].mono_ms
    assert not any(one.coarse for one in found if one.seq <= sent)


def test_disk_that_others_filled_gets_space_back(path, monkeypatch):
    """What is wanted free and is not comes off what may wait, and the file gets smaller."""
    free = [10**9]
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, free[0]))
    outbox = Outbox(path, Limits(min_free=0.1))
    for _ in range(60):
        outbox.put([log(os.urandom(8000).hex()) for _ in range(5)])
    before = outbox.depth().bytes
    assert before > 2_000_000
    free[0] = 10**8 - 1_500_000
    outbox.put([event()])
    assert before - 1_900_000 < outbox.depth().bytes <= before - 1_500_000
    free[0] = 0
    outbox.put([event("last")])
    assert outbox.depth().bytes == 0
    outbox.settle(mark(outbox, 0))
    outbox.close()
    assert path.stat().st_size < 300_000


def test_outbox_that_spills_writes_nothing_while_the_server_answers(path):
    """Records come and go in memory; the file stays as it was when it was opened."""
    now, before = [1000.0], dict[str, bytes]()
    outbox = Outbox(path, Limits(spill_s=600), lambda: now[0], mono=lambda: now[0])
    assert not outbox.on_disk
    for number in range(1, 201):
        outbox.put([event(str(number))])
        before = before if number > 1 else _files(path)  # numbers are reserved once for a thousand
        now[0] += 300
        outbox.settle(mark(outbox, number))
    assert _files(path) == before
    assert records(outbox) == []


def test_outbox_that_spills_goes_to_disk_when_the_server_stays_away_and_back(path):
    """After a time, or when memory is full; all is there for the next start; once it is empty it is memory again."""
    now = [1000.0]
    outbox = Outbox(path, Limits(spill_s=600, ram_bytes=50_000), lambda: now[0], mono=lambda: now[0])
    outbox.put([event("a")])
    now[0] += 599
    outbox.put([event("b")])
    assert not outbox.on_disk
    now[0] += 1
    outbox.put([event("c")])
    assert outbox.on_disk
    assert [one.seq for one in records(outbox)] == [1, 2, 3]
    copy = path.parent / "copy"
    copy.mkdir()
    for name, data in _files(path).items():
        (copy / name).write_bytes(data)
    after = Outbox(copy / path.name, Limits(spill_s=600))
    assert after.on_disk
    assert [one.body.events[0].details["text"] for one in records(after)] == ["a", "b", "c"]
    outbox.settle(mark(outbox, 3))
    assert not outbox.on_disk
    outbox.put([log(os.urandom(5000).hex()) for _ in range(9)])
    assert outbox.on_disk
    assert [one.seq for one in records(outbox)] == list(range(4, 13))


def _files(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in path.parent.iterdir() if one.is_file()}


def test_outbox_that_spills_stores_all_when_it_is_closed_and_declares_what_a_crash_took(path):
    """Closed: the same epoch, every record. Killed: what was in memory is declared, and no number comes again."""
    outbox = Outbox(path, Limits(spill_s=600))
    outbox.put([event("a")])
    epoch = outbox.epoch
    outbox.close()
    second = Outbox(path, Limits(spill_s=600))
    assert second.epoch == epoch
    assert [one.body.events[0].details["text"] for one in records(second)] == ["a"]
    second.settle(mark(second, 1))
    assert second.put([event("b")]) == [2]
    del second  # as if killed: nothing is closed
    third = Outbox(path, Limits(spill_s=600))
    assert third.epoch == epoch
    assert third.put([event("c")]) == [BLOCK + 1]
    third.declare(AT)
    assert lost_in(records(third)) == {(epoch, number) for number in range(2, BLOCK + 1)}


def test_outbox_that_cannot_spill_keeps_memory_and_tries_again(path, monkeypatch):
    """The disk is full when it should go there: an event says so, nothing is lost, minutes later it works."""
    now = [1000.0]
    outbox = Outbox(path, Limits(spill_s=60), lambda: now[0], mono=lambda: now[0])
    outbox.put([event("a")])
    now[0] += 61

    def fails() -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(outbox, "_to_disk", fails)
        for _ in range(3):
            outbox.put([event("b")])
    assert not outbox.on_disk
    assert [one.body.events[0].code for one in records(outbox)].count("outbox_spill_failed") == 1
    now[0] += 301
    outbox.put([event("c")])
    assert outbox.on_disk
    assert len(records(outbox)) == 6


CHILD = """
import sys
from pathlib import Path
from edgert.link.outbox import Outbox
from edgert.record import Event, Events, Stamp
outbox = Outbox(Path(sys.argv[1]))
print("epoch", outbox.epoch.hex(), flush=True)
while True:
    for number in outbox.put([(Stamp(0), Events((Event("x", 0),))) for _ in range(3)]):
        print(number, flush=True)
"""


def test_killed_process_loses_no_record_and_repeats_no_number(path):
    """kill -9 in the middle of writing, five times: each number that was given out is there exactly once."""
    given, epochs = list[int](), set[str]()
    for turn in range(5):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        epochs.add(child.stdout.readline())
        for _ in range(20 + 7 * turn):
            given.append(int(child.stdout.readline()))
        child.kill()
        given += [int(line) for line in child.stdout.read().split("\n") if line]
        child.wait()
        child.stdout.close()
    assert len(epochs) == 1
    assert len(set(given)) == len(given)
    outbox = Outbox(path)
    there = [one.seq for one in outbox.waiting(0, 100_000)]
    assert set(given) <= set(there)
    assert as_ranges(there) == [(1, max(there))]
    assert outbox.declare(AT) == []
    assert NumbersFile(path.with_name(path.name + NUMBERS_SUFFIX)).upto[outbox.epoch] >= max(there)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 1 MB; skips where nobody may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"cannot mount a tmpfs: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_full_disk_goes_on_in_memory_and_all_numbers_are_accounted_for(small_disk):
    """Every record is still there, under a new epoch or the old, or declared lost; none has a number twice."""
    outbox = Outbox(small_disk / "outbox.db")
    first = outbox.epoch
    count = 0
    while outbox.on_disk and count < 300:
        outbox.put([log(os.urandom(8000).hex())])
        count += 1
    assert not outbox.on_disk
    assert count > 10
    assert outbox.epoch != first
    found = records(outbox)
    events = [one.body.events[0] for one in found if isinstance(one.body, Events)]
    assert [one.code for one in events] == ["outbox_reset"]
    assert "full" in events[0].details["why"]
    assert len([one for one in found if one.kind == "log"]) == count
    assert [one.seq for one in found] == list(range(1, len(found) + 1))
    outbox.close()
    second = outbox.epoch
    for file in small_disk.glob("outbox.db.damaged*"):
        file.unlink()
    again = Outbox(small_disk / "outbox.db")
    assert again.on_disk
    again.declare(AT)
    lost = lost_in(records(again))
    assert {(second, one.seq) for one in found} <= lost
    assert {(first, one) for one in range(1, count)} <= lost
    assert again.epoch not in (first, second)


@pytest.mark.parametrize("what", ["settle", "declare", "renumber"])
def test_full_disk_ends_neither_watermarks_nor_declarations(small_disk, what):
    """Not only `put` writes: whatever finds the disk full goes on in memory, and every old number is accounted for."""
    outbox = Outbox(small_disk / "outbox.db", Limits(max_bytes=2_000))
    first = outbox.epoch
    numbers = [outbox.put([log(os.urandom(200).hex())])[0] for _ in range(10)]
    committed = outbox.waiting(0, 1)[0].seq
    outbox._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # else there is room in the log
    with (small_disk / "ballast").open("ab", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(512))
    calls = {"settle": lambda: outbox.settle(mark(outbox, committed)), "renumber": outbox.renumber}
    calls.get(what, lambda: outbox.declare(AT))()
    (small_disk / "ballast").unlink()
    assert not outbox.on_disk
    outbox.declare(AT)
    assert {(first, one) for one in numbers} <= lost_in(records(outbox))


def test_renumbered_records_declare_their_old_numbers_lost(path):
    """And those that the lost store may have given beyond; a record that is there counts all the same."""
    outbox = Outbox(path)
    outbox.put([event("a"), event("b"), event("c")])
    outbox.settle(mark(outbox, 1))
    first = outbox.epoch
    outbox.renumber()
    outbox.declare(AT)
    assert lost_in(records(outbox)) == {(first, number) for number in range(2, BLOCK + 1)}
