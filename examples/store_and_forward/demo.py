"""A device reports over a broker that dies in the middle: nothing is missing, nothing is there twice.

    python -m examples.store_and_forward.demo BUNDLE INPUTS              the broker is away for a minute
    python -m examples.store_and_forward.demo BUNDLE INPUTS --away 5     or for five seconds

`edgert agent` runs the bundle on the files of INPUTS, over and over; a real mosquitto and `consumer.py`, which commits
to SQLite, are the other side. Needs mosquitto (`.ci/system-packages` installs it) and the extra `mqtt`.
"""

import argparse
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgert.errors import EdgertError, MissingDevice
from edgert.link.outbox import Outbox
from examples.store_and_forward.consumer import Consumer

DEVICE = "press-7"
CONFIG = """
[device]
tenant = "acme"
id = "{device}"
[bundle]
path = "{bundle}"
[input]
kind = "folder"
folder = "inputs"
every_s = 0.05
[report]
window_s = 1
sample_s = 0.2
[link]
url = "mqtt://127.0.0.1:{port}"
path = "outbox.db"
"""


@dataclass(frozen=True)
class Account:
    """Where all numbers that the device gave ended."""

    produced: int
    committed: int
    lost: int
    missing: int
    twice: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it and print the account; 1 where anything is missing."""
    parser = argparse.ArgumentParser(prog="python -m examples.store_and_forward.demo", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("--away", type=float, default=60.0, help="seconds without a broker (60)")
    asked = parser.parse_args(arguments)
    try:
        account = run(asked.bundle.resolve(), asked.inputs.resolve(), asked.away)
    except EdgertError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    print(f"produced {account.produced} = committed {account.committed} + declared lost {account.lost}", end="")
    print(f"; missing {account.missing}, twice {account.twice}")
    return 1 if account.missing or account.twice else 0


def run(bundle: Path, inputs: Path, away_s: float) -> Account:
    """Let the agent run, kill the broker for `away_s` seconds, and account for every number."""
    with tempfile.TemporaryDirectory(prefix="edgert-store-") as name:
        folder = Path(name)
        _copies(inputs, folder / "inputs", count=int(20 * (away_s + 15)))
        port = _free_port()
        (folder / "agent.toml").write_text(CONFIG.format(device=DEVICE, bundle=bundle, port=port))
        consumer = Consumer(folder / "server.db")
        broker = _broker(folder, port)
        consumer.start(port)
        agent = subprocess.Popen([sys.executable, "-m", "edgert", "agent", "--config", str(folder / "agent.toml")])
        try:
            _wait_for(lambda: len(consumer.committed(DEVICE)) > 5, "the first reports", agent)
            _say(f"the agent runs, {len(consumer.committed(DEVICE))} records are in the database")
            broker.kill()
            broker.wait()
            _say(f"the broker is dead for {away_s:g} s")
            time.sleep(away_s)
            before = len(consumer.committed(DEVICE))
            broker = _broker(folder, port)
            _say(f"the broker is back; {before} records are in the database")
            _wait_for(lambda: len(consumer.committed(DEVICE)) > before + away_s, "what waited", agent)
            agent.send_signal(signal.SIGTERM)
            agent.wait(30)
            return _account(folder, consumer, port)
        finally:
            for process in (agent, broker):
                process.kill()
                process.wait()
            consumer.stop()


def _account(folder: Path, consumer: Consumer, port: int) -> Account:
    """Start the agent's link once more for what it stored last, then compare."""
    outbox = Outbox(folder / "outbox.db")
    given = {(outbox.epoch, number) for number in range(1, outbox.following)}
    waiting = {(outbox.epoch, one.seq) for one in outbox.waiting(0, 100_000)}
    outbox.close()
    del port
    committed = consumer.committed(DEVICE)
    lost = {(epoch, one) for epoch, first, last in consumer.lost(DEVICE) for one in range(first, last + 1)}
    _say(f"the agent has ended; {len(waiting - set(committed))} records wait in its outbox for the next start")
    missing = given - set(committed) - lost - waiting
    return Account(
        len(given - waiting),
        len(given & set(committed) - waiting),
        len(lost),
        len(missing),
        len(committed) - len(set(committed)),
    )


def _copies(inputs: Path, folder: Path, count: int) -> None:
    files = sorted(path for path in inputs.iterdir() if path.is_file())
    folder.mkdir()
    for number in range(count):
        source = files[number % len(files)]
        shutil.copy(source, folder / f"{number:05}{source.suffix}")


def _broker(folder: Path, port: int) -> "subprocess.Popen[bytes]":
    """Start a mosquitto on the loopback, and wait until it answers."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        raise MissingDevice("mosquitto is not installed", ".ci/system-packages installs it")
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen([program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return process
        except OSError:
            time.sleep(0.05)
    process.kill()
    raise MissingDevice("mosquitto does not answer", f"run `{program} -c {config}` and read what it says")


def _wait_for(condition, what: str, agent: "subprocess.Popen[bytes]", seconds: float = 120) -> None:  # type: ignore[no-untyped-def]
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until or agent.poll() is not None:
            raise MissingDevice(f"{what} did not arrive in {seconds:g} s", "read what the agent says above")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
