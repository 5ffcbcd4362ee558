"""What it costs to convert one model for every device profile there is, against converting it for one.

    python -m tests.bench_profiles                    the classifier of text lines, all profiles
    python -m tests.bench_profiles --model magika     another one

Each conversion is a process of its own with an empty cache, so that nothing is measured that another one has paid for.
The two are taken in turns. Emulated accelerators take their time in the second; that is part of the price.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from converters.sources.environments import environments_dir
from edgert.host import host_facts
from edgert.profile import detect_profile, list_profiles
from examples.models import fetch, models_dir
from tests import bench_data

MODELS = {"ppocr-cls": bench_data.ppocr_cls, "magika": bench_data.magika, "ppocr-det": bench_data.ppocr_det}
STATIC = ("ppocr-cls", "ppocr-det")
ROUNDS, WANTED = 3, 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the seconds of both and their ratio; returns the exit code of the conversions."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench_profiles", description=__doc__)
    parser.add_argument("--model", choices=sorted(MODELS), default="ppocr-cls")
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
        times: dict[str, list[float]] = {"one": [], "all": []}
        for number in range(1 if asked.quick else ROUNDS):
            for name in ("one", "all") if number % 2 == 0 else ("all", "one"):
                profiles = [host] if name == "one" else [host, *(other for other in every if other != host)]
                times[name].append(_seconds(path, samples, shapes, profiles))
    ratio = float(np.median(np.array(times["all"]) / np.array(times["one"])))
    one, each = (float(np.median(times[name])) for name in ("one", "all"))
    print(f"{asked.model}, {len(data.calibration)} samples: {host} alone {one:.1f} s, all {len(every)} {each:.1f} s")
    print(f"converting for all costs {ratio:.2f}x that for one (wanted less than {WANTED:.0f}x)")
    return 0


def _seconds(path: Path, samples: Path, shapes: dict[str, tuple[int, ...]], profiles: Sequence[str]) -> float:
    """Convert in a process of its own, with a cache of its own; a profile that fails is part of the work."""
    with tempfile.TemporaryDirectory(prefix="edgert-bench-") as folder:
        command = [sys.executable, "-m", "edgert", "convert", str(path), "--calibration", str(samples)]
        command += ["-o", f"{folder}/out", "--license", "NOASSERTION"]
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
    return seconds


def _by_comma(shape: Sequence[int]) -> str:
    return ",".join(map(str, shape))


if __name__ == "__main__":
    sys.exit(main())
