"""What edgert adds to plain onnxruntime: microseconds per call on a tiny model, milliseconds per import.

Run it: python -m tests.bench_overhead
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime

from edgert.manifest import Placement
from edgert.runtime.model import load
from edgert.runtime.session import Session
from tests.runtime.small_models import CPU, image, save_tiny_net, write_conv_bundle

IMPORTS = {
    "onnxruntime": "import onnxruntime",
    "edgert": "import onnxruntime, edgert",
    "edgert.load": "import onnxruntime, edgert; edgert.load",
}


def call_overhead(rounds: int = 200, calls: int = 50) -> dict[str, float]:
    """Return the median microseconds per call of each way to run one tiny model, in interleaved rounds."""
    with tempfile.TemporaryDirectory() as folder:
        placement = Placement("fp32", CPU.provider, "cpu")
        path = write_conv_bundle(Path(folder), [placement], models={"fp32": save_tiny_net}, golden_of=save_tiny_net)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        raw = onnxruntime.InferenceSession(path / "fp32.onnx", settings, providers=[CPU.provider])
        feeds = {"x": image()}
        with Session.open(path / "fp32.onnx", CPU, threads=1) as session, load(path, threads=1) as model:
            ways: dict[str, Callable[[], object]] = {
                "onnxruntime": lambda: raw.run(None, feeds),
                "Session.run": lambda: session.run(feeds),
                "Model.run": lambda: model.run(feeds),
            }
            return _medians(ways, rounds, calls)


def _medians(ways: dict[str, Callable[[], object]], rounds: int, calls: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, call in ways.items():
            start = time.perf_counter()
            for _ in range(calls):
                call()
            times[name].append((time.perf_counter() - start) / calls * 1e6)
    return {name: statistics.median(values) for name, values in times.items()}


def import_time(rounds: int = 7) -> dict[str, float]:
    """Return the median milliseconds that a fresh interpreter takes to import, in interleaved rounds."""
    code = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    with tempfile.TemporaryDirectory() as bytecode:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode, "PYTHONDONTWRITEBYTECODE": ""}
        for _ in range(rounds + 1):
            for name, statement in IMPORTS.items():
                command = [sys.executable, "-c", code.format(statement)]
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
                times[name].append(float(done.stdout) * 1e3)
    return {name: statistics.median(values[1:]) for name, values in times.items()}  # the first one compiles


def main() -> None:
    """Print both tables."""
    for title, unit, table in (
        ("one call", "us", call_overhead()),
        ("import", "ms", import_time()),
    ):
        plain = table["onnxruntime"]
        for name, value in table.items():
            print(f"{title:9} {name:12} {value:8.1f} {unit}  {value - plain:+.1f}")


if __name__ == "__main__":
    main()
