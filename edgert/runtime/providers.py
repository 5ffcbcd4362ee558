"""Which execution providers this process can use: the built-in ones and installed plug-in packages.

A plug-in is one row of `PLUGINS`; its library is registered at most once per process, under ONNX Runtime's
own name of the provider. An emulator (the Snapdragon HTP emulator, WebGPU on a software GPU) is set up only
when the caller allows it. Choosing among what is found is left to `placement`.
"""

import ctypes
import importlib
import importlib.util
import os
import platform
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort

from edgert.host import has_gpu

CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class ProviderDevice:
    """One provider that can be opened here.

    `provider` is ONNX Runtime's name; `processor` is "npu", "gpu" or "cpu"; `device` is the OrtEpDevice of a
    plug-in and None for a built-in provider; `options` are provider options that every session on this device
    needs.
    """

    provider: str
    processor: str
    emulated: bool = False
    device: Any = None
    detail: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Absent:
    """One provider that cannot be opened here: why, and what would change that."""

    provider: str
    reason: str
    remedy: str


@dataclass(frozen=True)
class Emulation:
    """What stands in for a processor that is not in this machine.

    `environment` has to be set before the library is registered; `obstacle` says why the stand-in cannot be
    used, empty when it can.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    obstacle: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Plugin:
    """One plug-in package: its module, what it provides, the extra that installs it.

    `emulation()` returns None when the provider would use real hardware; `options(module)` are its session
    options.
    """

    module: str
    provider: str
    processor: str
    extra: str
    emulation: Callable[[], Emulation | None]
    options: Callable[[ModuleType], dict[str, str]]
    chatty: Callable[[ModuleType], str] | None = None


SOFTWARE_GPU_ICD = Path("/usr/lib/chromium/vk_swiftshader_icd.json")


def htp_emulation(system: str, machine: str) -> Emulation | None:
    """Return the HTP emulator where the QNN libraries hold it instead of a driver: on Linux x86-64."""
    if (system, machine.lower()) in (("Linux", "x86_64"), ("Linux", "amd64")):
        return Emulation("the Snapdragon HTP emulator")
    return None


def software_gpu(gpu_present: bool, icd: Path, vulkan_loads: Callable[[], bool]) -> Emulation | None:
    """Return WebGPU on SwiftShader, or None when there is a real GPU.

    Source of the variables: the Vulkan loader's documentation and the README of onnxruntime-ep-webgpu.
    """
    if gpu_present:
        return None
    name = "WebGPU on a software GPU (SwiftShader)"
    remedy = "install Debian's chromium and libvulkan1 (apt-get install chromium libvulkan1)"
    if not icd.is_file():
        return Emulation(name, obstacle=f"there is no GPU, and no software GPU at {icd}", remedy=remedy)
    if not vulkan_loads():
        return Emulation(name, obstacle="there is no GPU, and libvulkan.so.1 does not load", remedy=remedy)
    return Emulation(name, {"VK_ICD_FILENAMES": str(icd), "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1"})


PLUGINS = (
    Plugin(
        module="onnxruntime_qnn",
        provider="QNNExecutionProvider",
        processor="npu",
        extra="npu",
        emulation=lambda: htp_emulation(platform.system(), platform.machine()),
        # Without the second option the outermost QuantizeLinear and DequantizeLinear are put on the CPU.
        options=lambda module: {
            "backend_path": module.get_qnn_htp_path(),
            "offload_graph_io_quantization": "0",
        },
        chatty=lambda module: str(module.get_qnn_htp_path()),
    ),
    Plugin(
        module="onnxruntime_ep_webgpu",
        provider="WebGpuExecutionProvider",
        processor="gpu",
        extra="webgpu",
        emulation=lambda: software_gpu(has_gpu(), SOFTWARE_GPU_ICD, _vulkan_loads),
        options=lambda module: {},
    ),
)

# Providers that a build of ONNX Runtime may carry. AzureExecutionProvider is left out: it sends tensors to a
# server.
BUILT_IN = {
    "CPUExecutionProvider": "cpu",
    "XnnpackExecutionProvider": "cpu",
    "ACLExecutionProvider": "cpu",
    "DnnlExecutionProvider": "cpu",
    "OpenVINOExecutionProvider": "cpu",
    "CUDAExecutionProvider": "gpu",
    "TensorrtExecutionProvider": "gpu",
    "NvTensorRTRTXExecutionProvider": "gpu",
    "MIGraphXExecutionProvider": "gpu",
    "DmlExecutionProvider": "gpu",
    "WebGpuExecutionProvider": "gpu",
    "QNNExecutionProvider": "npu",
    "CoreMLExecutionProvider": "npu",
    "NnapiExecutionProvider": "npu",
    "VitisAIExecutionProvider": "npu",
}


def discover(*, allow_emulated: bool = False) -> tuple[tuple[ProviderDevice, ...], tuple[Absent, ...]]:
    """Return the providers that can be opened here, the CPU last, and those of `PLUGINS` that cannot.

    With `allow_emulated=False` nothing of an emulator is loaded; its row is absent and says so. Allowing it
    may set environment variables of this process (see `Emulation`).
    """
    names = dict.fromkeys([*(plugin.provider for plugin in PLUGINS), *_built_in()])
    found = [find_device(name, allow_emulated=allow_emulated) for name in names]
    return (
        tuple(item for item in found if isinstance(item, ProviderDevice)),
        tuple(item for item in found if isinstance(item, Absent)),
    )


def find_device(provider: str, *, allow_emulated: bool = True) -> ProviderDevice | Absent:
    """Return the device of one provider; registers only that provider's plug-in."""
    version = onnxruntime.__version__
    if provider in _built_in():
        return ProviderDevice(provider, BUILT_IN[provider], detail=f"built into onnxruntime {version}")
    for plugin in PLUGINS:
        if plugin.provider == provider:
            return _look(plugin, allow_emulated)
    return Absent(
        provider,
        f"onnxruntime {version} has no {provider}, and no known plug-in brings it",
        "install a build of onnxruntime that has it, or use another processor",
    )


def _built_in() -> list[str]:
    """Return the known providers of this build; ONNX Runtime counts registered plug-ins among the available."""
    plugged = {plugin.provider for plugin in PLUGINS if _ep_devices(plugin.provider)} | _registered
    available = onnxruntime.get_available_providers()
    return [name for name in available if name in BUILT_IN and name not in plugged]


def _look(plugin: Plugin, allow_emulated: bool) -> ProviderDevice | Absent:
    """Return the device that one plug-in offers, or why there is none."""
    install = f"pip install 'edgert[{plugin.extra}]'"
    if importlib.util.find_spec(plugin.module) is None:
        return Absent(plugin.provider, f"the Python package {plugin.module} is not installed", install)
    emulation = plugin.emulation()
    if emulation is not None and emulation.obstacle:
        return Absent(plugin.provider, emulation.obstacle, emulation.remedy)
    if emulation is not None and not allow_emulated:
        return _only_emulated(plugin, emulation.name)
    try:
        module = importlib.import_module(plugin.module)
        _register(plugin, module, emulation)
    except LIBRARY_ERRORS as exc:
        return Absent(plugin.provider, f"{plugin.module} does not load: {exc}", _library_remedy(str(exc), install))
    found = _ep_devices(plugin.provider)
    if not found:
        return Absent(plugin.provider, f"{plugin.module} finds no {plugin.processor} here", "install its driver")
    hardware = found[0].device
    software = plugin.processor == "gpu" and hardware.type == ort.OrtHardwareDeviceType.CPU
    if software and not allow_emulated:
        return _only_emulated(plugin, "a software GPU")
    return ProviderDevice(
        provider=plugin.provider,
        processor=plugin.processor,
        emulated=emulation is not None or software,
        device=found[0],
        detail=emulation.name if emulation else f"{hardware.vendor} {hardware.type.name}",
        options=plugin.options(module),
    )


def _only_emulated(plugin: Plugin, name: str) -> Absent:
    return Absent(
        plugin.provider,
        f"there is no {plugin.processor} in this machine, only {name}",
        f'ask for the emulator by name: device="{plugin.processor}" (--device {plugin.processor})',
    )


LIBRARY_ERRORS: tuple[type[Exception], ...] = (
    ort.Fail,
    ort.EPFail,
    ort.InvalidArgument,
    ort.NoSuchFile,
    ort.NotFound,
    ort.NotImplemented,
    ort.RuntimeException,
    ImportError,
    OSError,
    RuntimeError,
)

# ONNX Runtime keeps plug-in libraries per process, so what was tried is a fact of the process too.
_registering = threading.Lock()
_registered: set[str] = set()


def _register(plugin: Plugin, module: ModuleType, emulation: Emulation | None) -> None:
    """Register one plug-in library unless that was done; a variable that the user has set stays."""
    with _registering:
        if plugin.provider in _registered or _ep_devices(plugin.provider):
            return
        for name, value in emulation.environment.items() if emulation else ():
            os.environ.setdefault(name, value)
        if emulation and plugin.chatty:
            _load_silently(plugin.chatty(module))
        onnxruntime.set_default_logger_severity(3)  # errors only: plug-ins log warnings while they register
        onnxruntime.register_execution_provider_library(plugin.provider, module.get_library_path())
        _registered.add(plugin.provider)


def _load_silently(library: str) -> None:
    """Load a library that greets on stdout, which belongs to the caller's output, with stdout closed to it.

    The HTP emulator of onnxruntime-qnn 2.7 greets once per process, when it is loaded.
    """
    try:
        kept = os.dup(1)
    except OSError:  # no stdout at all
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        ctypes.CDLL(library)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _ep_devices(provider: str) -> list[Any]:
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider]


def _library_remedy(cause: str, install: str) -> str:
    if "GLIBC" in cause:
        return "use a newer Linux (glibc as the message says, for example Debian 12), or another processor"
    return f"install it again ({install} --force-reinstall), or install the library that the message names"


def _vulkan_loads() -> bool:
    try:
        ctypes.CDLL("libvulkan.so.1")
    except OSError:
        return False
    return True
