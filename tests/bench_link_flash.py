"""Bytes that a day of reports writes to the disk, counted by strace and by the kernel: a table, and the bar.

A child runs the day on a simulated clock: every five minutes one transaction with a batch of 60 x 20 metrics and a
record of sketches, then the watermark that covers them. strace adds up what it hands to the file system. The kernel
counts the pages that it makes dirty (`write_bytes` of /proc/PID/io); since these reach the disk long before the next
report, the parent syncs the files after each step.

    python -m tests.bench_link_flash --child FOLDER EVERY_S ACKS     what strace runs; it waits for a line a step
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgert.commands.printing import table
from edgert.errors import MissingDevice
from edgert.link.outbox import Outbox
from edgert.record import Stamp, Sync, Watermark
from tests.bench_link_data import WALL_MS, sketches, synthetic

DAY_S = 86_400
MOST_BYTES_PER_DAY = 10_000_000
KEPT_SYNCED = ("outbox.db", "outbox.db-wal", "outbox.db-shm", "outbox.db.numbers")
_CALLS = "write,pwrite64,writev,pwritev,fsync,fdatasync"
_CALL = re.compile(r"(\w+)\(\d+<([^>]*)>.*\)\s+= (\d+)")


@dataclass(frozen=True)
class Plan:
    """A simulated day: a report every so many seconds, with a server that acknowledges each, or none."""

    every_s: int = 300
    acks: bool = True

    @property
    def steps(self) -> int:
        """How many reports the day has."""
        return DAY_S // self.every_s


@dataclass(frozen=True)
class Traced:
    """What the system calls of a day wrote, by the end of the file's name, and how often they waited for the disk."""

    bytes: Mapping[str, int]
    syncs: int

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.bytes.values())


def run_day(folder: Path, plan: Plan) -> Iterator[None]:
    """Put the day's reports into an outbox in `folder`; yields after each."""
    now = [WALL_MS / 1000]
    outbox = Outbox(folder / KEPT_SYNCED[0], clock=lambda: now[0])
    for step in range(plan.steps):
        now[0] += plan.every_s
        at = Stamp(step * plan.every_s * 1000, int(now[0] * 1000), Sync.NTP)
        outbox.put([(at, synthetic(seed=step).record().body), (at, sketches(step, plan.every_s * 1000))])
        if plan.acks:
            outbox.settle(Watermark(outbox.epoch, outbox.following - 1, (), at.wall_ms))
        yield
    outbox.close()


def trace(plan: Plan) -> Traced:
    """Return what strace saw of a day."""
    strace = shutil.which("strace")
    if strace is None:
        raise MissingDevice("strace is not installed", ".ci/system-packages installs it")
    with tempfile.TemporaryDirectory(prefix="edgert-flash-") as name:
        log = Path(name) / "trace"
        (Path(name) / "day").mkdir()
        options = ("-f", "-y", "-e", f"trace={_CALLS}", "-e", "signal=none", "-s", "0", "-o", str(log))
        command = [strace, *options, *_child(Path(name) / "day", plan)]
        lines = "\n" * (plan.steps + 1)
        done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MissingDevice(f"strace may not trace here: {done.stderr[-300:]}", "allow ptrace")
        return _add_up(log.read_text(encoding="utf-8"), str(Path(name) / "day"))


def _add_up(log: str, folder: str) -> Traced:
    found, syncs = Counter[str](), 0
    for call, path, answer in _CALL.findall(log):
        if path.startswith(folder):
            syncs += call.endswith("sync")
            part = Path(path).name.removeprefix(KEPT_SYNCED[0]) or "database"
            found[part] += 0 if call.endswith("sync") else int(answer)
    return Traced(dict(found), syncs)


def count_pages(plan: Plan) -> int:
    """Return the bytes of the pages that a day made dirty, each report's being on the disk before the next."""
    with tempfile.TemporaryDirectory(prefix="edgert-flash-") as name:
        folder = Path(name)
        command = _child(folder, plan)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdin is not None and child.stdout is not None
            before = written = 0
            for _ in child.stdout:  # one line a step, the first before any
                _sync(folder)
                written = _write_bytes(child.pid)
                before = before or written
                child.stdin.write("\n")
                child.stdin.flush()
        return written - before


def _child(folder: Path, plan: Plan) -> list[str]:
    words = ("--child", str(folder), str(plan.every_s), str(int(plan.acks)))
    return [sys.executable, "-m", "tests.bench_link_flash", *words]


def _sync(folder: Path) -> None:
    for name in KEPT_SYNCED:
        if (folder / name).exists():
            with (folder / name).open("rb") as file:
                os.fsync(file.fileno())


def _write_bytes(pid: int) -> int:
    text = Path(f"/proc/{pid}/io").read_text(encoding="utf-8")
    return int(re.findall(r"^write_bytes: (\d+)$", text, re.MULTILINE)[0])


def _serve(folder: Path, plan: Plan) -> None:
    """Be the child: one line out and one in before the day and after each report."""
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in run_day(folder, plan):
        print("done", flush=True)
        sys.stdin.readline()


def main() -> bool:
    """Print the table; whether the bar holds both ways where every report is acknowledged."""
    plans = {
        "every 5 min, acknowledged": Plan(),
        "every 5 min, no broker all day": Plan(acks=False),
        "every minute, acknowledged": Plan(every_s=60),
        "every minute, no broker all day": Plan(every_s=60, acks=False),
    }
    rows, held = [], True
    for name, plan in plans.items():
        traced, pages = trace(plan), count_pages(plan)
        parts = [f"{traced.bytes.get(part, 0) / 1e6:.2f}" for part in ("-wal", "database", ".numbers")]
        rows.append((name, f"{traced.total / 1e6:.2f}", *parts, f"{traced.syncs:,}", f"{pages / 1e6:.2f}"))
        held &= plan != Plan() or max(traced.total, pages) <= MOST_BYTES_PER_DAY
    head = ("MB a day", "strace", "of it WAL", "database", "numbers", "fsyncs", "dirty pages (kernel)")
    print(table(head, rows), flush=True)
    return held


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _serve(Path(sys.argv[2]), Plan(int(sys.argv[3]), bool(int(sys.argv[4]))))
    else:
        main()
