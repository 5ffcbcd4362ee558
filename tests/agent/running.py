"""A bundle, a configuration and a running agent, for the tests of its inputs."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgert.agent.config import read_agent_config
from edgert.agent.loop import Summary, run_agent
from edgert.runtime.prepare import Preparer, open_preparer
from edgert.task import AudioSpec, Task
from tests.runtime.task_files import Net, loudness, mean_color, write_task_bundle

ROOT = Path(__file__).resolve().parent.parent.parent
SOUND = Task("audio-classification", "scores", audio=AudioSpec("wave", "waveform", 8000))


def color_preparer() -> Preparer:
    """Return what makes the feeds of `mean_color`: pictures of 4 x 4 pixels."""
    return open_preparer(None, mean_color().inputs, Path)


def sound_preparer() -> Preparer:
    """Return what makes the feeds of `loudness`: 100 samples at 8 kHz."""
    return open_preparer(SOUND, loudness().inputs, Path)


def write_config(folder: Path, inputs: str, net: Net | None = None, task: Task | None = None) -> Path:
    """Write a bundle and the configuration of an agent whose outputs go to `out.jsonl`."""
    if not (folder / "net.edgert").exists():
        write_task_bundle(folder / "net.edgert", net or mean_color(), task)
    path = folder / "agent.toml"
    path.write_text(f'[bundle]\npath = "net.edgert"\n[input]\n{inputs}\n[output]\njsonl = "out.jsonl"\n')
    return path


def lines(folder: Path) -> list[dict[str, object]]:
    """Return what the agent has written of its outputs."""
    path = folder / "out.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def wait_for(done: Callable[[], object], seconds: float = 30) -> None:
    """Wait until `done` is true; fail where it does not become so."""
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


@contextmanager
def running(path: Path) -> Iterator[list[Summary]]:
    """Run the agent in a thread; the list holds its summary after the end."""
    stop, ready, found = threading.Event(), threading.Event(), list[Summary]()
    config = read_agent_config(path)
    thread = threading.Thread(target=lambda: found.append(run_agent(config, stop, ready=ready.set)))
    thread.start()
    try:
        assert ready.wait(30)
        yield found
    finally:
        stop.set()
        thread.join()


@contextmanager
def process(path: Path, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """Run `edgert agent` as a process of its own, which the caller ends."""
    command = [sys.executable, "-m", "edgert", "agent", "--config", str(path), "--json"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    agent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)
    try:
        yield agent
    finally:
        agent.kill()
        agent.communicate()
