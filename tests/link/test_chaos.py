"""Random faults in a row, by seed: produced = committed + declared lost, and no number stands for two records.

Everything is a process of its own that can be killed: each device, the broker, the server. EDGERT_SOAK=1 tries 10,000
schedules instead of 50; EDGERT_CHAOS_FROM=N begins at block N.
"""

import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.link.brokers import KINDS
from tests.link.consumer_process import ConsumerProcess
from tests.link.device_process import FAKETIME, DeviceProcess
from tests.link.test_publisher import until
from tests.telemetry import SOAK

SCHEDULES = 10_000 if SOAK else 50
AT_ONCE = 25
"""So many devices suffer beside each other, each with faults of its own; those of broker and server are everybody's."""

STEPS = 10
FIRST = int(os.environ.get("EDGERT_CHAOS_FROM", "0"))
ON_SMALL_DISKS = 4


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """Yield a file system of 1 MB in `folder`; None where nobody may mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        is_mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        is_mounted = False
    try:
        yield folder if is_mounted else None
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("block", range(FIRST, SCHEDULES // AT_ONCE))
def test_produced_is_committed_plus_declared_lost_after_random_faults(block, tmp_path, capsys):
    """Whatever is cut, killed, filled up or set to another time: the account closes, all is readable."""
    dice = random.Random(block)
    broker = KINDS[tuple(KINDS)[2 * block % 3]](tmp_path)  # mosquitto with version 5, NATS, mosquitto with 3.1.1
    server = ConsumerProcess(tmp_path, broker.port)
    with ExitStack() as stack:
        stack.callback(broker.kill)
        stack.callback(server.kill)
        broker.start()
        server.start()
        devices = []
        for number in range(AT_ONCE):
            on_small = number < ON_SMALL_DISKS
            disk = stack.enter_context(small_disk(tmp_path / f"disk{number}")) if on_small else None
            one = DeviceProcess(tmp_path / f"d{number}", f"d{number}", broker, 1000 * block + number, disk)
            stack.callback(one.close)
            devices.append(one)
        # a disk that is full before there is a file of numbers leaves nothing to account with
        assert until(lambda: all(one.produced() for one in devices)), unfinished(devices)
        for _ in range(STEPS):
            time.sleep(0.2 + dice.random() * 0.4)
            for one in devices:
                if dice.random() < 0.5:
                    one.suffer()
            for process in (broker, server):
                if dice.random() < 0.15:
                    process.kill()
                    time.sleep(dice.random() * 0.5)
                    process.start()
        for one in devices:
            one.recover()
        assert until(lambda: all(one.ended() for one in devices), 120), unfinished(devices)
        wrong = {one.name: found[:5] for one in devices if (found := one.wrong(server))}
        assert wrong == {}
        assert server.aside() == []
        produced = [len(one.produced()) for one in devices]
        assert min(produced) > 0
    if SOAK:
        suffered = sum((one.suffered for one in devices), Counter[str]())
        with capsys.disabled():
            print(f"\nblock {block}: {AT_ONCE} schedules, {sum(produced)} records, {dict(suffered)}", flush=True)


@pytest.mark.parametrize("days", [20, -20])
def test_clock_that_jumps_while_nobody_is_there_loses_nothing(days, tmp_path):
    """Forwards further than records may be old, and back: a clock that was set makes nothing old, all is committed."""
    if FAKETIME is None:
        pytest.skip("libfaketime is not installed; run .ci/system-packages")
    broker = KINDS["mosquitto-5"](tmp_path)
    broker.start()
    server = ConsumerProcess(tmp_path, broker.port)
    server.start()
    device = DeviceProcess(tmp_path / "d", "d", broker, 0, None, max_bytes=1_000_000)
    try:
        device.proxy.close()
        assert until(lambda: len(device.produced()) > 10)
        device.jump(days)
        before = len(device.produced())
        assert until(lambda: len(device.produced()) > before + 30)
        device.recover()
        assert until(device.ended), device.log()
        assert device.wrong(server) == []
        assert server.account("d").lost == []
    finally:
        device.close()
        server.kill()
        broker.kill()


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_older_copy_of_the_outbox_gives_no_number_to_two_records(is_forgotten, tmp_path):
    """Put back while the device is off; the retained watermark tells, or the server anew where the broker forgot."""
    broker = KINDS["mosquitto-5"](tmp_path)
    broker.start()
    server = ConsumerProcess(tmp_path, broker.port)
    server.start()
    device = DeviceProcess(tmp_path / "d", "d", broker, 1, None, max_bytes=1_000_000)
    try:
        assert until(lambda: len(device.produced()) > 10)
        device.copy()
        assert until(lambda: device.restore(server), 60)
        if is_forgotten:
            broker.kill()
            broker.start()
        before = len(device.produced())
        assert until(lambda: len(device.produced()) > before + 20)
        device.recover()
        assert until(device.ended), device.log()
        assert device.wrong(server) == []
        assert len({epoch for epoch, _ in server.account("d").committed}) == 2
    finally:
        device.close()
        server.kill()
        broker.kill()


def unfinished(devices: list[DeviceProcess]) -> list[str]:
    """Return what is known of the devices that did not end."""
    return [f"{one.name} {dict(one.suffered)} {one.log()}" for one in devices if not one.ended()]
