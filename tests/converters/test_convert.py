"""The converter as a whole, on the tiny model and on the real ones: bundles that run, or every reason why not."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgert
from converters.pipeline import convert
from converters.request import BundleReport, Conversion, ProfileFailure
from edgert.bundle import open_bundle
from edgert.errors import MissingDevice
from edgert.host import host_facts
from edgert.profile import detect_profile
from tests.accelerators import need

OWN = detect_profile(host_facts())
PROFILES_FOLDER = Path(__file__).resolve().parents[2] / "device_profiles"
NPU, GPU = "snapdragon-8-gen-3", "intel-core-ultra-s2-igpu"
QNN, WEBGPU, CPU = "QNNExecutionProvider", "WebGpuExecutionProvider", "CPUExecutionProvider"

SAMPLES = {
    "ppocr-det": "ppocr_det",
    "ppocr-cls": "ppocr_cls",
    "magika": "magika",
    "silero-vad": "silero_vad",
    "silero-vad-16k": "silero_vad",
    "basic-pitch": "basic_pitch",
    "opennsfw": "opennsfw",
}
ON_NPU = ("ppocr-det", "ppocr-cls", "magika", "silero-vad-16k", "basic-pitch", "opennsfw")


def bundle_of(conversion: Conversion, profile: str) -> BundleReport:
    (entry,) = (entry for entry in conversion.bundles if entry.profile == profile)
    assert isinstance(entry, BundleReport), entry
    return entry


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_convert_twice_gives_the_same_digest(tiny_model, tiny_samples, tmp_path, precision):
    """The same input and recipe give the same manifest digest and the same bytes but for what was measured."""
    profile = "raspberry-pi-5"
    reports = [
        bundle_of(
            convert(tiny_model, [profile], calibration=str(tiny_samples), output=tmp_path / name, precision=precision),
            profile,
        )
        for name in ("one", "two")
    ]
    assert reports[0].digest == reports[1].digest
    assert reports[0].variants[0].precision == precision


def test_convert_json_has_the_promised_keys(tiny_model, tiny_samples, tmp_path):
    """The document of docs/cli-json.md, and strict JSON at that."""
    conversion = convert(tiny_model, [OWN], calibration=str(tiny_samples), output=tmp_path)
    document = json.loads(json.dumps(conversion.to_json(), allow_nan=False))
    (bundle,) = document["bundles"]
    assert {"path", "profile", "digest", "chosen", "variants"} <= set(bundle)
    (variant,) = bundle["variants"]
    assert {"name", "precision", "bytes", "provider", "nodes", "parity", "where", "latency_ms"} <= set(variant)
    assert {"sqnr_db", "cosine", "max_abs_error", "top1_agreement"} <= set(variant["parity"]["y"])
    assert {"p50", "p99", "where"} <= set(variant["latency_ms"])
    assert variant["where"] == "host"
    assert Path(document["report"]).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_convert_random_calibration_warns_in_the_manifest(tiny_model, tmp_path):
    """Random data is allowed when asked for, and the bundle says so for good."""
    report = bundle_of(convert(tiny_model, [OWN], calibration="random", output=tmp_path), OWN)
    warnings = open_bundle(report.path).manifest.warnings
    assert any("random" in warning.lower() for warning in warnings)


def test_convert_without_license_says_noassertion(tiny_model, tiny_samples, tmp_path):
    """A licence is required: without one the bundle says NOASSERTION and warns; with one it says that."""
    first = convert(tiny_model, [OWN], calibration=str(tiny_samples), output=tmp_path / "a")
    manifest = open_bundle(bundle_of(first, OWN).path).manifest
    assert manifest.license == "NOASSERTION"
    assert any("license" in warning for warning in manifest.warnings)
    second = convert(tiny_model, [OWN], calibration=str(tiny_samples), output=tmp_path / "b", license="MIT")
    assert open_bundle(bundle_of(second, OWN).path).manifest.license == "MIT"


def test_convert_folder_form_runs_like_the_file_form(tiny_model, tiny_samples, tmp_path):
    """`folder=True` writes the same bundle as a folder, with the same digest."""
    profile = "raspberry-pi-5"  # on this machine's own profile the time decides which float graph is written
    options = {"calibration": str(tiny_samples), "precision": "fp32"}
    file = bundle_of(convert(tiny_model, [profile], output=tmp_path / "file", **options), profile)
    folder = bundle_of(convert(tiny_model, [profile], output=tmp_path / "folder", folder=True, **options), profile)
    assert folder.path.is_dir()
    assert folder.digest == file.digest
    feeds = {"x": np.ones((1, 8), np.float32)}
    with edgert.load(file.path) as one, edgert.load(folder.path) as two:
        assert np.array_equal(one.run(feeds)["y"], two.run(feeds)["y"])


def test_convert_npu_without_shapes_names_the_dimension(model_path, tmp_path):
    """Samples of two widths leave a dimension open that the NPU needs: it is named, with the remedy."""
    need(QNN)
    folder = tmp_path / "samples"
    folder.mkdir()
    for width in (160, 192):
        np.save(folder / f"{width}.npy", np.zeros((1, 3, 48, width), np.float32))
    conversion = convert(model_path("ppocr-cls"), [NPU], calibration=str(folder), output=tmp_path / "out")
    (failure,) = conversion.bundles
    assert isinstance(failure, ProfileFailure)
    assert "dimension" in failure.message
    assert "--shape x=" in failure.remedy
    assert conversion.exit_code == 2


@pytest.fixture(scope="module")
def real(model_path, tmp_path_factory) -> Callable[[str], Conversion]:
    """Return a function that converts a real model for the NPU and this machine's CPU, once per module."""
    need(QNN)
    done: dict[str, Conversion] = {}

    def get(model_id: str) -> Conversion:
        if model_id not in done:
            done[model_id] = convert(
                model_path(model_id),
                [NPU, OWN],
                calibration=f"tests.real_samples:{SAMPLES[model_id]}",
                output=tmp_path_factory.mktemp(model_id),
                emulator_samples=1,
            )
        return done[model_id]

    return get


@pytest.mark.parametrize("model_id", list(SAMPLES))
def test_convert_real_model_always_has_its_cpu_bundle(real, model_id):
    """Whatever the NPU says, the CPU bundle is written, holds the gate, runs, and is no slower integer variant."""
    report = bundle_of(real(model_id), OWN)
    (variant,) = report.variants
    assert min(parity.cosine for parity in variant.checks[0].outputs.values()) >= 0.99
    chosen = [candidate for candidate in report.candidates if candidate.outcome == "chosen"]
    floats = [candidate.speedup for candidate in report.candidates if candidate.precision == "fp32"]
    assert len(chosen) == 1
    if chosen[0].precision == "int8":
        assert chosen[0].speedup > max(floats)
    with edgert.load(report.path, strict=True) as model:
        assert model.explain()["nodes"] == {CPU: sum(variant.nodes.values())}


@pytest.mark.parametrize("model_id", ON_NPU)
def test_convert_real_model_runs_whole_on_the_npu(real, model_id):
    """All nodes on the HTP emulator, none on the CPU, within the gate there and on the CPU over all samples."""
    report = bundle_of(real(model_id), NPU)
    variant = report.variants[0]
    assert set(variant.nodes) == {QNN}
    assert variant.provider == QNN
    assert variant.where == "emulated"
    assert [check.samples for check in variant.checks] == [1, 12]
    for check in variant.checks:
        assert min(parity.cosine for parity in check.outputs.values()) >= 0.99
    assert report.variants[-1].provider == CPU


def test_convert_names_every_node_that_the_npu_refuses(real):
    """silero-vad keeps its net inside an If: exit 1, the If and what is in it named, nothing of it on disk."""
    conversion = real("silero-vad")
    failure = conversion.bundles[0]
    assert isinstance(failure, ProfileFailure)
    assert conversion.exit_code == 1
    assert "If" in {node["op_type"] for node in failure.refused}
    for node in failure.refused:
        assert f"{node['op_type']} at node '{node['name']}'" in failure.message
    names = [path.name for path in Path(conversion.report).parent.iterdir()]
    assert not [name for name in names if NPU in name]
    assert [name for name in names if OWN in name]


def test_load_npu_bundle_on_a_workstation_reports_the_fallback(real):
    """With device=auto the emulator is not used: the CPU variant runs and the fallback is told; strict refuses."""
    path = bundle_of(real("ppocr-cls"), NPU).path
    with edgert.load(path) as model:
        told = model.explain()
    assert told["provider"] == CPU
    assert told["fallback"]["from"] == QNN
    assert told["fallback"]["reason"]
    with pytest.raises(MissingDevice):
        edgert.load(path, strict=True)


def test_convert_gpu_bundle_carries_fp16_and_fp32_and_runs_whole(model_path, tmp_path):
    """Every node on WebGPU (a software GPU here); fp16 for devices with shader-f16, fp32 for others and for the CPU."""
    need(WEBGPU)
    conversion = convert(
        model_path("ppocr-cls"),
        [GPU],
        calibration="tests.real_samples:ppocr_cls",
        output=tmp_path,
        emulator_samples=1,
    )
    report = bundle_of(conversion, GPU)
    assert [(one.name, one.provider) for one in report.variants] == [("fp16", WEBGPU), ("fp32", WEBGPU), ("fp32", CPU)]
    assert set(report.variants[1].nodes) == {WEBGPU}
    with edgert.load(report.path, device="gpu") as model:
        told = model.explain()
    assert told["provider"] == WEBGPU
    assert told["nodes"] == dict(report.variants[1].nodes)
    bundle = open_bundle(report.path)
    sizes = {entry.name: entry.bytes for entry in bundle.manifest.files}
    assert {"fp16.onnx", "fp32.onnx", "weights.bin"} <= set(sizes)


def test_convert_missing_accelerator_is_an_answer_with_exit_3(tiny_model, tiny_samples, tmp_path):
    """Where neither the NPU nor an emulator of it is, the profile fails with a remedy; the other profile goes on."""
    board = tmp_path / "board.toml"
    text = (PROFILES_FOLDER / f"{NPU}.toml").read_text(encoding="utf-8")
    board.write_text(text.replace(QNN, "VSINPUExecutionProvider").replace(f'id = "{NPU}"', 'id = "board"'), "utf-8")
    conversion = convert(tiny_model, [str(board), OWN], calibration=str(tiny_samples), output=tmp_path / "out")
    failure = conversion.bundles[0]
    assert isinstance(failure, ProfileFailure)
    assert "VSINPUExecutionProvider" in failure.message
    assert failure.remedy
    assert conversion.exit_code == 3
    bundle_of(conversion, OWN)
