"""The device loop: what comes in is run, what goes wrong is counted, and what was measured is stored before it ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgert.agent.config import parse_agent_config, read_agent_config
from edgert.agent.loop import run_agent
from edgert.agent.window import SCHEMA
from edgert.errors import BadInput, VerificationFailed
from edgert.link.outbox import Outbox
from edgert.manifest import Placement
from edgert.record import Batch, Birth, Events, Record, Sketches
from edgert.wire import decode, schema_hash
from examples.store_and_forward.demo import run as store_and_forward
from tests.link.brokers import MOSQUITTO, free_port
from tests.runtime.small_models import image, write_conv_bundle

PLACE = Placement("fp32", "CPUExecutionProvider", "cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a bundle `convs` and five inputs."""
    write_conv_bundle(tmp_path, [PLACE])
    (tmp_path / "inputs").mkdir()
    for number in range(5):
        np.save(tmp_path / "inputs" / f"{number}.npy", image(number))
    return tmp_path


def config(folder: Path, link: str = "", window_s: float = 60) -> str:
    text = f"""
    [device]
    tenant = "acme"
    id = "press-7"
    [bundle]
    path = "convs"
    [input]
    kind = "folder"
    folder = "inputs"
    every_s = 0
    [output]
    jsonl = "out.jsonl"
    [report]
    window_s = {window_s}
    sample_s = 0.2
    {link}
    """
    (folder / "agent.toml").write_text(text)
    return text


def run_until(folder: Path, done: Callable[[], bool]) -> tuple[int, int]:
    """Run the agent until `done`; return its calls and errors."""
    stop, found = threading.Event(), []
    thread = threading.Thread(target=lambda: found.append(run_agent(read_agent_config(folder / "agent.toml"), stop)))
    thread.start()
    end = time.monotonic() + 30
    while thread.is_alive() and not done() and time.monotonic() < end:
        time.sleep(0.05)
    stop.set()
    thread.join()
    return found[0].calls, found[0].errors


def lines(folder: Path) -> list[dict[str, object]]:
    path = folder / "out.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def stored(folder: Path) -> list[Record]:
    outbox = Outbox(folder / "outbox.db")
    found = [decode(one.payload, one.kind) for one in outbox.waiting(0, 1000)]
    outbox.close()
    return found


def link(port: int) -> str:
    return f'[link]\nurl = "mqtt://127.0.0.1:{port}"\npath = "outbox.db"\n'


def test_agent_without_a_link_runs_every_file_once_and_those_that_appear_later(folder):
    """By name, each once; a file that comes while it runs is taken, too."""
    config(folder)
    late = folder / "inputs" / "z.npy"

    def done() -> bool:
        if len(lines(folder)) == 5 and not late.exists():
            np.save(late, image(9))
        return len(lines(folder)) == 6

    assert run_until(folder, done) == (6, 0)
    assert [one["input"] for one in lines(folder)] == [*(f"{number}.npy" for number in range(5)), "z.npy"]


def test_agent_counts_an_input_that_cannot_be_read_and_goes_on(folder):
    """Garbage, and an array of another shape: two errors, the others are run."""
    (folder / "inputs" / "1.npy").write_bytes(b"garbage")
    np.save(folder / "inputs" / "2.npy", np.zeros((1, 5), np.float32))
    config(folder)
    assert run_until(folder, lambda: len(lines(folder)) == 3) == (3, 2)


def test_agent_stores_what_it_measured_where_no_broker_is(folder):
    """A birth, the loaded model, and on the end the last window: metrics of every sample, and the model's times."""
    config(folder, link(free_port()))
    calls, errors = run_until(folder, lambda: len(lines(folder)) == 5)
    assert (calls, errors) == (5, 0)
    found = stored(folder)
    assert isinstance(found[0].body, Birth)
    assert found[0].body.slots[0].used == "CPUExecutionProvider"
    assert found[0].body.slots[0].digest
    event = next(one.body for one in found if isinstance(one.body, Events))
    assert (event.events[0].code, event.events[0].details["provider"]) == ("model_loaded", "CPUExecutionProvider")
    batch = next(one.body for one in found if isinstance(one.body, Batch))
    assert batch.schema == schema_hash(SCHEMA) == schema_hash(found[0].body.schemas[0])
    told = dict(zip([metric.name for metric in SCHEMA], batch.columns, strict=False))
    assert sum(told["inferences_total"].values) == 5
    assert all(value * 10_000 > 20_000_000 for value in told["resident_memory_bytes"].values)
    sketches = next(one.body for one in found if isinstance(one.body, Sketches))
    assert sum(sketches.sketches["run_seconds"].counts) == 5


def test_agent_that_is_told_to_end_stores_everything_and_exits_0(folder):
    """SIGTERM, as systemd sends it; readiness and the end are told to its socket."""
    config(folder, link(free_port()), window_s=1)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-m", "edgert", "agent", "--config", str(folder / "agent.toml"), "--json"]
    agent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    end = time.monotonic() + 60
    while len(lines(folder)) < 5 and time.monotonic() < end:
        time.sleep(0.1)
    agent.send_signal(signal.SIGTERM)
    output, _ = agent.communicate(timeout=30)
    assert agent.returncode == 0
    summary = json.loads(output)
    assert summary["calls"] == 5
    found = stored(folder)
    assert summary["waiting"] == len(found)
    counted = [sum(one.body.columns[0].values) for one in found if isinstance(one.body, Batch)]
    assert sum(counted) == 5


def test_agent_tells_less_where_the_day_has_no_room_and_says_so(folder):
    """A budget of 10 kB a day and a report a second: an event names the step, the reason and what is left out."""
    config(folder, link(free_port()) + "[budget]\nbytes_per_day = 10000\n", window_s=1)
    seen = list[float]()

    def done() -> bool:
        if len(lines(folder)) == 5:
            seen.append(time.monotonic())
        return bool(seen) and seen[-1] - seen[0] > 2.5

    run_until(folder, done)
    found = stored(folder)
    told = [one for it in found if isinstance(it.body, Events) for one in it.body.events if one.code == "report_detail"]
    assert told[0].details["because"] == "bytes_per_day"
    assert told[0].details["step"] == 5
    assert "sketches other than run_seconds" in told[0].details["left_out"]
    batches = [one.body for one in found if isinstance(one.body, Batch)]
    assert [len(one.columns) for one in batches] == [len(SCHEMA), 2]


@pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed; run .ci/system-packages")
def test_store_and_forward_example_loses_nothing_while_the_broker_is_dead(folder, capfd):
    """A real broker, killed in the middle: every number the device gave is committed."""
    account = store_and_forward(folder / "convs", folder / "inputs", away_s=3)
    assert account.missing == account.twice == account.lost == 0
    assert account.produced == account.committed > 10
    assert "the broker is back" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (('kind = "folder"', 'kind = "foldr"'), r"'input\.kind'"),
        (('folder = "inputs"\n', ""), r"'input\.folder' is missing"),
        (('id = "press-7"', 'id = "Press 7"'), "device id 'Press 7'"),
        (("sample_s = 0.2", "sample_s = 100"), "sample_s"),
        (("[report]", "[reprot]"), "'reprot' is not a known key"),
        (('path = "convs"', 'path = "convs"\nthreads = -1'), "threads"),
        (("[report]", "[budget]\nbytes_per_day = 5\n[report]"), r"'budget\.bytes_per_day'"),
        (("[report]", "[budget]\nmiles_per_day = 5\n[report]"), "miles_per_day"),
    ],
)
def test_agent_config_names_the_key_that_is_wrong(folder, change, reason):
    """Misspelt, missing, out of range: the file, the key and what to do."""
    text = config(folder).replace(*change)
    with pytest.raises(BadInput, match=reason):
        parse_agent_config(text, "agent.toml", folder)


def test_agent_config_with_a_link_needs_a_device_and_an_outbox(folder):
    """Who reports has a name; where nothing is to be written, that must be said."""
    text = config(folder, '[link]\nurl = "mqtt://h"\npath = "o.db"\n')
    with pytest.raises(BadInput, match="'device' is missing"):
        parse_agent_config(
            text.replace("[device]", "").replace('tenant = "acme"', "").replace('id = "press-7"', ""), "a", folder
        )
    with pytest.raises(BadInput, match=r"'link\.path' is missing"):
        parse_agent_config(text.replace('path = "o.db"', ""), "a", folder)
    ram = parse_agent_config(text.replace('path = "o.db"', 'outbox = "ram"'), "a", folder)
    assert ram.link is not None
    assert ram.link.outbox is None
    with pytest.raises(BadInput, match=r"'link\.spill_s' is for outbox"):
        parse_agent_config(text + "spill_s = 5\n", "a", folder)
    with pytest.raises(BadInput, match="public key in hexadecimal"):
        parse_agent_config(text + 'order_keys = ["12"]\n', "a", folder)
    spill = parse_agent_config(text + f'outbox = "spill"\norder_keys = ["{"ab" * 32}"]\n', "a", folder).link
    assert spill is not None
    assert (spill.limits.spill_s, spill.order_keys) == (600, (b"\xab" * 32,))


def test_agent_does_not_begin_with_a_damaged_bundle(folder):
    """Nothing unverified is run, and nothing is reported as if it were."""
    config(folder)
    path = next((folder / "convs").glob("*.onnx"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(VerificationFailed):
        run_agent(read_agent_config(folder / "agent.toml"), threading.Event())
