"""What it costs to convert one model for every device profile there is, against converting it for one.

    python -m tests.bench_profiles                    the classifier of text lines, all profiles
    python -m tests.bench_profiles --model magika     another one

Each conversion is a process of its own with an empty cache, so that nothing is measured that another one has paid for.
This machine's profile and all are taken in turns, each of the others runs alone once. Emulated accelerators take their
time; that is part of the price, and is told apart.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converters.sources.environments import environments_dir
from edgert.commands.printing import table
from edgert.host import host_facts
from edgert.profile import detect_profile, list_profiles
from examples.models import fetch, models_dir
from tests import bench_data

MODELS = {"ppocr-cls": bench_data.ppocr_cls, "magika": bench_data.magika, "ppocr-det": bench_data.ppocr_det}
STATIC = ("ppocr-cls", "ppocr-det")
ROUNDS, WANTED = 3, 2.0
EMULATED = ("WebGpuExecutionProvider", "QNNExecutionProvider")
"""Providers that are emulated where the benchmark runs without their hardware."""


@dataclass(frozen=True)
class Cost:
    """Seconds of one conversion, and how many of them an accelerator's emulator ran or compiled the model."""

    seconds: float
    emulators: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the seconds of both and their ratio; returns the exit code of the conversions."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench_profiles", description=__doc__)
    parser.add_argument("--model", choices=sorted(MODELS), default="ppocr-cls")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"turns of each of the two ({ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="one round, few samples")
    asked = parser.parse_args(arguments)
    host, every = detect_profile(host_facts()), list_profiles()
    path = fetch(asked.model)
    with tempfile.TemporaryDirectory(prefix="edgert-bench-") as folder:
        data = MODELS[asked.model](path, asked.quick)
        samples = Path(folder) / "samples"
        samples.mkdir()
        for number, feeds in enumerate(data.calibration):
            np.savez(samples / f"{number:04}.npz", **feeds)
        shapes = {name: array.shape for name, array in data.calibration[0].items()} if asked.model in STATIC else {}
        others = [name for name in every if name != host]
        times: dict[str, list[Cost]] = {"one": [], "all": []}
        for number in range(1 if asked.quick else asked.rounds):
            for name in ("one", "all") if number % 2 == 0 else ("all", "one"):
                profiles = [host] if name == "one" else [host, *others]
                times[name].append(_cost(path, samples, shapes, profiles))
        alone = {name: _cost(path, samples, shapes, [name]) for name in others}
    one, each = (_median(times[name]) for name in ("one", "all"))
    alone[host] = one
    print(f"{asked.model}, {len(data.calibration)} samples; seconds, of which the emulators of accelerators")
    print(table(("profile alone", "s", "emulators"), [_row(name, cost) for name, cost in sorted(alone.items())]))
    print(table(("together", "s", "emulators"), [_row(f"all {len(every)}", each)]))
    singles = [cost.seconds for cost in alone.values()]
    print(f"all cost {each.seconds / one.seconds:.2f}x {host} alone (wanted less than {WANTED:.0f}x),")
    print(f"{(each.seconds - each.emulators) / (one.seconds - one.emulators):.2f}x without the emulators' seconds,")
    print(
        f"{each.seconds / max(singles):.2f}x the dearest alone, {each.seconds / sum(singles):.2f}x the sum of all alone"
    )
    return 0


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(*(float(np.median([getattr(one, name) for one in costs])) for name in ("seconds", "emulators")))


def _row(name: str, cost: Cost) -> tuple[str, str, str]:
    return name, f"{cost.seconds:.1f}", f"{cost.emulators:.1f}"


def _cost(path: Path, samples: Path, shapes: dict[str, tuple[int, ...]], profiles: Sequence[str]) -> Cost:
    """Convert in a process of its own, with a cache of its own; a profile that fails is part of the work."""
    with tempfile.TemporaryDirectory(prefix="edgert-bench-") as folder:
        command = [sys.executable, "-m", "edgert", "convert", str(path), "--calibration", str(samples)]
        command += ["-o", f"{folder}/out", "--license", "NOASSERTION", "--json"]
        command += [word for profile in profiles for word in ("-p", profile)]
        command += [word for name, shape in shapes.items() for word in ("--shape", f"{name}={_by_comma(shape)}")]
        kept = {"EDGERT_MODELS": str(models_dir()), "EDGERT_SOURCES": str(environments_dir())}
        begin = time.perf_counter()
        done = subprocess.run(
            command, env={**os.environ, **kept, "EDGERT_CACHE": folder}, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - begin
    if done.returncode:
        print(f"ended with {done.returncode}: {' '.join(done.stderr.split()[-40:])}", file=sys.stderr)
    stages = json.loads(done.stdout).get("stages", []) if done.stdout.startswith("{") else []
    emulators = sum(one["seconds"] for one in stages if one["stage"].endswith(EMULATED))
    return Cost(seconds, emulators)


def _by_comma(shape: Sequence[int]) -> str:
    return ",".join(map(str, shape))


if __name__ == "__main__":
    sys.exit(main())
