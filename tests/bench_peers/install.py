"""The environments that the peers run in, each its own under edgert's cache, with the versions pinned here.

    python -m tests.bench_peers.install               make those that are not whole yet
    python -m tests.bench_peers.install sparkplug     this one alone

A version is a setting of the benchmark like any other: whoever changes one measures again.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from converters.sources.environments import interpreter
from edgert.errors import EdgertError, EnvironmentFailed
from edgert.host import cache_dir, locked

MARKER = "edgert-environment.json"

_ONNX = ("onnxruntime==1.31.1", "onnx==1.23.2", "onnx-ir==1.1.0", "sympy==1.14.0", "numpy==2.4.6")

ENVIRONMENTS: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": (*_ONNX, "onnxslim==0.1.98"),
    "openvino": (*_ONNX, "openvino==2026.4.1", "nncf==3.4.0"),
    "litert": ("ai-edge-litert==2.3.0", "numpy==2.4.6"),
    "sparkplug": ("pysparkplug==0.6.1", "paho-mqtt==1.6.1", "protobuf==7.36.2"),
}
"""Name -> what pip installs."""


def peers_dir() -> Path:
    """Return the folder that holds the environments: `$EDGERT_BENCH_PEERS`, else `bench-peers` in edgert's cache."""
    chosen = os.environ.get("EDGERT_BENCH_PEERS")
    return Path(chosen) if chosen else cache_dir() / "bench-peers"


def python_of(name: str) -> Path | None:
    """Return the Python of the environment `name`, "" being this one; None where it is not whole and as asked."""
    if not name:
        return Path(sys.executable)
    folder = peers_dir() / name
    try:
        made_with = json.loads((folder / MARKER).read_text(encoding="utf-8"))["requirements"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = made_with == list(ENVIRONMENTS[name]) and interpreter(folder).exists()
    return interpreter(folder) if whole else None


def install(name: str) -> None:
    """Make the environment `name` anew unless it is whole; EnvironmentFailed with pip's words where pip fails."""
    folder = peers_dir() / name
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(folder.parent / f"{name}.lock"):
        if python_of(name):
            return
        print(f"{name}: {' '.join(ENVIRONMENTS[name])}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(folder))
        _run(str(interpreter(folder)), "-m", "pip", "install", "--quiet", *ENVIRONMENTS[name])
        marker = {"requirements": list(ENVIRONMENTS[name])}
        (folder / MARKER).write_text(json.dumps(marker, indent=1), encoding="utf-8")


def _run(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "ERROR" in line][:2]
        raise EnvironmentFailed(
            f"{' '.join(command[1:4])} ended with {done.returncode}: {' '.join(said) or 'it said nothing'}",
            "check the network, pip's index settings and the free disk space",
        )


def main(names: Sequence[str]) -> int:
    """Make environments, all where none is named; 1 when one cannot be made here, the others are made all the same."""
    failed = 0
    for name in names or ENVIRONMENTS:
        try:
            install(name)
        except EdgertError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
