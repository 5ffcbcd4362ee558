"""Real brokers on free ports of the loopback, that tests start, kill and start again: mosquitto, and NATS with MQTT."""

import datetime
import getpass
import json
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgert.topics import Address
from tests.link.certificates import DAY, NOW, Authority

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
NATS = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
SERVER = "server"
"""The name in the certificate of the one that may do everything."""

_TLS = """listener {port} 127.0.0.1
cafile {ca}
certfile {cert}
keyfile {key}
require_certificate true
use_identity_as_username true
acl_file {folder}/acl
max_queued_messages 100000
"""


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Process:
    """A broker's process; its command line is all that differs. `version` is the MQTT that clients are to speak."""

    def __init__(self, folder: Path, command: list[str], version: int) -> None:
        self.port, self.version = free_port(), version
        self._command, self._log = command, folder / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(self.log())

    def log(self) -> str:
        """Return what it wrote."""
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Mosquitto(Process):
    """Its configuration is in `folder`; what it keeps is in memory, and gone with a kill."""

    def __init__(self, folder: Path, extra: str = "allow_anonymous true", version: int = 5) -> None:
        if MOSQUITTO is None:
            pytest.skip("mosquitto is not installed; run .ci/system-packages")
        self._folder, self._config = folder, folder / "mosquitto.conf"
        super().__init__(folder, [MOSQUITTO, "-c", str(self._config)], version)
        self.configure(f"listener {self.port} 127.0.0.1\n{extra}\nmax_queued_messages 100000\n")

    def configure(self, text: str) -> None:
        """Write the configuration; as root it would become another user, who may not read the tests' folders."""
        self._config.write_text(f"user {getpass.getuser()}\n{text}")

    def secure(self, authority: Authority, devices: Sequence[Address], ends: datetime.datetime = NOW + DAY) -> None:
        """Take only those with a certificate: devices for their own topics, the server for all."""
        cert, key = authority.issue("broker", ends=ends)
        rules = [f"user {SERVER}", "topic readwrite #"]
        for one in devices:
            rules += [f"user {one.device}", f"topic write {one.root}/up/#", f"topic write {one.status}"]
            rules += [f"topic read {one.root}/dn/#"]
        (self._folder / "acl").write_text("\n".join(rules) + "\n")
        self.configure(_TLS.format(port=self.port, ca=authority.ca_file, cert=cert, key=key, folder=self._folder))


class Nats(Process):
    """MQTT 3.1.1 over JetStream, which survives a kill. It acknowledges what it denies, and gives it to nobody."""

    def __init__(self, folder: Path, version: int = 4) -> None:
        if NATS is None:
            pytest.skip("nats-server is not installed; run pip install 'edgert[dev]'")
        self._folder, self._config = folder, folder / "nats.conf"
        super().__init__(folder, [NATS, "-c", str(self._config)], version)
        self._configure({})

    def secure(self, authority: Authority, devices: Sequence[Address], ends: datetime.datetime = NOW + DAY) -> None:
        """As for mosquitto; a subject without its last token is one of its own here."""
        cert, key = authority.issue("broker", ends=ends)
        tls = {"cert_file": str(cert), "key_file": str(key), "ca_file": str(authority.ca_file)}
        users = [{"user": f"CN={SERVER}"}, *(_permitted(one) for one in devices)]
        self._configure({"tls": {**tls, "verify_and_map": True}}, {"authorization": {"users": users}})

    def _configure(self, mqtt: dict[str, object], more: dict[str, object] | None = None) -> None:
        mqtt = {"listen": f"127.0.0.1:{self.port}", **mqtt}
        store = {"store_dir": str(self._folder / "jetstream")}
        base = {"server_name": "edge", "listen": "127.0.0.1:-1", "jetstream": store, "mqtt": mqtt}
        self._config.write_text(json.dumps({**base, **(more or {})}))


def _permitted(address: Address) -> dict[str, object]:
    root = address.root.replace("/", ".")
    allowed = {"publish": [f"{root}.up.>", f"{root}.st"], "subscribe": [f"{root}.dn", f"{root}.dn.>"]}
    return {"user": f"CN={address.device}", "permissions": allowed}


KINDS = {
    "mosquitto-5": Mosquitto,
    "mosquitto-4": lambda folder: Mosquitto(folder, version=4),
    "nats": Nats,
}
"""What tests of the link run against: the name of a broker and of its protocol, and what makes it."""
