"""What hurts users of other converters, one test each: here it does not happen.

The number is that of the list in the issue; a docstring names the threads where people met it.
"""

import os
import platform
import shutil
import subprocess
import sys
import tracemalloc
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data
from PIL import Image

from converters.graphs import SPEED, float_graph, normalised
from converters.passes.result import PassResult
from converters.pipeline import convert
from converters.quantize.affine import activation_affine, dequantize, quantize
from converters.quantize.calibrate import observe
from converters.quantize.choose_range import METHODS
from converters.quantize.fp16 import to_fp16
from converters.quantize.observers import TensorRange
from converters.quantize.plan import plan_quantization
from converters.quantize.qdq import apply_qdq
from converters.quantize.weight_only import stream_weights_only
from converters.request import BundleReport, ProfileFailure
from converters.samples import open_samples
from converters.sources.imported import Imported
from converters.verify.parity import ParityMeter, gate_value
from edgert.bundle import open_bundle
from edgert.errors import GateFailed
from edgert.host import host_facts
from edgert.manifest import TensorSpec
from edgert.profile import DeviceProfile, detect_profile, load_profile
from tests.accelerators import need
from tests.converters.evaluated import opened, save_identity
from tests.converters.passes import graphs as passes
from tests.converters.quantize.nets import Array, conv_net, images, net, normal, ranges_of, run
from tests.converters.wide_net import save_wide_net


def test_pain_01_calibration_holds_no_more_for_many_samples_than_for_few(tmp_path):
    """Memory does not grow with the samples: a handful is alive at any time (onnxruntime 10503, 21979, 11020)."""
    gone, most = [0], 0

    def forget() -> None:
        gone[0] += 1

    def samples() -> Iterator[dict[str, Array]]:
        nonlocal most
        for number in range(300):
            array = normal(1, 3, 16, 16, seed=number)
            weakref.finalize(array, forget)
            most = max(most, number + 1 - gone[0])
            yield {"x": array}

    statistics = observe(conv_net(), samples(), workdir=tmp_path, threads=2)
    assert statistics.samples == 300
    assert set(statistics.choose("percentile")) == set("xarcdsepfy")
    assert most <= 6


def test_pain_02_no_sample_is_lost_when_tensors_are_taken_in_parts(tmp_path):
    """What only the first sample held counts at the end, whatever the memory budget (onnxruntime 18893, PR 20226)."""
    samples = images(12)
    samples[0]["x"] *= 50.0
    for budget in (1e9, 2e5):
        statistics = observe(conv_net(), samples, workdir=tmp_path, memory_budget=budget)
        assert statistics.ranges["x"].maximum == samples[0]["x"].max()
        assert statistics.histograms["x"].counts.sum() == 12 * samples[0]["x"].size
        assert statistics.histograms["x"].share_outside(-10.0, 10.0) > 0.03


def _error(values: Array, chosen: TensorRange) -> float:
    affine = activation_affine(chosen, "uint8")
    return float(np.mean((dequantize(quantize(values, affine), affine) - values) ** 2))


@pytest.mark.parametrize("method", [method for method in METHODS if method != "minmax"])
def test_pain_03_each_method_serves_lopsided_data_of_varying_shapes(method, tmp_path):
    """A rare far value on one side makes no method worse than min-max, and cuts that side alone.

    Elsewhere percentile is symmetric, entropy has 128 bins and gives the full range, and samples of varying width
    crash (onnxruntime 10571, 9597, 18792, 17619, 11928).
    """
    samples = [{"x": np.abs(normal(1, 12_000 + 37 * number, seed=number)) - np.float32(0.1)} for number in range(40)]
    samples[7]["x"][0, 3] = 90.0
    model = net("y = Identity (x)", "float[1,N] x", "float[1,N] y", {})
    statistics = observe(model, samples, workdir=tmp_path)
    full, chosen = statistics.ranges["x"], statistics.choose(method)["x"]
    typical = np.concatenate([sample["x"].ravel() for sample in samples])
    typical = typical[typical < 90.0]
    assert full.maximum == 90.0
    assert chosen.maximum < 80.0
    assert chosen.minimum >= full.minimum
    assert chosen.minimum == pytest.approx(-0.1, abs=0.06)
    assert _error(typical, chosen) < _error(typical, full)


def test_pain_06_confidences_that_die_fail_the_gate_although_the_boxes_are_perfect(tmp_path, monkeypatch):
    """The worst output decides, and inside one output a function or labels see what its large numbers hide.

    Elsewhere detectors come out with confidences of zero and an error that looks small (onnxruntime 14233 and 9598,
    onnx2tf 244 and 578).
    """
    boxes, sure, dead = normal(1, 50, 4) * 300, np.float32([[0.9, 0.1, 0.8]]), np.float32([[0, 0, 0]])
    meter = ParityMeter()
    meter.add({"boxes": boxes, "confidence": sure}, {"boxes": boxes, "confidence": dead})
    assert gate_value(meter.result(), "cosine") == 0.0
    joined = ParityMeter()
    joined.add({"y": np.hstack([boxes.reshape(1, -1), sure])}, {"y": np.hstack([boxes.reshape(1, -1), dead])})
    assert gate_value(joined.result(), "cosine") > 0.999
    (tmp_path / "count_found.py").write_text(
        "import numpy as np\n"
        "def found(run):\n"
        "    return int((run({'x': np.float32([[500, 0.9]])})['y'][:, 1] > 0.5).sum())\n"
    )
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "x.npy", np.float32([[500, 0.9]]))
    given = {"calibration": str(tmp_path / "x.npy"), "evaluate": "count_found:found"}
    with opened(save_identity((1, 2), tmp_path / "head.onnx"), tmp_path / "out", **given) as job:
        assert not job.holds(job.gate({}, job.evaluate(lambda feeds: {"y": feeds["x"] * np.float32([1, 0])})))
        assert job.holds(job.gate({}, job.evaluate(lambda feeds: {"y": feeds["x"]})))


def test_pain_07_nobody_has_to_say_which_layers_int8_ruins(tmp_path):
    """They are found, spared and listed with their cost by one call (onnxruntime 14233, 12556, optimum 1418)."""
    model, samples = save_wide_net(tmp_path)
    (report,) = convert(model, ["raspberry-pi-5"], calibration=str(samples), output=tmp_path / "out").bundles
    assert isinstance(report, BundleReport), report
    assert max(one.gate or 0.0 for one in report.candidates if one.precision == "int8") < 0.99
    assert report.variants[0].precision == "mixed"
    table = {layer.layer: layer for layer in report.layers}
    ruined, spared = table["a0"], table["y"]
    assert (ruined.op_type, ruined.decision, spared.decision) == ("Conv", "float", "int8")
    assert ruined.error > 100 * max(spared.error, 1e-6)
    errors = [layer.error for layer in report.layers]
    assert errors == sorted(errors, reverse=True)


def test_pain_08_a_model_above_2_gb_is_quantized_in_little_memory(tmp_path):
    """2.4 GB of weights, more than a protobuf holds, go through 150 MB of memory (onnxruntime 11072, 7017, 14213)."""
    if shutil.disk_usage(tmp_path).free < 4e9:
        pytest.skip("needs 4 GB of disk where files have no holes")
    side, layers = 8192, 9
    source = _stack_with_holes(tmp_path, layers, side)
    assert (tmp_path / "stack.bin").stat().st_size > 2**31
    tracemalloc.start()
    stream_weights_only(source, tmp_path / "stored.onnx", bits=4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6
    session = onnxruntime.InferenceSession(tmp_path / "stored.onnx", providers=["CPUExecutionProvider"])
    x = np.linspace(-1, 1, side, dtype=np.float32)[None]
    found = session.run(None, {"x": x})[0]
    np.testing.assert_allclose(found[0, :3], [x[0, 0], 0, 0], atol=0.05)


def _stack_with_holes(folder: Path, layers: int, side: int) -> Path:
    """Write a stack of MatMuls whose weights [side, side] are 1 in the first corner and holes elsewhere."""
    names = ["x", *(f"h{number}" for number in range(layers))]
    nodes, tensors = [], []
    with (folder / "stack.bin").open("wb") as file:
        for number in range(layers):
            nodes.append(helper.make_node("MatMul", [names[number], f"w{number}"], [names[number + 1]]))
            tensor = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=[side, side], raw_data=b"")
            set_external_data(tensor, "stack.bin", offset=number * side * side * 4, length=side * side * 4)
            tensor.ClearField("raw_data")
            tensors.append(tensor)
            file.seek(number * side * side * 4)
            file.write(np.float32(1).tobytes())
        file.truncate(layers * side * side * 4)
    value = helper.make_tensor_value_info
    ends = [value(name, TensorProto.FLOAT, [1, side]) for name in (names[0], names[-1])]
    graph = helper.make_graph(nodes, "stack", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), folder / "stack.onnx")
    return folder / "stack.onnx"


def _convert(model: Path, calibration: str, output: Path) -> BundleReport:
    (entry,) = convert(model, ["raspberry-pi-5"], calibration=calibration, output=output, precision="fp32").bundles
    assert isinstance(entry, BundleReport), entry
    return entry


def _calibration(report: BundleReport) -> Mapping[str, object]:
    recorded = open_bundle(report.path).manifest.recipe["calibration"]
    assert isinstance(recorded, Mapping)
    return recorded


def test_pain_13_numbers_that_differ_end_a_conversion_instead_of_warning(tiny_model, tiny_samples, tmp_path):
    """What falls further than --max-drop, or is not what the framework computes, is an error and leaves no file.

    Elsewhere logits that differ by 1923 are a warning and "success" (optimum 2380, 1812, 1888, 1755).
    """
    conversion = convert(
        tiny_model,
        ["raspberry-pi-5"],
        calibration=str(tiny_samples),
        output=tmp_path / "out",
        precision="int8",
        max_drop=0,
    )
    (failure,) = conversion.bundles
    assert isinstance(failure, ProfileFailure)
    assert conversion.exit_code == 1
    assert "no candidate keeps cosine within 0 of the original" in failure.message
    assert not list((tmp_path / "out").glob("*.edgert"))

    def other_numbers(samples: Path, out: Path, part: str) -> None:
        for file in samples.glob("*.npz"):
            np.savez(out / file.name, y=np.full((1, 4), 1923, np.float32))

    imported = Imported("thing", tiny_model, "0" * 64, framework="thing 1", rerun=other_numbers)
    with (
        pytest.raises(GateFailed, match="not what thing 1 runs"),
        opened(imported, tmp_path / "other", calibration=str(tiny_samples)),
    ):
        pytest.fail("was converted")


def test_pain_14_shapes_that_cannot_be_inferred_cost_speed_but_not_the_conversion(tmp_path):
    """Where a shape is declared wrongly or unknown, or an optimiser crashes, the model is converted all the same.

    What is unknown stays so, and what does not depend on it is still made faster; a rewrite that fails is taken back
    alone and told (onnxruntime 10484, 21194, 21120, 24028; onnxsim 291, 231; OnnxStream PR 60).
    """
    text = """g (float[N,6] x) => (float[7,M] y) {
        g = com.microsoft.BiasGelu(x, k)  s = Shape(g)  r = Reshape(g, s)
        f = Add(x, x)  n = Identity(f)  y = Add(r, n) }"""
    original = passes.proto(text, k=np.full(6, 2, np.float32))
    onnx.save(original, tmp_path / "odd.onnx")

    def crashes(model: ir.Model, profile: DeviceProfile) -> PassResult:
        raise MemoryError(f"{len(model.graph)} nodes for {profile.id}")

    graph = float_graph(normalised(tmp_path / "odd.onnx", passes.CPU, {}), passes.CPU, passes=(crashes, *SPEED))
    told = [reason for step in graph.steps for reason in step.declined]
    assert any("taken back, MemoryError" in reason for reason in told)
    assert "Identity" not in passes.ops(graph.model)
    feeds = {"x": normal(5, 6)}
    expected = passes.run(ir.from_proto(original), feeds)[0]
    np.testing.assert_allclose(passes.run(graph.model, feeds)[0], expected, atol=1e-6)


def test_pain_15_calibration_data_is_taken_as_it_lies_and_named_in_the_bundle(tiny_model, tiny_samples, tmp_path):
    """Pictures, arrays and stacks calibrate alike, random numbers warn, and the bundle holds the digest of the data.

    Elsewhere a loader must be written, data is random without a word, and nobody knows afterwards what was used
    (ultralytics 8916, esp-who 339, winml-cli 260 and 433).
    """
    from_files = _convert(tiny_model, str(tiny_samples), tmp_path / "files")
    again = _convert(tiny_model, str(tiny_samples), tmp_path / "again")
    random = _convert(tiny_model, "random", tmp_path / "random")
    stack = np.concatenate([np.load(path)["x"] for path in sorted(tiny_samples.iterdir())])
    np.save(tmp_path / "stack.npy", stack[:, None])
    stacked = _convert(tiny_model, str(tmp_path / "stack.npy"), tmp_path / "stacked")
    recorded = [_calibration(report) for report in (from_files, again, random, stacked)]
    assert recorded[0] == recorded[1]
    digests = [entry["digest"] for entry in recorded]
    assert digests[0] == digests[3] != digests[2]
    assert any("RANDOM" in warning for warning in random.warnings)
    assert not any("RANDOM" in warning for warning in from_files.warnings)
    Image.fromarray(np.full((9, 12, 3), 128, np.uint8)).save(tmp_path / "grey.png")
    pictures = open_samples(str(tmp_path / "grey.png"), [TensorSpec("image", "float32", (1, 3, 8, 8))])
    assert next(iter(pictures))["image"].shape == (1, 3, 8, 8)


def test_pain_04_int8_that_is_no_faster_is_not_shipped(tiny_model, tiny_samples, tmp_path):
    """int8 slower than fp32: onnxruntime 20052, 17389, 6732, 12854, 16009, 26143. What is chosen was timed, and float
    wins unless integers are faster by more than noise; a call of microseconds leaves them nothing to win.
    """
    own = detect_profile(host_facts())
    (entry,) = convert(tiny_model, [own], calibration=str(tiny_samples), output=tmp_path).bundles
    assert isinstance(entry, BundleReport), entry
    speed = {one.variant: one.speedup for one in entry.candidates if one.speedup is not None}
    floats = [value for name, value in speed.items() if name.startswith("fp32")]
    assert floats
    chosen = next(one for one in entry.candidates if one.outcome == "chosen")
    if chosen.precision != "fp32":
        assert chosen.speedup is not None
        assert chosen.speedup > max(floats)
    assert all(one.outcome == "slower" for one in entry.candidates if one.speedup and one.speedup < max(floats) * 0.9)


HASWELL = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
numpy.save(sys.argv[3], session.run(None, dict(numpy.load(sys.argv[2])))[0])
"""


def _on_haswell(model: ir.Model, feeds: Mapping[str, Array], folder: Path, name: str) -> Array:
    """Run a model on an emulated CPU with AVX2 and without VNNI."""
    qemu = shutil.which("qemu-x86_64-static")
    if qemu is None:
        pytest.skip("qemu-x86_64-static (Debian: qemu-user-static) is not installed")
    if platform.machine() != "x86_64":
        pytest.skip("the emulated processor runs the Python of an x86-64 machine only")
    ir.save(model, folder / f"{name}.onnx")
    np.savez(folder / "feeds.npz", **feeds)
    files = [str(folder / f"{name}.onnx"), str(folder / "feeds.npz"), str(folder / f"{name}.npy")]
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    call = [qemu, "-cpu", "Haswell", sys.executable, "-c", HASWELL, *files]
    subprocess.run(call, check=True, env=environment, timeout=300, capture_output=True)
    found: Array = np.load(files[2])
    return found


def test_pain_05_an_old_x86_gives_the_same_answers(tmp_path):
    """Other results on a CPU without VNNI: onnxruntime 6004, 5849, 14642, 12072, 6545. u8 x s8 of full range saturates
    there; what the profile of such CPUs asks for does not. Run on an emulated Haswell.
    """
    weights = {"w": np.full((8, 64, 1, 1), 1.0, np.float32) * np.sign(normal(8, 64, 1, 1) + 0.7)}
    model = net("y = Conv (x, w)", "float[1,64,4,4] x", "float[1,8,4,4] y", weights)
    sample = {"x": np.abs(normal(1, 64, 4, 4, seed=1)) + 3}
    exact = run(model, sample, tmp_path)["y"]
    errors = {}
    for profile in ("x86-avx2", "x86-avx512-vnni"):
        plan = plan_quantization(model, ranges_of(model, [sample], tmp_path), load_profile(profile).quantization)
        found = _on_haswell(apply_qdq(model, plan), sample, tmp_path, profile)
        errors[profile] = float(np.abs(found - exact).max() / np.abs(exact).max())
    assert errors["x86-avx2"] < 0.01
    assert errors["x86-avx512-vnni"] > 0.05, "the trap is real: this encoding does saturate there"


def test_pain_09_fp16_never_overflows_unseen(tmp_path):
    """Invalid or NaN fp16 models: onnxruntime 14827, 25522, onnxconverter-common 208, 320. What came near 65504 on the
    samples stays in float32, the model loads, and its answers are finite and near.
    """
    model = net(
        "s = Mul (x, x) m = ReduceMean <keepdims = 1> (s) y = Sqrt (m)",
        "float[1,64] x",
        "float[1,1] y",
        {},
        opset=17,
    )
    samples = [{"x": normal(1, 64, seed=number) * 400} for number in range(4)]
    half, kept = to_fp16(model, ranges_of(model, samples, tmp_path))
    assert any("Mul" in sentence for sentence in kept)
    for sample in samples:
        seen = run(half, sample, tmp_path)["y"]
        assert np.isfinite(seen).all()
        assert seen == pytest.approx(run(model, sample, tmp_path)["y"], rel=2e-3)


def test_pain_10_static_shapes_come_from_the_samples_and_what_is_missing_is_named(tmp_path):
    """NPU needs static shapes, unclear error: openvino 26357, 24619, 34617, 26375, 29003. Free dimensions are fixed by
    the samples; where these differ the error names input, dimension and flag.
    """
    need("QNNExecutionProvider")
    free = net("y = Conv (x, w)", "float[n,3,h,12] x", "float[n,4,k,12] y", {"w": normal(4, 3, 1, 1)})
    ir.save(free, tmp_path / "free.onnx")
    for name, heights in (("same", (12, 12)), ("other", (12, 16))):
        (tmp_path / name).mkdir()
        for number, height in enumerate(heights):
            np.savez(tmp_path / name / f"{number}.npz", x=normal(1, 3, height, 12, seed=number))
    npu = "snapdragon-8-gen-3"
    (entry,) = convert(
        tmp_path / "free.onnx", [npu], calibration=str(tmp_path / "same"), output=tmp_path / "out"
    ).bundles
    assert isinstance(entry, BundleReport), entry
    assert open_bundle(entry.path).manifest.inputs[0].shape == (1, 3, 12, 12)
    (entry,) = convert(
        tmp_path / "free.onnx", [npu], calibration=str(tmp_path / "other"), output=tmp_path / "out"
    ).bundles
    assert isinstance(entry, ProfileFailure)
    assert "dimension 2 ('h') of input 'x' is not fixed (the samples have 12 and 16 there)" in entry.message
    assert "--shape x=" in entry.remedy


def test_pain_11_nothing_falls_back_to_the_cpu_in_silence(tmp_path):
    """Silent CPU fallback on the NPU: onnxruntime 26845, Olive 1721. A node that the NPU refuses is named, and the exit
    code says so.
    """
    need("QNNExecutionProvider")
    body = "a = Conv (x, w) y = NonZero (a)"
    model = net(body, "float[1,3,8,8] x", "int64[4,k] y", {"w": normal(4, 3, 1, 1)})
    ir.save(model, tmp_path / "refused.onnx")
    npu = "snapdragon-8-gen-3"
    conversion = convert(tmp_path / "refused.onnx", [npu], calibration="random", output=tmp_path / "out")
    (entry,) = conversion.bundles
    assert isinstance(entry, ProfileFailure), entry
    assert conversion.exit_code == 1
    assert [node["op_type"] for node in entry.refused] == ["NonZero"]
    assert "NonZero_1" in entry.message


def test_pain_12_one_command_says_stage_cause_and_next_step(tiny_model, tiny_samples, tmp_path):
    """Ends with 'No output model produced. Please check the log': Olive 1905, 1962, 1725, 1460, 1599, 475. Whatever is
    wrong, the command says what, where and what to do, with an exit code and without a traceback.
    """
    wrong = {
        "model": ([str(tmp_path / "none.onnx"), "-p", "raspberry-pi-5"], 2, "none.onnx"),
        "profile": ([str(tiny_model), "-p", "raspberry-pi-55"], 2, "raspberry-pi-5"),
        "precision": ([str(tiny_model), "-p", "raspberry-pi-5", "--precision", "int88"], 2, "int8"),
        "data": ([str(tiny_model), "-p", "raspberry-pi-5", "--calibration", str(tmp_path / "no")], 2, "/no'"),
    }
    for arguments, code, said in wrong.values():
        calibration = [] if "--calibration" in arguments else ["--calibration", str(tiny_samples)]
        call = [sys.executable, "-m", "edgert", "convert", *arguments, *calibration, "-o", str(tmp_path / "out")]
        done = subprocess.run(call, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stderr
        assert said in done.stderr
        assert "remedy:" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()
