"""Loading and running a bundle talks to nobody: no internet socket is opened and no telemetry is kept."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgert.manifest import Placement
from tests.runtime.small_models import save_identity_net, save_qdq_net, write_conv_bundle

# Python's own guard, in the child itself: any use of a socket from Python code ends it.
GUARD = """
import sys
def refuse(event, arguments):
    if event.startswith("socket."):
        sys.stderr.write(f"{event} {arguments}\\n")
        raise SystemExit(99)
sys.addaudithook(refuse)
"""
CHILD = """
import sys
import numpy as np
import edgert
for device in sys.argv[2:]:
    with edgert.load(sys.argv[1], device=device) as model:
        model.run({"x": np.zeros((1, 3, 16, 16), np.float32)})
        print(model.explain()["provider"])
"""


def bundle(folder: Path) -> Path:
    """Write a bundle for NPU, GPU and CPU."""
    return write_conv_bundle(
        folder,
        [
            Placement("qdq", "QNNExecutionProvider", "npu"),
            Placement("fp32", "WebGpuExecutionProvider", "gpu"),
            Placement("fp32", "CPUExecutionProvider", "cpu"),
        ],
        models={"qdq": save_qdq_net, "fp32": save_identity_net},
    )


def environment(home: Path) -> dict[str, str]:
    """Return an environment with a home of its own and without the telemetry switch, which edgert itself sets."""
    kept = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    return {**kept, "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "USERPROFILE": str(home)}


def test_load_and_run_open_no_socket_from_python(tmp_path: Path) -> None:
    """No Python code on the way of `load` and `run` touches a socket, on any processor."""
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-c", GUARD + CHILD, str(bundle(tmp_path)), "auto", "gpu", "npu"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(home), check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 3


def test_socket_guard_catches_a_socket(tmp_path: Path) -> None:
    """The guard of the test above really ends a process that opens a socket."""
    code = GUARD + "import socket\nsocket.socket()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path, check=False)
    assert done.returncode == 99


def test_load_and_run_keep_no_telemetry(tmp_path: Path) -> None:
    """A fresh home holds nothing of ONNX Runtime's telemetry afterwards."""
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-c", CHILD, str(bundle(tmp_path)), "auto"]
    subprocess.run(command, capture_output=True, env=environment(home), check=True)
    left = [path for path in home.rglob("*") if "microsoft" in str(path).lower()]
    assert left == []


def test_load_and_run_open_no_internet_socket(tmp_path: Path) -> None:
    """The kernel sees no internet socket: neither Python, nor ONNX Runtime, nor a plug-in opens one."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    home, trace = tmp_path / "home", tmp_path / "trace"
    home.mkdir()
    command = [sys.executable, "-c", CHILD, str(bundle(tmp_path)), "auto", "gpu", "npu"]
    traced = [strace, "-f", "-e", "trace=socket,connect,sendto", "-o", str(trace), *command]
    done = subprocess.run(traced, capture_output=True, text=True, env=environment(home), check=False)
    if done.returncode and "ptrace" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    lines = trace.read_text(encoding="utf-8").splitlines()
    assert any("exited with 0" in line for line in lines)
    assert [line for line in lines if "AF_INET" in line] == []


def test_strace_catches_an_internet_socket(tmp_path: Path) -> None:
    """The test above would see a socket if there were one."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    trace = tmp_path / "trace"
    code = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"
    traced = [strace, "-f", "-e", "trace=socket", "-o", str(trace), sys.executable, "-c", code]
    if subprocess.run(traced, capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")
    assert "AF_INET" in trace.read_text(encoding="utf-8")
