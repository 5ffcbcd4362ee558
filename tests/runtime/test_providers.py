"""Discovery tells what can be opened, what cannot and why, and loads no emulator unasked."""

import subprocess
import sys
import threading
from pathlib import Path

import onnxruntime
import pytest

from edgert.runtime.providers import (
    PLUGINS,
    Absent,
    ProviderDevice,
    discover,
    find_device,
    htp_emulation,
    software_gpu,
)
from tests.runtime.small_models import present, save_qdq_net


def test_discover_always_finds_the_cpu_last() -> None:
    """The CPU provider is there, not emulated, and after any accelerator."""
    devices, _ = discover()
    assert devices[-1].provider == "CPUExecutionProvider"
    assert (devices[-1].processor, devices[-1].emulated) == ("cpu", False)


def test_discover_accounts_for_each_plugin_once() -> None:
    """Each plug-in row is either a device or absent, under ONNX Runtime's name, also after being asked twice."""
    for allow_emulated in (True, False, True):
        devices, absents = discover(allow_emulated=allow_emulated)
        names = [item.provider for item in (*devices, *absents)]
        assert sorted(names) == sorted(set(names))
        assert {plugin.provider for plugin in PLUGINS} <= set(names)


def test_discover_without_permission_returns_no_emulator() -> None:
    """An emulator registered earlier in the process is still not offered to someone who does not ask for it."""
    discover(allow_emulated=True)
    devices, _ = discover()
    assert not [device for device in devices if device.emulated]


def test_discover_absent_rows_have_reason_and_remedy() -> None:
    """What is absent says why and what to do."""
    for absent in discover()[1]:
        assert absent.reason
        assert absent.remedy


def test_discover_leaves_out_the_provider_that_calls_a_server() -> None:
    """AzureExecutionProvider, which some wheels carry, is never offered."""
    assert isinstance(find_device("AzureExecutionProvider"), Absent)
    assert "AzureExecutionProvider" not in {device.provider for device in discover()[0]}


def test_find_device_of_an_unknown_provider_is_absent() -> None:
    """A name that no build and no plug-in knows is absent with a reason."""
    found = find_device("NoSuchExecutionProvider")
    assert isinstance(found, Absent)
    assert "NoSuchExecutionProvider" in found.reason


def test_find_device_from_many_threads_registers_once() -> None:
    """Threads that look at the same time all get the device; a second registration would be an error."""
    present(find_device("QNNExecutionProvider"), pytest.skip)
    script = (
        "import threading, edgert\n"
        "from edgert.runtime.providers import find_device\n"
        "found = []\n"
        "look = lambda: found.append(type(find_device('QNNExecutionProvider')).__name__)\n"
        "threads = [threading.Thread(target=look) for _ in range(8)]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]\n"
        "print(*found)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ProviderDevice"] * 8


def test_find_device_on_the_htp_emulator_keeps_stdout_clean(tmp_path: Path) -> None:
    """The emulator's greeting does not reach stdout, which may be carrying a JSON document."""
    present(find_device("QNNExecutionProvider"), pytest.skip)
    model = save_qdq_net(tmp_path / "qdq.onnx")
    script = (
        "import sys, edgert\n"
        "from edgert.runtime.providers import find_device\n"
        "from edgert.runtime.session import Session\n"
        "Session.open(sys.argv[1], find_device('QNNExecutionProvider'), threads=1).close()\n"
        "print('mine')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, model], capture_output=True, text=True, check=True)
    assert done.stdout == "mine\n"


def test_find_device_loads_no_emulator_unasked() -> None:
    """Without permission no plug-in library of an emulator is mapped into the process."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("only Linux lists the mapped libraries in /proc/self/maps")
    if not isinstance(find_device("QNNExecutionProvider", allow_emulated=False), Absent):
        pytest.skip("this machine has a real NPU")
    script = (
        "import edgert\n"
        "from edgert.runtime.providers import discover\n"
        "discover()\n"
        "print('providers_qnn' in open('/proc/self/maps').read())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_find_device_reports_the_emulated_gpu_as_emulated() -> None:
    """WebGPU on a software GPU is a gpu that is emulated."""
    device = present(find_device("WebGpuExecutionProvider"), pytest.skip)
    hardware = device.device.device.type
    software = hardware == onnxruntime.OrtHardwareDeviceType.CPU
    assert (device.processor, device.emulated) == ("gpu", software)


@pytest.mark.parametrize(
    ("system", "machine", "emulated"),
    [("Linux", "x86_64", True), ("Linux", "aarch64", False), ("Windows", "ARM64", False)],
)
def test_htp_emulation_is_only_on_linux_x86_64(system: str, machine: str, emulated: bool) -> None:
    """The QNN libraries hold the emulator on Linux x86-64 and a driver's client elsewhere."""
    assert (htp_emulation(system, machine) is not None) == emulated


def test_software_gpu_is_not_set_up_beside_a_real_gpu(tmp_path: Path) -> None:
    """A real GPU wins even where the software GPU is installed."""
    icd = tmp_path / "icd.json"
    icd.touch()
    assert software_gpu(True, icd, lambda: True) is None


def test_software_gpu_without_chromium_names_the_package(tmp_path: Path) -> None:
    """Without the driver file the remedy names the Debian packages."""
    emulation = software_gpu(False, tmp_path / "none.json", lambda: True)
    assert emulation is not None
    assert str(tmp_path) in emulation.obstacle
    assert "chromium" in emulation.remedy


def test_software_gpu_without_libvulkan_says_so(tmp_path: Path) -> None:
    """Without the Vulkan loader the obstacle is the library that does not load."""
    icd = tmp_path / "icd.json"
    icd.touch()
    emulation = software_gpu(False, icd, lambda: False)
    assert emulation is not None
    assert "libvulkan.so.1" in emulation.obstacle
    assert "libvulkan1" in emulation.remedy


def test_find_device_with_a_broken_plugin_is_absent(tmp_path: Path) -> None:
    """A plug-in whose library does not load is absent with the loader's own words, not a crash."""
    package = tmp_path / "onnxruntime_ep_webgpu"
    package.mkdir()
    (package / "broken.so").write_bytes(b"not a library")
    (package / "__init__.py").write_text(
        f"def get_library_path():\n    return {str(package / 'broken.so')!r}\n", encoding="utf-8"
    )
    script = (
        "import sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import edgert\n"
        "from edgert.runtime.providers import Absent, find_device\n"
        "found = find_device('WebGpuExecutionProvider')\n"
        "print(isinstance(found, Absent), found)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("True")
    assert "broken.so" in done.stdout or "no GPU" in done.stdout


def test_provider_device_is_safe_to_share_between_threads() -> None:
    """The same device may be looked up from several threads of this process."""
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(discover())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert isinstance(find_device("CPUExecutionProvider"), ProviderDevice)
