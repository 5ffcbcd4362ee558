"""A real mosquitto on a free port of the loopback, that tests start, kill and start again."""

import getpass
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Mosquitto:
    """One broker with its configuration in `folder`; it keeps what is retained over a clean stop, not over a kill."""

    def __init__(self, folder: Path, extra: str = "allow_anonymous true") -> None:
        if MOSQUITTO is None:
            pytest.skip("mosquitto is not installed; run .ci/system-packages")
        self.port = free_port()
        self._folder = folder
        self.plain = 0
        self._config = folder / "mosquitto.conf"
        self.configure(f"listener {self.port} 127.0.0.1\n{extra}\nmax_queued_messages 100000\n")
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, text: str) -> None:
        """Write the configuration; as root it would become another user, who may not read the tests' folders."""
        self._config.write_text(f"user {getpass.getuser()}\n{text}")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert MOSQUITTO is not None
        log = (self._folder / "mosquitto.log").open("ab")
        self._process = subprocess.Popen([MOSQUITTO, "-c", str(self._config)], stdout=log, stderr=log)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError((self._folder / "mosquitto.log").read_text())

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
