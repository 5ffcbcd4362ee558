"""`load` runs a bundle on the best processor that is really there, and tells what it did instead and why."""

import json
import logging
import threading
from pathlib import Path

import numpy as np
import pytest

import edgert
from edgert.errors import BadInput, MissingDevice, UsageError, VerificationFailed
from edgert.manifest import Placement
from edgert.runtime.model import load
from edgert.runtime.providers import Absent, find_device
from tests.bundle_files import read_manifest, write_manifest
from tests.runtime.small_models import (
    image,
    present,
    save_conv_net,
    save_identity_net,
    save_qdq_net,
    write_conv_bundle,
)

ON_CPU = Placement("fp32", "CPUExecutionProvider", "cpu")
ON_NPU = Placement("qdq", "QNNExecutionProvider", "npu")
ON_GPU = Placement("fp32", "WebGpuExecutionProvider", "gpu")
ON_NOTHING = Placement("fp32", "NoSuchExecutionProvider", "npu")


@pytest.fixture
def cpu_bundle(tmp_path: Path) -> Path:
    """Return a bundle with one placement, on the CPU."""
    return write_conv_bundle(tmp_path, [ON_CPU])


@pytest.fixture
def npu_bundle(tmp_path: Path) -> Path:
    """Return a bundle that prefers the NPU and has a CPU variant."""
    return write_conv_bundle(tmp_path, [ON_NPU, ON_CPU], models={"qdq": save_qdq_net, "fp32": save_identity_net})


def test_load_of_a_cpu_bundle_runs_without_a_fallback(cpu_bundle: Path) -> None:
    """The public `edgert.load` runs it; `explain` has every fact, survives JSON and reports no fallback."""
    with edgert.load(cpu_bundle, threads=1) as model:
        assert model.run({"x": image()})["y"].shape == (1, 8, 16, 16)
        explained = model.explain()
    assert json.loads(json.dumps(explained, allow_nan=False)) == explained
    assert explained["variant"] == "fp32"
    assert explained["provider"] == "CPUExecutionProvider"
    assert explained["processor"] == "cpu"
    assert explained["where"] in ("host", "emulated")
    assert explained["nodes"] == {"CPUExecutionProvider": 3}
    assert explained["threads"] == 1
    assert explained["profile"] == "x86-avx2"
    assert explained["digest"].startswith("sha256:")
    assert explained["golden"]["checked"] == 2
    assert explained["fallback"] is None
    assert [entry["used"] for entry in explained["considered"]] == [True]


def test_load_auto_falls_back_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When the preferred provider is absent the next one runs, the fallback is explained and logged."""
    path = write_conv_bundle(tmp_path, [ON_NOTHING, ON_CPU])
    with caplog.at_level(logging.WARNING, logger="edgert"), load(path) as model:
        explained = model.explain()
    assert explained["fallback"]["from"] == "NoSuchExecutionProvider"
    assert explained["fallback"]["to"] == "CPUExecutionProvider"
    assert explained["fallback"]["reason"] == explained["considered"][0]["reason"] != ""
    assert "NoSuchExecutionProvider" in caplog.text


def test_load_strict_refuses_a_fallback(tmp_path: Path) -> None:
    """`strict=True` raises MissingDevice where the preferred placement cannot be used."""
    path = write_conv_bundle(tmp_path, [ON_NOTHING, ON_CPU])
    with pytest.raises(MissingDevice, match="NoSuchExecutionProvider") as caught:
        load(path, strict=True)
    assert caught.value.remedy


def test_load_strict_of_a_processor_the_bundle_lacks_raises(cpu_bundle: Path) -> None:
    """Asking strictly for an NPU from a CPU bundle is MissingDevice that says what the bundle is made for."""
    with pytest.raises(MissingDevice, match="made for cpu"):
        load(cpu_bundle, device="npu", strict=True)


def test_load_npu_of_a_cpu_bundle_is_a_fallback(cpu_bundle: Path) -> None:
    """Not strictly, the CPU runs and the fallback names the processor that was asked for."""
    with load(cpu_bundle, device="npu") as model:
        assert model.explain()["fallback"] == {
            "from": "npu",
            "to": "CPUExecutionProvider",
            "reason": "the bundle has no variant for the npu",
        }


def test_load_cpu_of_an_npu_bundle_is_no_fallback(npu_bundle: Path) -> None:
    """Who asks for the CPU gets it, also strictly, and nothing fell back."""
    with load(npu_bundle, device="cpu", strict=True) as model:
        assert model.explain()["fallback"] is None
        assert model.explain()["provider"] == "CPUExecutionProvider"


def test_load_auto_never_uses_an_emulator(npu_bundle: Path) -> None:
    """Under "auto" an NPU bundle runs on the CPU where only the emulator is there, and says so."""
    if not isinstance(find_device("QNNExecutionProvider", allow_emulated=False), Absent):
        pytest.skip("this machine has a real NPU")
    with load(npu_bundle) as model:
        explained = model.explain()
    assert explained["provider"] == "CPUExecutionProvider"
    assert explained["fallback"]["from"] == "QNNExecutionProvider"


def test_load_npu_runs_on_the_htp_emulator(npu_bundle: Path) -> None:
    """Asked for by name the emulator runs every node, one golden vector is checked, and `where` is emulated."""
    present(find_device("QNNExecutionProvider"), pytest.skip)
    with load(npu_bundle, device="npu", strict=True) as model:
        explained = model.explain()
        emulated, on_npu = model.run({"x": image()})["y"], explained["nodes"]
    with load(npu_bundle, device="cpu") as model:
        assert np.abs(model.run({"x": image()})["y"] - emulated).max() < 0.15
    assert list(on_npu) == ["QNNExecutionProvider"]
    if explained["where"] == "emulated":
        assert explained["golden"]["checked"] == 1
    assert explained["fallback"] is None


def test_load_npu_with_refused_nodes_falls_back_with_their_names(tmp_path: Path) -> None:
    """A variant with a node that the NPU refuses is passed over, and the reason names the node."""
    present(find_device("QNNExecutionProvider"), pytest.skip)
    path = write_conv_bundle(
        tmp_path,
        [ON_NPU, ON_CPU],
        models={"qdq": lambda file: save_qdq_net(file, refused="Erf"), "fp32": save_identity_net},
    )
    with load(path, device="npu") as model:
        assert "'refuse_me' (Erf)" in model.explain()["fallback"]["reason"]
    with pytest.raises(MissingDevice, match="refuse_me"):
        load(path, device="npu", strict=True)


def test_load_gpu_runs_on_the_software_gpu(tmp_path: Path) -> None:
    """Asked for by name WebGPU runs every node."""
    present(find_device("WebGpuExecutionProvider"), pytest.skip)
    path = write_conv_bundle(tmp_path, [ON_GPU, ON_CPU])
    with load(path, device="gpu", strict=True) as model:
        assert list(model.explain()["nodes"]) == ["WebGpuExecutionProvider"]
        assert model.run({"x": image()})["y"].shape == (1, 8, 16, 16)


def test_load_with_a_variant_that_fails_golden_uses_the_next(tmp_path: Path) -> None:
    """A variant that opens but computes something else is a fallback with that reason."""
    path = write_conv_bundle(
        tmp_path,
        [Placement("wrong", "CPUExecutionProvider", "cpu"), ON_CPU],
        models={"wrong": lambda file: save_conv_net(file, "Exp"), "fp32": save_identity_net},
    )
    with load(path) as model:
        explained = model.explain()
    assert explained["variant"] == "fp32"
    assert "golden vector 0: output 'y'" in explained["fallback"]["reason"]
    with load(path, check_golden=False) as model:
        assert model.explain()["variant"] == "wrong"
        assert model.explain()["golden"] is None


def test_load_with_no_variant_that_passes_golden_raises(tmp_path: Path) -> None:
    """Nothing runs that does not reproduce the original model."""
    path = write_conv_bundle(tmp_path, [ON_CPU], models={"fp32": lambda file: save_conv_net(file, "Exp")})
    with pytest.raises(VerificationFailed, match="differs from the original"):
        load(path)


def test_load_of_a_damaged_bundle_raises_before_anything_runs(cpu_bundle: Path) -> None:
    """One flipped bit in the model is found by its digest."""
    model = cpu_bundle / "fp32.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    with pytest.raises(VerificationFailed, match=r"fp32\.onnx"):
        load(cpu_bundle)


def test_load_of_a_listed_model_that_is_none_is_refused(tmp_path: Path) -> None:
    """Bytes with the right digest that ONNX Runtime cannot parse are a bundle that is not what it says."""

    def save_noise(path: Path) -> Path:
        path.write_bytes(b"\x07noise")
        return path

    path = write_conv_bundle(tmp_path, [ON_CPU], models={"fp32": save_noise}, golden_of=save_identity_net)
    with pytest.raises(VerificationFailed, match=r"fp32\.onnx cannot be loaded") as caught:
        load(path)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("inputs", {"name": "z"}, "only the model has an input 'x'"),
        ("inputs", {"dtype": "float64"}, "input 'x' is float32, the manifest says float64"),
        ("inputs", {"shape": [1, 3, 16]}, "input 'x' has rank 4, the manifest says 3"),
        ("outputs", {"name": "z"}, "only the model has an output 'y'"),
        ("outputs", {"dtype": "int64"}, "output 'y' is float32, the manifest says int64"),
        ("outputs", {"shape": [1, 8, 16, 16, 1]}, "output 'y' has rank 4, the manifest says 5"),
    ],
)
def test_load_of_a_manifest_that_contradicts_the_model_is_refused(
    cpu_bundle: Path, kind: str, change: dict[str, object], words: str
) -> None:
    """Names, dtypes and ranks that the manifest tells are those of the model, also without golden vectors."""
    document = read_manifest(cpu_bundle)
    document[kind][0].update(change)  # type: ignore[index]
    write_manifest(cpu_bundle, document)
    with pytest.raises(VerificationFailed, match=words) as caught:
        load(cpu_bundle, check_golden=False)
    assert caught.value.exit_code == 1


def test_load_with_a_misspelt_device_is_a_usage_error(cpu_bundle: Path) -> None:
    """The device is checked before the bundle is even opened."""
    with pytest.raises(UsageError, match="unknown device 'cpuu'"):
        load(cpu_bundle / "nowhere", device="cpuu")


def test_model_after_close_refuses_to_run(cpu_bundle: Path) -> None:
    """Running a closed model is a UsageError, and closing twice is harmless."""
    model = load(cpu_bundle)
    model.close()
    model.close()
    with pytest.raises(UsageError, match="closed"):
        model.run({"x": image()})


def test_model_close_waits_for_runs_in_other_threads(cpu_bundle: Path) -> None:
    """Runs that began before `close` end with a result; those after it are refused; none is lost or crashes."""
    model = load(cpu_bundle, threads=1)
    began = threading.Barrier(5)
    outcomes: list[str] = []

    def work() -> None:
        began.wait()
        for _ in range(300):
            try:
                model.run({"x": image()})
                outcomes.append("ran")
            except UsageError:
                outcomes.append("refused")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    began.wait()
    model.close()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 1200
    assert outcomes.count("refused") > 0


def test_model_run_in_threads_gives_each_its_own_result(cpu_bundle: Path) -> None:
    """Concurrent runs do not mix their tensors."""
    with load(cpu_bundle, threads=1) as model:
        expected = [model.run({"x": image(seed)})["y"] for seed in range(4)]
        wrong: list[int] = []

        def work(seed: int) -> None:
            for _ in range(50):
                if not np.array_equal(model.run({"x": image(seed)})["y"], expected[seed]):
                    wrong.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_model_run_with_wrong_input_leaves_the_model_usable(cpu_bundle: Path) -> None:
    """A refused run is counted out again: the model runs on and closes without waiting for it."""
    with load(cpu_bundle) as model:
        with pytest.raises(BadInput, match="'y'"):
            model.run({"y": image()})
        assert model.run({"x": image()})


def test_explain_returns_a_copy(cpu_bundle: Path) -> None:
    """Changing what `explain` returned changes nothing in the model."""
    with load(cpu_bundle) as model:
        model.explain()["nodes"].clear()
        model.explain()["considered"].clear()
        assert model.explain()["nodes"]
        assert model.explain()["considered"]
