"""Resident memory: the agent beside a process that only runs its model, and the link without any model.

Each is a process of its own, measured from outside after it has worked for some seconds against a real mosquitto and
the reference consumer. "Own" is what no other process shares (private pages). The processes are in
`bench_link_memory_child`, which imports nothing of the benchmark.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from edgert.commands.printing import table
from examples.store_and_forward.consumer import Consumer
from tests.bench_link_memory_child import EVERY_S, FEEDS
from tests.link.brokers import Mosquitto

MOST_BESIDE_MODEL_MB, MOST_LINK_MB = 60.0, 35.0
ROUNDS, WORK_S, LOOKS = 3, 6.0, 5
CONFIG = """
[device]
tenant = "acme"
id = "bench-1"
[bundle]
path = "{bundle}"
device = "cpu"
[input]
kind = "callable"
function = "tests.bench_link_memory_child:feeds"
every_s = {every_s}
[report]
window_s = 1
sample_s = 0.1
[link]
url = "mqtt://127.0.0.1:{port}"
path = "outbox.db"
"""


@dataclass(frozen=True)
class Memory:
    """Megabytes of 10^6 bytes of one process."""

    resident: float
    own: float


def look(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Memory:
    """Start a process, let it work, and return its memory as the median of some looks."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment, cwd=folder
    ) as one:
        try:
            time.sleep(WORK_S)
            found = []
            for _ in range(LOOKS):
                found.append(_memory(one.pid))
                time.sleep(0.2)
            assert one.poll() is None, f"{command} ended with {one.poll()}"
        finally:
            one.kill()
    return Memory(*(statistics.median(getattr(each, name) for each in found) for name in ("resident", "own")))


def _memory(pid: int) -> Memory:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    sizes = {name: int(size) * 1024 / 1e6 for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    return Memory(sizes["Rss"], sizes["Private_Clean"] + sizes["Private_Dirty"])


def of_link() -> Memory:
    """Return the memory of outbox, publisher and connection, at ten batches a second."""
    with ExitStack() as open_things:
        folder, port = _server(open_things)
        return look(_command("--link", str(folder), str(port)), dict(os.environ), folder)


def of_agent(bundle: Path, samples: Path) -> tuple[Memory, Memory]:
    """Return the memory of the model's process and of the agent's, both at twenty calls a second."""
    with ExitStack() as open_things:
        folder, port = _server(open_things)
        environment = {**os.environ, FEEDS: str(samples)}
        bare = look(_command("--bare", str(bundle)), environment, folder)
        config = folder / "agent.toml"
        config.write_text(CONFIG.format(bundle=bundle, every_s=EVERY_S, port=port), encoding="utf-8")
        agent = [sys.executable, "-m", "edgert", "agent", "--config", str(config)]
        return bare, look(agent, environment, folder)


def _server(open_things: ExitStack) -> tuple[Path, int]:
    """Start a broker and, in this process, a consumer."""
    folder = Path(open_things.enter_context(tempfile.TemporaryDirectory(prefix="edgert-memory-")))
    broker = Mosquitto(folder)
    broker.start()
    open_things.callback(broker.kill)
    consumer = Consumer(folder / "server.db")
    consumer.start(broker.port)
    open_things.callback(consumer.stop)
    return folder, broker.port


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "tests.bench_link_memory_child", *words]


def medians(measure: Callable[[], Memory]) -> Memory:
    """Return the medians of some rounds."""
    found = [measure() for _ in range(ROUNDS)]
    return Memory(*(statistics.median(getattr(one, name) for one in found) for name in ("resident", "own")))


def measure(bundles: Mapping[str, tuple[Path, Path]]) -> bool:
    """Print the table for model name -> (bundle, feeds); whether both bars hold."""
    python = medians(lambda: look([sys.executable, "-c", "input()"], dict(os.environ), Path.cwd()))
    link = medians(of_link)
    rows = [("python alone", python, ""), ("link without a model", link, f"bar {MOST_LINK_MB:g}")]
    held = link.resident <= MOST_LINK_MB
    for name, (bundle, samples) in bundles.items():
        pairs = [of_agent(bundle, samples) for _ in range(ROUNDS)]
        beside = statistics.median(agent.resident - bare.resident for bare, agent in pairs)
        held &= beside <= MOST_BESIDE_MODEL_MB
        for place, what in enumerate(("edgert.load and run", "edgert agent")):
            middle = Memory(
                *(statistics.median(getattr(one[place], key) for one in pairs) for key in ("resident", "own"))
            )
            note = f"+{beside:.1f} beside the model, bar {MOST_BESIDE_MODEL_MB:g}" if place else ""
            rows.append((f"{what}, {name}", middle, note))
    cells = [(name, f"{one.resident:.1f}", f"{one.own:.1f}", note) for name, one, note in rows]
    print(table((f"MB, median of {ROUNDS}", "RSS", "own", ""), cells), flush=True)
    return held
