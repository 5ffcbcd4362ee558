"""Records a second from `put` to the server's commit and the watermark back: outbox on disk, mosquitto, SQLite.

Device and consumer are processes of their own, the consumer being that of examples/store_and_forward; all share the
machine. Every record must be committed once, or the benchmark fails.

    python -m tests.bench_link_throughput                          the table
    python -m tests.bench_link_throughput --profile FOLDER         and cProfile's files of device and consumer
    python -m tests.bench_link_throughput --device|--consumer ...  what it starts itself
"""

import cProfile
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from edgert.commands.printing import table
from edgert.host import usable_cores
from edgert.link.mqtt import Connection
from edgert.link.outbox import Outbox
from edgert.link.publisher import Publisher
from edgert.link.settings import Broker, Limits
from edgert.record import Birth, Body, Event, Events, Presence, Stamp
from edgert.topics import Address
from edgert.wire import encode_presence
from examples.store_and_forward.consumer import Consumer
from tests.bench_link_data import synthetic
from tests.link.brokers import Mosquitto

ADDRESS = Address("acme", "bench-1")
LEAST_PER_SECOND = 2_000
RECORDS, ROUNDS = 20_000, 3
LIMIT_S = 300.0


@dataclass(frozen=True)
class Load:
    """What a device has to say: so many records, so many in a transaction, so many a second (0: as fast as it can)."""

    records: int = RECORDS
    per_put: int = 1
    per_second: int = 0
    batches: bool = False

    def body(self, number: int) -> Body:
        """Return the body of a record: an event, or a batch of 60 samples of 20 metrics."""
        if self.batches:
            return synthetic(seed=number % 8).record().body
        return Events((Event("tick", 0, 0, {"n": number, "place": "bench"}),))


@dataclass(frozen=True)
class Outcome:
    """What came of a load: seconds of putting and until all was committed, processor seconds, the longest queue."""

    put_s: float
    all_s: float
    cpu_s: float
    deepest: int
    sent: int
    sent_bytes: int
    consumer_cpu_s: float = 0.0
    committed: int = 0
    twice: int = 0


def run(load: Load, profiles: Path | None = None) -> Outcome:
    """Start broker, consumer and device; return the outcome when the device has an empty outbox."""
    with tempfile.TemporaryDirectory(prefix="edgert-throughput-") as name:
        folder = Path(name)
        broker = Mosquitto(folder)
        broker.start()
        try:
            return _run(load, folder, broker.port, [] if profiles is None else [str(profiles)])
        finally:
            broker.kill()


def _run(load: Load, folder: Path, port: int, profiles: list[str]) -> Outcome:
    me = [sys.executable, "-m", "tests.bench_link_throughput"]
    command = [*me, "--consumer", str(folder / "server.db"), str(port), *profiles]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as consumer:
        assert consumer.stdin is not None and consumer.stdout is not None
        consumer.stdout.readline()
        try:
            asked = json.dumps(asdict(load))
            command = [*me, "--device", str(folder), str(port), asked, *profiles]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=LIMIT_S)
        finally:
            consumer.stdin.close()
            told = consumer.stdout.read()
    return Outcome(**{**json.loads(done.stdout), **json.loads(told)})


def consume(database: Path, port: int) -> dict[str, object]:
    """Be the consumer until stdin ends."""
    consumer = Consumer(database)
    consumer.start(port)
    time.sleep(0.5)
    print("ready", flush=True)
    sys.stdin.read()
    committed = consumer.committed(ADDRESS.device)
    consumer.stop()
    twice = len(committed) - len(set(committed))
    return {"consumer_cpu_s": time.process_time(), "committed": len(set(committed)), "twice": twice}


def produce(folder: Path, port: int, load: Load) -> dict[str, object]:
    """Be the device: connect, put all records, and wait until none is left."""
    outbox = Outbox(folder / "device.db", Limits(max_bytes=1 << 30))  # a cap would drop what cannot be sent so fast
    will = (ADDRESS.status, encode_presence(Presence(False, outbox.epoch, outbox.boot)))
    link = Connection(Broker(f"mqtt://127.0.0.1:{port}"), ADDRESS.device, will)
    birth = Birth(ADDRESS.tenant, ADDRESS.device, "edgert/bench", {}, (synthetic(1).schema,), ())
    publisher = Publisher(outbox, ADDRESS, link, lambda: birth)
    publisher.start()
    _wait(lambda: publisher.is_connected and not outbox.depth().records)
    items = [(Stamp(1, 1), load.body(number)) for number in range(load.records)]
    deepest, cpu, begun = 0, time.process_time(), time.perf_counter()
    for first in range(0, len(items), load.per_put):
        outbox.put(items[first : first + load.per_put])
        if first % 200 == 0:
            deepest = max(deepest, outbox.depth().records)
        if load.per_second:
            time.sleep(max(0.0, begun + first / load.per_second - time.perf_counter()))
    put_s = time.perf_counter() - begun
    _wait(lambda: not outbox.depth().records)
    all_s = time.perf_counter() - begun
    cpu = time.process_time() - cpu
    sent, sent_bytes = publisher.counters.sent, publisher.counters.sent_bytes
    publisher.stop()
    outbox.close()
    return asdict(Outcome(put_s, all_s, cpu, deepest, sent, sent_bytes))


def _wait(condition, seconds: float = LIMIT_S) -> None:  # type: ignore[no-untyped-def]
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("the records did not arrive")
        time.sleep(0.02)


def main() -> bool:
    """Print the table; whether events, one a transaction, are committed at the least rate."""
    loads = {
        "events, one a transaction": Load(),
        "events, ten a transaction": Load(per_put=10),
        "batches of 60 x 20, one a transaction": Load(batches=True),
        f"events, one a transaction, {LEAST_PER_SECOND:,} a second asked for": Load(per_second=LEAST_PER_SECOND),
    }
    rows, rates, whole = [], {}, True
    for name, load in loads.items():
        found = [run(load) for _ in range(ROUNDS)]
        whole &= all(one.committed == load.records + 1 and not one.twice for one in found)
        middle = sorted(found, key=lambda one: one.all_s)[ROUNDS // 2]
        rates[name] = load.records / middle.all_s
        per = 1e6 / load.records
        cells = (f"{rates[name]:,.0f}", f"{load.records / middle.put_s:,.0f}", f"{middle.deepest:,}")
        costs = (f"{middle.cpu_s * per:.0f}", f"{middle.consumer_cpu_s * per:.0f}", f"{middle.sent / load.records:.2f}")
        rows.append((name, *cells, *costs))
    head = (f"{RECORDS:,} records, {usable_cores()} cores, median of {ROUNDS}", "committed/s", "put/s", "deepest")
    print(table((*head, "device us", "consumer us", "sent each"), rows), flush=True)
    print(f"every record is in the database once: {whole}")
    return whole and rates["events, one a transaction"] >= LEAST_PER_SECOND


def _child(arguments: Sequence[str]) -> None:
    role, *words = arguments
    count = 2 if role == "--consumer" else 3
    kept = Path(words[count]) if len(words) > count else None
    with cProfile.Profile() if kept is not None else nullcontext() as profile:
        if role == "--consumer":
            told = consume(Path(words[0]), int(words[1]))
        else:
            told = produce(Path(words[0]), int(words[1]), Load(**json.loads(words[2])))
    print(json.dumps(told))
    if kept is not None and profile is not None:
        profile.dump_stats(kept / f"{role.strip('-')}.prof")


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ("--device", "--consumer"):
        _child(sys.argv[1:])
    elif sys.argv[1:2] == ["--profile"]:
        print(run(Load(), Path(sys.argv[2])))
    else:
        main()
