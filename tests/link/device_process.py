"""One device of the chaos tests from outside: a process behind a proxy, the faults it suffers, and its account."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgert.link.mqtt import Broker, Connection
from tests.link.brokers import Process
from tests.link.chaos_proxy import ChaosProxy
from tests.link.consumer_process import ROOT, ConsumerProcess

FAULTS = (
    *("cut", "delay", "throttle", "freeze", "close", "linger", "twin", "heal", "heal"),
    *("kill", "kill", "kill", "jump"),
)
DISK_FAULTS = ("fill", "fill", "free")
MARGIN = 12
"""More than a device produces between its note of a copy and its end."""

FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
DAY_S = 86_400


@dataclass(frozen=True)
class Produced:
    """A number that was given out, and the mark in the record."""

    epoch: bytes
    seq: int
    mark: str


class DeviceProcess:
    """A device in `folder`. `disk` is a small file system for its outbox, None for the folder itself."""

    def __init__(
        self, folder: Path, name: str, broker: Process, seed: int, disk: Path | None, max_bytes: int | None = None
    ) -> None:
        folder.mkdir()
        self.name, self.random, self.proxy = name, random.Random(seed), ChaosProxy(broker.port)
        self.suffered = Counter[str]()
        self._broker, self._folder, self._disk = broker, folder, disk
        self._outbox = (disk or folder) / "outbox.db"
        self._journal, self._clock = folder / "journal", folder / "clock"
        self._journal.touch()
        self._clock.write_text("+0")
        self._copied: int | None = None
        self._other: Connection | None = None
        self._settings = {
            "outbox": str(self._outbox),
            "journal": str(self._journal),
            "finish": str(folder / "finish"),
            "port": self.proxy.port,
            "version": broker.version,
            "name": name,
            "max_bytes": max_bytes or self.random.choice([20_000_000, 6_000]),
        }
        self._jumps = FAKETIME is not None and seed % 3 == 0
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start the process, with the clock as it is set."""
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        if self._jumps:
            environ |= {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(self._clock)}
            environ |= {"FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
            environ |= {"FAKETIME_DISABLE_SHM": "1"}  # a killed process would leave it behind
        command = [sys.executable, "-m", "tests.link.chaos_device", json.dumps(self._settings)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environ, cwd=self._folder)

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def suffer(self) -> None:
        """Let one fault happen."""
        fault = self.random.choice(FAULTS if self._disk is None else (*FAULTS, *DISK_FAULTS))
        faults: dict[str, Callable[[], None]] = {
            "cut": self.proxy.cut,
            "delay": self.proxy.delay,
            "throttle": self.proxy.throttle,
            "freeze": self.proxy.freeze,
            "close": self.proxy.close,
            "linger": self.proxy.linger,
            "heal": self.proxy.heal,
            "twin": self._connect_twin,
            "kill": self._restart,
            "jump": lambda: self.jump(self.random.randint(-20, 20)),
            "fill": self._fill,
            "free": self._free,
        }
        faults[fault]()
        self.suffered[fault] += 1

    def recover(self) -> None:
        """End all faults, and let the device finish."""
        self.proxy.heal()
        self._end_twin()
        self._free()
        if self._process is None or self._process.poll() is not None:
            self.start()
        (self._folder / "finish").touch()

    def ended(self) -> bool:
        """Whether it has ended by itself: then nothing waits any more."""
        assert self._process is not None
        code = self._process.poll()
        assert code in (None, 0), (self.name, self.log())
        return code == 0

    def close(self) -> None:
        """End what is left."""
        self.kill()
        self._end_twin()
        self.proxy.stop()

    def log(self) -> str:
        """Return what it complained about."""
        return (self._folder / "log").read_text()[-3000:]

    def wrong(self, server: ConsumerProcess) -> list[str]:
        """Return what breaks the invariant: all is committed or declared lost, and no number stands for two records."""
        account, content = server.account(self.name), server.content(self.name)
        found = [] if len(account.committed) == len(set(account.committed)) else ["a number twice"]
        for one in self.produced():
            body = content.get((one.epoch, one.seq))
            is_lost = any(epoch == one.epoch and low <= one.seq <= high for epoch, low, high in account.lost)
            if body is None and not is_lost:
                found.append(f"{one.epoch.hex()} {one.seq} is missing")
            elif body is not None and one.mark.encode() not in body and not is_lost:
                found.append(f"{one.epoch.hex()} {one.seq} is another record")
        return found

    def produced(self) -> list[Produced]:
        """Return what the journal says; a last line that is cut was not synced."""
        whole = self._journal.read_text().rpartition("\n")[0]
        rows = [line.split() for line in whole.splitlines()]
        return [Produced(bytes.fromhex(epoch), int(seq), mark) for epoch, seq, mark in rows]

    def _restart(self) -> None:
        self.kill()
        self.start()

    def jump(self, days: int) -> None:
        """Set the clock that the process sees, while it runs: of each third device, where libfaketime is there.

        The monotonic clock stays: with libfaketime's own, Python waits for ever.
        """
        self._clock.write_text(f"{days * DAY_S:+d}")

    def copy(self) -> None:
        """Keep a copy of the outbox while the device is off; the file of numbers comes along or does not."""
        self.kill()
        copies = self._folder / "copy"
        shutil.rmtree(copies, ignore_errors=True)
        copies.mkdir()
        for one in self._outbox.parent.glob("outbox.db*"):
            if one.suffix != ".numbers" or self.random.random() < 0.5:
                shutil.copy(one, copies / one.name)
        self._copied = max((one.seq for one in self.produced()), default=0)
        self.start()

    def restore(self, server: ConsumerProcess) -> bool:
        """Put the copy in the place of the outbox, where the server can know that it is one: it has later numbers."""
        account = server.account(self.name)
        is_known = self._copied is not None and any(seq > self._copied + MARGIN for _, seq in account.committed)
        if not is_known:
            return False
        self.kill()
        for suffix in ("-wal", "-shm"):
            self._outbox.with_name(self._outbox.name + suffix).unlink(missing_ok=True)
        for one in (self._folder / "copy").iterdir():
            shutil.copy(one, self._outbox.parent / one.name)
        self.start()
        return True

    def _connect_twin(self) -> None:
        """Connect as the device, which the broker throws out then."""
        self._end_twin()
        where = Broker(f"mqtt://127.0.0.1:{self._broker.port}", version=self._broker.version)
        self._other = Connection(where, self.name, (f"chaos/{self.name}", b""))
        self._other.open()

    def _end_twin(self) -> None:
        if self._other is not None:
            self._other.close()
            self._other = None

    def _fill(self) -> None:
        """Leave no byte of the small disk free."""
        assert self._disk is not None
        with (self._disk / "ballast").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def _free(self) -> None:
        if self._disk is not None:
            (self._disk / "ballast").unlink(missing_ok=True)
