"""A running agent and a server that gives orders, with a real broker between them."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paho.mqtt.client as paho
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paho.mqtt.enums import CallbackAPIVersion

from edgert.agent.config import read_agent_config
from edgert.agent.loop import run_agent
from edgert.bundle import open_bundle
from edgert.link.orders import COMMAND, DESIRED, seal
from edgert.link.signing import is_signed
from edgert.manifest import Placement
from edgert.record import Batch, Birth, Events, LogLines, Record, Reported, Result
from edgert.topics import Address
from edgert.wire import decode
from tests.link.brokers import Mosquitto
from tests.link.test_signing import PEM
from tests.runtime.small_models import image, write_conv_bundle

HOME = Address("acme", "press-7")
PRIVATE = os.urandom(32)
PUBLIC = Ed25519PrivateKey.from_private_bytes(PRIVATE).public_key().public_bytes_raw()


class Server:
    """Gives orders and keeps the records that came."""

    def __init__(self, port: int) -> None:
        self.payloads = list[tuple[str, bytes]]()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="server")
        self._client.on_message = lambda _client, _data, one: self.payloads.append((one.topic, one.payload))
        self._client.connect("127.0.0.1", port)
        self._client.subscribe(f"{HOME.root}/up/#", 1)
        self._client.loop_start()

    def records(self, kind: type) -> list[Record]:
        """Return the records of a kind, each once: without a watermark a device sends all again."""
        every = [decode(payload, topic.rsplit("/", 1)[1]) for topic, payload in list(self.payloads)]
        found = {(one.epoch, one.seq): one for one in every if isinstance(one.body, kind)}
        return [found[key] for key in sorted(found)]

    def wait(self, kind: type, done: Callable[[list[Record]], bool] = bool) -> list[Record]:
        until = time.monotonic() + 20
        while time.monotonic() < until and not done(self.records(kind)):
            time.sleep(0.05)
        assert done(self.records(kind)), [
            (topic, decode(one, topic.rsplit("/", 1)[1]).seq) for topic, one in self.payloads
        ]
        return self.records(kind)

    def order(self, purpose: str, **fields: object) -> None:
        document = {"tenant": "acme", "device": "press-7", "expires_ms": int(time.time() * 1000) + 60_000, **fields}
        kind = "desired" if purpose == DESIRED else "cmd"
        self._client.publish(HOME.down(kind), seal(document, purpose, PRIVATE), retain=purpose == DESIRED)

    def command(self, name: str, id_: str, **args: object) -> Result:
        self.order(COMMAND, id=id_, name=name, args=args)
        found = self.wait(Result, lambda records: any(one.body.id == id_ for one in records))
        return next(one.body for one in found if one.body.id == id_)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path):
    (tmp_path / "broker").mkdir()
    broker = Mosquitto(tmp_path / "broker")
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def agent(tmp_path: Path, broker: Mosquitto):
    """Return what starts an agent, and ends it with the test."""
    write_conv_bundle(tmp_path, [Placement("fp32", "CPUExecutionProvider", "cpu")])
    (tmp_path / "inputs").mkdir()
    np.save(tmp_path / "inputs" / "0.npy", image(0))
    (tmp_path / "inputs" / "1.npy").write_bytes(b"garbage")
    key = tmp_path / "key.pem"
    key.write_bytes(Ed25519PrivateKey.generate().private_bytes(*PEM))
    key.chmod(0o600)
    (tmp_path / "agent.toml").write_text(f"""
    [device]
    tenant = "acme"
    id = "press-7"
    [bundle]
    path = "convs"
    [input]
    kind = "folder"
    folder = "inputs"
    every_s = 0
    [report]
    window_s = 3600
    sample_s = 1
    [link]
    url = "mqtt://127.0.0.1:{broker.port}"
    path = "outbox.db"
    sign_key_file = "key.pem"
    order_keys = ["{PUBLIC.hex()}"]
    """)
    running = list[tuple[threading.Event, threading.Thread]]()

    def start() -> Callable[[], None]:
        stop = threading.Event()
        thread = threading.Thread(target=lambda: run_agent(read_agent_config(tmp_path / "agent.toml"), stop))
        thread.start()
        running.append((stop, thread))
        return lambda: (stop.set(), thread.join())[1]

    yield start
    for stop, thread in running:
        stop.set()
        thread.join()


def test_agent_follows_commands_and_answers(agent, broker):
    """A report at once, the log, who it is once more; what it does not know is refused; all records are signed."""
    server = Server(broker.port)
    agent()
    (birth,) = server.wait(Birth)
    server.wait(Events)
    assert server.command("report", "c-1").status == "done"
    (batch,) = server.wait(Batch)
    assert sum(batch.body.columns[0].values) == 1
    assert sum(batch.body.columns[1].values) == 1
    assert server.command("log", "c-2", lines=10).result == {"records": 1}
    (lines,) = server.wait(LogLines)
    assert any("1.npy" in text for _, _, text in lines.body.lines)
    assert server.command("rebirth", "c-3").status == "done"
    assert len(server.wait(Birth, lambda found: len(found) == 2)) == 2
    assert server.command("explode", "c-4").status == "refused"
    assert all(is_signed(payload, topic, birth.body.keys) for topic, payload in server.payloads)
    server.close()


def test_agent_runs_the_bundle_that_the_server_wants_and_says_so(agent, broker, tmp_path):
    """One of its library, by digest: a new birth names it, a restart finds it again, nonsense changes nothing."""
    server = Server(broker.port)
    library = tmp_path / "library"
    library.mkdir()
    other = write_conv_bundle(library, [Placement("fp32", "CPUExecutionProvider", "cpu")], min_cosine=0.9)
    (library / "broken.edgert").write_bytes(b"nonsense")
    text = (tmp_path / "agent.toml").read_text()
    (tmp_path / "agent.toml").write_text(text.replace('path = "convs"', 'path = "convs"\n    library = "library"'))
    wanted = open_bundle(other).digest
    stop = agent()
    (first,) = server.wait(Birth)
    assert first.body.slots[0].digest != wanted
    server.order(DESIRED, version=1, state={"slots": {"main": wanted}})
    (told,) = server.wait(Reported)
    assert told.body.state["slots"] == {"main": wanted}
    assert "error" not in told.body.state
    births = server.wait(Birth, lambda found: len(found) == 2)
    assert births[1].body.slots[0].digest == wanted
    server.order(DESIRED, version=2, state={"slots": {"main": "0" * 64}})
    told = server.wait(Reported, lambda found: len(found) == 2)[1]
    assert told.body.state["slots"] == {"main": wanted}
    assert "there are" in told.body.state["error"]
    np.save(tmp_path / "inputs" / "2.npy", image(2))
    server.order(DESIRED, version=3, state={"slots": {"main": wanted}})
    server.wait(Reported, lambda found: len(found) == 3)
    stop()
    agent()
    later = server.wait(Birth, lambda found: any(one.boot == 2 and one.body.slots[0].digest == wanted for one in found))
    assert later
    server.close()


def test_agent_holds_the_desired_state_over_a_restart(agent, broker):
    """Reported as version 7; after a restart the same again; what was ordered meanwhile is found; 6 is refused."""
    server = Server(broker.port)
    stop = agent()
    server.wait(Birth)
    server.order(DESIRED, version=7, state={"window_s": 1, "log_level": "warning", "slots": {"main": "0" * 64}})
    (told,) = server.wait(Reported)
    assert told.body.version == 7
    assert told.body.state["window_s"] == 1
    assert told.body.state["slots"]["main"] == server.records(Birth)[0].body.slots[0].digest
    assert "no folder of bundles" in told.body.state["error"]
    server.wait(Batch, lambda found: len(found) >= 2)
    stop()
    stop = agent()
    again = server.wait(Reported, lambda found: len(found) == 2)
    assert (again[1].body.version, again[1].boot) == (7, 2)
    stop()
    server.order(DESIRED, version=8, state={"window_s": 2})
    agent()
    later = server.wait(Reported, lambda found: len(found) == 4)
    assert [(one.body.version, one.boot) for one in later[2:]] == [(7, 3), (8, 3)]
    server.order(DESIRED, version=6, state={"window_s": 9})
    events = server.wait(
        Events, lambda found: any(one.code == "order_refused" for it in found for one in it.body.events)
    )
    assert "older than 8" in str(events)
    server.close()
