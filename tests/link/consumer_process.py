"""The reference consumer as a process, which can be killed, and the account that its database gives from outside."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Account:
    """What a server has of a device: (epoch, seq) of what is committed, and (epoch, first, last) of what is lost."""

    committed: list[tuple[bytes, int]]
    lost: list[tuple[bytes, int, int]]


class ConsumerProcess:
    """One consumer in `folder` at a broker of the loopback. `order_key` is for the public half of its key."""

    def __init__(self, folder: Path, port: int, order_key: bytes | None = None) -> None:
        self.order_key = b""
        self._folder, self._database = folder, folder / "server.db"
        self._command = [sys.executable, "-m", "examples.store_and_forward.consumer", str(self._database)]
        self._command.append(f"mqtt://127.0.0.1:{port}")
        if order_key is not None:
            (folder / "order.key").write_bytes(order_key)
            self._command += ["--order-key", str(folder / "order.key")]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; when it will be connected nobody knows."""
        with (self._folder / "consumer.log").open("ab") as log:
            environ = {**os.environ, "PYTHONPATH": str(ROOT)}
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environ)

    def stop(self) -> None:
        """Let it end by itself."""
        if self._process is not None:
            self._process.terminate()
            assert self._process.wait(30) == 0, (self._folder / "consumer.log").read_text()
            self._process = None

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def save(self) -> None:
        """Keep a copy of the database of a server that does not run."""
        self._copy(self._folder, self._folder / "saved")

    def restore(self) -> None:
        """Put the copy in the place of the database."""
        for one in self._folder.glob("server.db*"):
            one.unlink()
        self._copy(self._folder / "saved", self._folder)

    def account(self, device: str) -> Account:
        """Return what is in the database of a device."""
        committed = self._read("SELECT epoch, seq FROM record WHERE device = ?", device)
        return Account(committed, self._read("SELECT epoch, first, last FROM lost WHERE device = ?", device))

    def content(self, device: str) -> dict[tuple[bytes, int], bytes]:
        """Return the bodies of what is committed, as CBOR."""
        rows = self._read("SELECT epoch, seq, body FROM record WHERE device = ?", device)
        return {(epoch, seq): body for epoch, seq, body in rows}

    def aside(self) -> list[bytes]:
        """Return the payloads that it kept without being able to read them."""
        return [payload for (payload,) in self._read("SELECT payload FROM aside")]

    def _read(self, sql: str, *parameters: object) -> list:  # type: ignore[type-arg]
        if not self._database.exists():
            return []
        with closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True, timeout=30)) as database:
            try:
                return database.execute(sql, parameters).fetchall()
            except sqlite3.OperationalError as exc:
                if "no such table" in str(exc):
                    return []
                raise

    def _copy(self, source: Path, target: Path) -> None:
        target.mkdir(exist_ok=True)
        for one in source.glob("server.db*"):
            shutil.copy(one, target / one.name)
