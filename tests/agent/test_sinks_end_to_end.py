"""An agent with sinks and no link: files, a scrape, a function beside the configuration."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from prometheus_client.parser import text_string_to_metric_families

from edgert.agent.config import parse_agent_config
from edgert.agent.loop import run_agent
from edgert.errors import BadInput
from edgert.link.sparkplug_payload import decode_payload
from edgert.manifest import Placement
from tests.link.brokers import Mosquitto, free_port
from tests.runtime.small_models import image, write_conv_bundle

CONFIG = """
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
window_s = 1
sample_s = 0.2
"""


def scraped(port: int) -> dict[str, float]:
    """Return the samples without labels; nothing where nobody answers yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    families = text_string_to_metric_families(text)
    return {one.name: one.value for family in families for one in family.samples}


def test_agent_hands_every_report_to_all_sinks_and_one_that_fails_stops_none(tmp_path):
    """Lines with a birth first, counters that a scrape sees, a user's function; another raises, and it goes on."""
    write_conv_bundle(tmp_path, [Placement("fp32", "CPUExecutionProvider", "cpu")])
    (tmp_path / "inputs").mkdir()
    for number in range(3):
        np.save(tmp_path / "inputs" / f"{number}.npy", image(number))
    (tmp_path / "mine.py").write_text(
        "import pathlib\n"
        "def fails(items):\n    raise RuntimeError('broken')\n"
        "def keeps(items):\n"
        "    with (pathlib.Path(__file__).parent / 'kept').open('a') as file:\n"
        "        file.write(''.join(type(body).__name__ + ' ' for _, body in items))\n"
    )
    port = free_port()
    (tmp_path / "agent.toml").write_text(f"""{CONFIG}
    [[sink]]
    kind = "callable"
    function = "mine:fails"
    [[sink]]
    kind = "jsonl"
    path = "reports.jsonl"
    [[sink]]
    kind = "prometheus"
    listen = "127.0.0.1:{port}"
    [[sink]]
    kind = "callable"
    function = "mine:keeps"
    """)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    command = [sys.executable, "-m", "edgert", "agent", "--config", str(tmp_path / "agent.toml"), "--json"]
    agent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    end = time.monotonic() + 60
    while scraped(port).get("edgert_inferences_total") != 3 and agent.poll() is None and time.monotonic() < end:
        time.sleep(0.2)
    found = scraped(port)
    agent.send_signal(signal.SIGTERM)
    output, errors = agent.communicate(timeout=30)
    assert agent.returncode == 0, errors
    assert json.loads(output)["calls"] == 3
    assert found["edgert_inferences_total"] == 3
    assert found["edgert_resident_memory_bytes"] > 20e6
    lines = [json.loads(line) for line in (tmp_path / "reports.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines[:2]] == ["birth", "evt"]
    assert {"tel", "sk"} < {line["kind"] for line in lines}
    assert (tmp_path / "kept").read_text().startswith("Birth Events Batch ")
    assert errors.count("RuntimeError: broken") == 1


def test_agent_speaks_sparkplug_and_to_home_assistant(tmp_path):
    """Born with the names of its metrics, data that refers to them, discovery with a state; both die cleanly."""
    (tmp_path / "broker").mkdir()
    broker = Mosquitto(tmp_path / "broker")
    broker.start()
    found = list[tuple[str, bytes]]()
    listener = paho.Client(CallbackAPIVersion.VERSION2)
    listener.on_message = lambda _client, _data, one: found.append((one.topic, one.payload))
    listener.connect("127.0.0.1", broker.port)
    listener.subscribe("#")
    listener.loop_start()
    write_conv_bundle(tmp_path, [Placement("fp32", "CPUExecutionProvider", "cpu")])
    (tmp_path / "inputs").mkdir()
    np.save(tmp_path / "inputs" / "0.npy", image(0))
    url = f'url = "mqtt://127.0.0.1:{broker.port}"'
    sinks = f'[[sink]]\nkind = "sparkplug"\n{url}\n[[sink]]\nkind = "home-assistant"\n{url}\n'
    stop = threading.Event()
    config = parse_agent_config(f"{CONFIG}{sinks}", "agent.toml", tmp_path)
    thread = threading.Thread(target=lambda: run_agent(config, stop))
    thread.start()
    end = time.monotonic() + 30
    wanted = {"spBv1.0/acme/NDATA/press-7", "homeassistant/device/edgert_press-7/config"}
    while wanted - {topic for topic, _ in found} and time.monotonic() < end:
        time.sleep(0.1)
    stop.set()
    thread.join()
    assert not wanted - {topic for topic, _ in found}
    time.sleep(0.5)
    listener.disconnect()
    listener.loop_stop()
    broker.kill()
    topics = [topic for topic, _ in found]
    birth = decode_payload(next(payload for topic, payload in found if "/NBIRTH/" in topic))
    assert "Models/0/inferences_total" in {metric.name for metric in birth.metrics}
    assert topics.index("spBv1.0/acme/NBIRTH/press-7") < topics.index("spBv1.0/acme/NDATA/press-7")
    assert topics.count("spBv1.0/acme/NDEATH/press-7") == 1
    document = json.loads(next(payload for topic, payload in found if topic.endswith("press-7/config")))
    assert len(document["components" if "components" in document else "cmps"]) > 10


@pytest.mark.parametrize(
    ("sink", "reason"),
    [
        ('kind = "jsnl"', r"sink\[0\]\.kind"),
        ('kind = "jsonl"', r"'sink\[0\]\.path' is missing"),
        ('kind = "otel"\nurl = "http://h"\nlisten = "x"', "listen"),
        ('path = "x"', r"'sink\[0\]\.kind' is missing"),
        ('kind = "sparkplug"', r"'sink\[0\]\.url' is missing"),
        ('kind = "sparkplug"\nurl = "http://h"', "write mqtt://host:1883"),
        ('kind = "sparkplug"\nurl = "mqtt://h:port"', "write mqtt://host:1883"),
        ('kind = "home-assistant"\nurl = "mqtt:///x"', "write mqtt://host:1883"),
    ],
)
def test_config_names_the_key_of_a_sink_that_is_wrong(tmp_path, sink, reason):
    """Unknown, missing, of another kind."""
    with pytest.raises(BadInput, match=reason):
        parse_agent_config(f"{CONFIG}\n[[sink]]\n{sink}\n", "agent.toml", tmp_path)


def test_config_with_a_sink_needs_a_device(tmp_path):
    """Who reports has a name."""
    text = CONFIG.replace("[device]", "").replace('tenant = "acme"', "").replace('id = "press-7"', "")
    with pytest.raises(BadInput, match="'device' is missing"):
        parse_agent_config(f'{text}\n[[sink]]\nkind = "jsonl"\npath = "x"\n', "agent.toml", tmp_path)
