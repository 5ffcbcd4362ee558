"""`edgert agent`: the loop of a device, from one TOML file, until SIGTERM or Ctrl-C."""

import dataclasses
import signal
import sys
import threading
from pathlib import Path

import click

from edgert.agent.config import read_agent_config
from edgert.agent.loop import run_agent
from edgert.commands.printing import print_json
from edgert.host import notify_service


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, help="The TOML file of the device.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document at the end.")
def agent(path: Path, as_json: bool) -> None:
    """Run a bundle on what comes in, and report to a fleet server over MQTT, until SIGTERM or Ctrl-C.

    What was measured is stored before it ends; what the server has not committed is sent at the next start. Under
    systemd it says when it is ready, and feeds the watchdog.

    \b
    Example:
      edgert agent --config examples/store_and_forward/agent.toml
    """
    config, stop = read_agent_config(path), threading.Event()
    sys.path.insert(0, str(path.parent.absolute()))  # where `module:function` beside the file is found

    def end(*_: object) -> None:
        notify_service("STOPPING=1")
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        done = run_agent(config, stop, ready=lambda: notify_service("READY=1"))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if as_json:
        print_json(dataclasses.asdict(done))
        return
    waiting = f"; {done.waiting} records wait for the server" if done.waiting else ""
    click.echo(f"{done.calls} inferences, {done.errors} errors, {done.windows} reports{waiting}")
