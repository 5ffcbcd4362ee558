"""Ranking is a pure decision: what is tried, in which order, and why the rest is passed over."""

from dataclasses import replace

import pytest

from edgert.errors import UsageError
from edgert.host import HostFacts
from edgert.manifest import Golden, Manifest, Placement, TensorSpec, Variant
from edgert.runtime.placement import rank, where
from edgert.runtime.providers import Absent, ProviderDevice

NPU = Placement("qdq", "QNNExecutionProvider", "npu", {"soc_model": "57"}, {"soc_model": "0"})
GPU = Placement("fp32", "WebGpuExecutionProvider", "gpu")
CPU = Placement("fp32", "CPUExecutionProvider", "cpu")
CPU_DEVICE = ProviderDevice("CPUExecutionProvider", "cpu")
NPU_DEVICE = ProviderDevice("QNNExecutionProvider", "npu")
GPU_DEVICE = ProviderDevice("WebGpuExecutionProvider", "gpu")
NO_NPU = Absent("QNNExecutionProvider", "not installed", "pip install it")
X86 = HostFacts("linux", "x86_64", ("avx2", "fma"), "a CPU", 2)


def manifest(*placements: Placement) -> Manifest:
    """Return a manifest with these placements."""
    spec = TensorSpec("x", "float32", (1,))
    return Manifest(
        name="net",
        version="1",
        license="Apache-2.0",
        profile="some-device",
        arch="arm64",
        isa=(),
        inputs=(spec,),
        outputs=(spec,),
        variants=(Variant("qdq", "qdq-u8s8", "qdq.onnx"), Variant("fp32", "fp32", "fp32.onnx")),
        chosen=placements[0].variant,
        placements=placements,
        golden=Golden("golden.npz", 1, {"qdq": 0.9, "fp32": 0.9}),
        reference="reference.json",
    )


BOTH = manifest(NPU, CPU)
ALL = manifest(NPU, GPU, CPU)


def test_rank_with_everything_there_keeps_the_bundles_order() -> None:
    """With all devices real, every placement is a candidate in the bundle's order, whatever order devices have."""
    ranking = rank(ALL, [CPU_DEVICE, GPU_DEVICE, NPU_DEVICE], [])
    assert [item.placement for item in ranking.candidates] == [NPU, GPU, CPU]
    assert (ranking.wanted, ranking.skipped) == (NPU, ())


def test_rank_with_an_absent_accelerator_says_why() -> None:
    """A placement whose provider is absent is skipped with the reason and remedy of discovery."""
    ranking = rank(BOTH, [CPU_DEVICE], [NO_NPU])
    assert [item.placement for item in ranking.candidates] == [CPU]
    assert ranking.wanted == NPU
    assert [(item.placement, item.reason, item.remedy) for item in ranking.skipped] == [
        (NPU, "not installed", "pip install it")
    ]


def test_rank_with_an_unknown_provider_says_so() -> None:
    """A provider that discovery does not even know is skipped with its name."""
    odd = Placement("fp32", "OddExecutionProvider", "npu")
    ranking = rank(manifest(odd, CPU), [CPU_DEVICE], [])
    assert "OddExecutionProvider" in ranking.skipped[0].reason


def test_rank_auto_never_takes_an_emulator() -> None:
    """Under "auto" an emulated device is passed over even when it was discovered."""
    ranking = rank(BOTH, [replace(NPU_DEVICE, emulated=True), CPU_DEVICE], [])
    assert [item.placement for item in ranking.candidates] == [CPU]
    assert "emulated" in ranking.skipped[0].reason
    assert 'device="npu"' in ranking.skipped[0].remedy


def test_rank_npu_takes_the_emulator_with_its_own_options() -> None:
    """Asked for by name an emulator is used, with the emulator's options instead of the device's."""
    emulated = rank(BOTH, [replace(NPU_DEVICE, emulated=True), CPU_DEVICE], [], "npu")
    assert emulated.candidates[0].options == {"soc_model": "0"}
    assert rank(BOTH, [NPU_DEVICE], [], "npu").candidates[0].options == {"soc_model": "57"}


def test_rank_gpu_never_takes_the_emulated_npu_as_its_fallback() -> None:
    """Asking for one processor allows only that one's emulator."""
    devices = [replace(NPU_DEVICE, emulated=True), replace(GPU_DEVICE, emulated=True), CPU_DEVICE]
    ranking = rank(ALL, devices, [], "gpu")
    assert [item.placement for item in ranking.candidates] == [GPU, CPU]
    assert ranking.wanted == GPU
    assert [item.placement for item in ranking.skipped] == [NPU]


def test_rank_cpu_takes_only_the_cpu() -> None:
    """Asked for the CPU, accelerators are not even skipped: they were not wanted."""
    ranking = rank(ALL, [NPU_DEVICE, GPU_DEVICE, CPU_DEVICE], [], "cpu")
    assert [item.placement for item in ranking.candidates] == [CPU]
    assert (ranking.wanted, ranking.skipped) == (CPU, ())


def test_rank_of_a_processor_the_bundle_lacks_wants_nothing() -> None:
    """Without a placement for the processor `wanted` is None; the others remain as a fallback."""
    ranking = rank(manifest(CPU), [CPU_DEVICE], [], "npu")
    assert ranking.wanted is None
    assert [item.placement for item in ranking.candidates] == [CPU]


def test_rank_with_a_misspelt_device_suggests_the_right_one() -> None:
    """An unknown device is a UsageError that names the nearest."""
    with pytest.raises(UsageError) as caught:
        rank(ALL, [CPU_DEVICE], [], "gpuu")
    assert caught.value.remedy == "did you mean 'gpu'?"


@pytest.mark.parametrize(
    ("device", "arch", "isa", "expected"),
    [
        (CPU_DEVICE, "x86_64", ("avx2",), "host"),
        (CPU_DEVICE, "x86_64", (), "host"),
        (CPU_DEVICE, "x86_64", ("avx512_vnni",), "emulated"),
        (CPU_DEVICE, "arm64", ("neon",), "emulated"),
        (NPU_DEVICE, "arm64", ("neon",), "device"),
        (replace(NPU_DEVICE, emulated=True), "x86_64", (), "emulated"),
    ],
)
def test_where_follows_device_and_instruction_set(
    device: ProviderDevice, arch: str, isa: tuple[str, ...], expected: str
) -> None:
    """Only this machine's CPU with all instruction sets of the bundle is "host"; only a real accelerator "device"."""
    assert where(device, arch, isa, X86) == expected
