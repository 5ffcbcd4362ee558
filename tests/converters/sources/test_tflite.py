"""TFLite models come in with their own numbers: the very scales of the file, and what LiteRT answers."""

import json
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import converters
from converters.candidates.quantized import REASON
from converters.request import BundleReport, ProfileFailure
from converters.sources import tflite
from converters.sources.imported import Imported, Options
from edgert.errors import BadInput, GateFailed
from edgert.runtime.providers import Absent, find_device
from tests import real_samples
from tests.source_answers import source_answers

MAKER = Path(__file__).with_name("tensorflow_models.py")
SAMPLES = 16
ONE_STEP = 0.99
"""The share of values that must lie within one step of LiteRT's, which rounds its sums with fixed-point numbers."""


@pytest.fixture(scope="module")
def made(source_environment, tmp_path_factory) -> Path:
    """Return a folder with the small trained net as TFLite in each number format."""
    folder = tmp_path_factory.mktemp("tflite")
    _script(source_environment, "tflite", folder)
    return folder


@pytest.fixture(scope="module")
def imported(made, tmp_path_factory) -> Callable[[Path], Imported]:
    """Return a function: a TFLite file -> what it becomes, once for all tests."""
    known: dict[Path, Imported] = {}

    def get(path: Path) -> Imported:
        if path not in known:
            known[path] = tflite.load(path, Options(workdir=tmp_path_factory.mktemp("work")))
        return known[path]

    return get


def _script(source_environment: Callable[[str], Path], *words: object) -> None:
    command = [str(source_environment("tensorflow")), str(MAKER), *map(str, words)]
    done = subprocess.run(command, cwd=Path(str(words[1])).parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def answers(
    model: Imported, feeds: list[dict[str, np.ndarray]], folder: Path
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield what LiteRT gives and what the ONNX graph gives, for each output of each sample."""
    for expected, found in source_answers(model, feeds, folder):
        yield from ((expected[name], array) for name, array in found.items())


def integers(kind: type, shape: tuple[int, ...], count: int = SAMPLES) -> list[np.ndarray]:
    """Return random tensors over the whole range of an integer type."""
    random, limits = np.random.default_rng(0), np.iinfo(kind)
    return [random.integers(limits.min, limits.max + 1, shape).astype(kind) for _ in range(count)]


def encodings(path: Path) -> list[tuple[str, list[float], list[int], int | None]]:
    """Return the type, scales, zero points and axis of each Q and DQ of an ONNX file."""
    graph = onnx.load(path).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = (np.atleast_1d(arrays[name]) for name in node.input[1:3])
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), None)
            assert len(scale) == 1 or arrays[node.input[0]].shape[axis] == len(scale)
            found.append((str(zero.dtype), scale.tolist(), zero.tolist(), axis))
    return found


def test_tflite_integer_model_keeps_every_scale_of_the_file(made, imported):
    """Each scale and zero point, per channel too, is one of the file's, and all of them are there."""
    model = imported(made / "int8.tflite")
    file = {(tuple(scales), tuple(zeros)) for scales, zeros in json.loads((made / "int8.json").read_text())}
    graph = {(tuple(scales), tuple(zeros)) for _, scales, zeros, _ in encodings(model.path)}
    assert graph == file
    assert model.quantized
    assert max(len(scales) for scales, _ in graph) == 96, "weights have a scale for each channel"


def test_tflite_integer_model_keeps_its_weights_as_integers(made, imported):
    """No weight comes as floats: the only ones are scales and the ends of a Clip."""
    graph = onnx.load(imported(made / "int8.tflite").path).graph
    kernels = {tensor.data_type for tensor in graph.initializer if len(tensor.dims) > 1}
    assert kernels == {onnx.TensorProto.INT8}
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    steps = {node.input[1] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    assert floats <= steps | {name for node in graph.node if node.op_type == "Clip" for name in node.input[1:]}


@pytest.mark.parametrize(
    ("number_format", "kind"),
    [
        ("int8", np.int8),
        pytest.param("uint8", np.uint8, marks=pytest.mark.all_sources),
        pytest.param("int16", np.int16, marks=pytest.mark.all_sources),
    ],
)
def test_tflite_integer_model_answers_as_litert_does(made, imported, tmp_path, number_format, kind):
    """Inputs and outputs stay integers, and 99 % of the values are within one step of LiteRT's."""
    feeds = [{"image": array} for array in integers(kind, (1, 16, 16, 1))]
    pairs = list(answers(imported(made / f"{number_format}.tflite"), feeds, tmp_path))
    assert len(pairs) == SAMPLES
    assert {found.dtype for _, found in pairs} == {np.dtype(kind)}
    steps = np.concatenate([np.abs(found.astype(int) - expected.astype(int)).ravel() for expected, found in pairs])
    assert (steps <= 1).mean() >= ONE_STEP
    assert len({array.tobytes() for array, _ in pairs}) > 1, "the answers depend on the pictures"


@pytest.mark.parametrize(
    "number_format", ["dynamic", *(pytest.param(word, marks=pytest.mark.all_sources) for word in ("float", "fp16"))]
)
def test_tflite_model_with_float_activations_is_a_float_model(made, imported, tmp_path, number_format):
    """Half-precision and 8-bit weights come as the numbers they stand for, at any batch size, with a word about it."""
    model = imported(made / f"{number_format}.tflite")
    assert not model.quantized
    assert bool(model.warnings) == (number_format == "dynamic")
    assert not encodings(model.path)
    random = np.random.default_rng(0)
    feeds = [{"image": random.random((batch, 16, 16, 1), np.float32)} for batch in (1, 3)]
    for expected, found in answers(model, feeds, tmp_path):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_tflite_names_are_those_of_the_signature(made, imported):
    """Nothing of 'serving_default_image:0' is left, and the batch is a free dimension of that name."""
    graph = onnx.load(imported(made / "int8.tflite").path).graph
    assert [value.name for value in graph.input] == ["image"]
    assert [value.name for value in graph.output] == ["output_0"]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_tflite_streaming_model_has_its_state_outside(imported, source_environment, model_path, tmp_path):
    """The wake word net fed frame by frame, its state handed back, has LiteRT's own output and state to the bit."""
    model = imported(model_path("wakeword"))
    assert model.quantized
    session = onnxruntime.InferenceSession(model.path, providers=["CPUExecutionProvider"])
    states = {value.name: value for value in session.get_inputs() if value.name != "input_audio"}
    assert len(states) == 6
    assert all(any(f"'{name}' starts as int8 -128" in word for word in model.warnings) for name in states)
    frames = np.stack(integers(np.int8, (1, 3, 40), 40))
    np.savez(tmp_path / "frames.npz", frames=frames)
    _script(source_environment, "stream", model_path("wakeword"), tmp_path / "frames.npz", tmp_path / "out.npz")
    feeds = {name: np.full(value.shape, -128, np.int8) for name, value in states.items()}
    names = [value.name for value in session.get_outputs()]
    expected = np.load(tmp_path / "out.npz")
    for number, frame in enumerate(frames):
        outputs = dict(zip(names, session.run(names, {"input_audio": frame, **feeds}), strict=True))
        feeds = {name: outputs[f"{name}_next"] for name in states}
        found = outputs["dense_1"].tobytes() + b"".join(sorted(array.tobytes() for array in feeds.values()))
        assert found == expected[f"{number}"].tobytes(), f"frame {number}"
    assert len({expected[f"{number}"].tobytes() for number in range(len(frames))}) == len(frames)


def test_tflite_state_that_is_no_step_is_refused_by_its_operators(made, imported):
    """A model that assigns its state twice in one run has no next value; each operator is named with its place."""
    with pytest.raises(GateFailed, match=r"ASSIGN_VARIABLE at operator 7 \('state'\)") as caught:
        imported(made / "counter.tflite")
    assert "VAR_HANDLE at operator 1 ('state')" in caught.value.message
    assert "streaming model" in caught.value.remedy


def test_tflite_sparse_weights_become_dense(imported, model_path, tmp_path):
    """The sparse face detector, whose DENSIFY has no form in ONNX, answers as LiteRT does, at 100 dB and more."""
    model = imported(model_path("face-detection-sparse"))
    random = np.random.default_rng(0)
    feeds = [{"input_1": random.uniform(-1, 1, (1, 192, 192, 3)).astype(np.float32)}]
    for expected, found in answers(model, feeds, tmp_path):
        assert 10 * np.log10(np.square(expected).sum() / np.square(found - expected).sum()) > 100


def test_tflite_and_onnx_of_one_net_agree(imported, model_path):
    """Basic-pitch as TFLite answers as its own ONNX file does; its outputs are that file's 0, 1 and 2."""
    own = onnxruntime.InferenceSession(model_path("basic-pitch"), providers=["CPUExecutionProvider"])
    came = onnxruntime.InferenceSession(
        imported(model_path("basic-pitch-tflite")).path, providers=["CPUExecutionProvider"]
    )
    sample = next(real_samples.basic_pitch())
    expected = own.run([f"StatefulPartitionedCall:{number}" for number in range(3)], sample)
    found = came.run(["contour", "note", "onset"], {"input_2": sample["serving_default_input_2:0"]})
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4)
        assert one.max() > 0.5, "there is a note in it"


def test_tflite_labels_of_its_metadata_come_along(made, imported, tmp_path):
    """The class names that TFLite metadata appends to the file as a zip archive become `labels.json`."""
    path = tmp_path / "labelled.tflite"
    path.write_bytes((made / "float.tflite").read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "top left\ntop right\nbottom left\nbottom right\n")
    model = imported(path)
    assert json.loads(model.files["labels.json"].read_text()) == [
        "top left",
        "top right",
        "bottom left",
        "bottom right",
    ]


@pytest.mark.parametrize("damage", ["noise", pytest.param("zeros", marks=pytest.mark.all_sources)])
def test_tflite_damaged_file_is_bad_input(made, imported, tmp_path, damage):
    """A file whose inside was overwritten is told by its path; LiteRT, which would crash, never sees it."""
    data = bytearray((made / "int8.tflite").read_bytes())
    data[8:2000] = bytes(1992) if damage == "zeros" else np.random.default_rng(0).bytes(1992)
    path = tmp_path / "damaged.tflite"
    path.write_bytes(data)
    with pytest.raises(BadInput, match="damaged"):
        imported(path)


def test_tflite_is_told_by_its_identifier(tmp_path):
    """What has no 'TFL3' at byte 4 is no TFLite model, whatever its name."""
    path = tmp_path / "model.tflite"
    for data in (b"", b"TFL3", b"\0\0\0\0TFL2\0\0\0\0"):
        path.write_bytes(data)
        assert not tflite.matches(path)
        with pytest.raises(BadInput, match="not a TFLite model"):
            tflite.load(path, Options(workdir=tmp_path))


@pytest.fixture(scope="module")
def converted(made, tmp_path_factory) -> dict[str, BundleReport | ProfileFailure]:
    """Return what the int8 net becomes for an NPU, a GPU and two CPUs; an accelerator that is not here is left out."""
    wanted = {"x86-avx512-vnni": "", "x86-avx2": "", "snapdragon-8-gen-3": "QNNExecutionProvider"}
    wanted["intel-core-ultra-s2-igpu"] = "WebGpuExecutionProvider"
    here = [
        name
        for name, provider in wanted.items()
        if not provider or not isinstance(find_device(provider, allow_emulated=True), Absent)
    ]
    conversion = converters.convert(
        made / "int8.tflite",
        profiles=here,
        calibration="random",
        shapes={"image": (1, 16, 16, 1)},
        samples=4,
        output=tmp_path_factory.mktemp("bundles"),
    )
    return dict(zip(here, conversion.bundles, strict=True))


@pytest.mark.parametrize(
    ("profile", "name"), [("x86-avx512-vnni", "qdq-u8s8"), ("x86-avx2", "qdq-u8u8"), ("snapdragon-8-gen-3", "qdq-u8s8")]
)
def test_quantized_model_is_converted_as_it_is(converted, profile, name):
    """One variant of the device's integer types, whole on its provider, as the original answers; no calibration."""
    if profile not in converted:
        pytest.skip(f"the provider of {profile} is not here")
    report = converted[profile]
    assert isinstance(report, BundleReport), report
    assert report.chosen == name
    assert report.reason == REASON
    assert [one.name for one in report.variants] == [name]
    assert len(report.variants[0].nodes) == 1
    assert min(parity.cosine_min for parity in report.variants[0].checks[0].outputs.values()) > 0.999
    assert not any(one.note for one in report.variants)


def test_quantized_model_on_a_gpu_names_every_node_it_does_not_take(converted):
    """WebGPU has no QuantizeLinear: the failure names each one, and no bundle is written."""
    if "intel-core-ultra-s2-igpu" not in converted:
        pytest.skip("WebGPU is not here")
    failure = converted["intel-core-ultra-s2-igpu"]
    assert isinstance(failure, ProfileFailure)
    assert {node["op_type"] for node in failure.refused} == {"QuantizeLinear"}
    assert all(node["name"] in failure.message for node in failure.refused)


@pytest.mark.all_sources
def test_quantized_model_asked_for_another_precision_says_why_not(made, tmp_path):
    """`--precision fp32` would undo the quantization, and another one do it twice."""
    conversion = converters.convert(
        made / "int8.tflite", profiles=["x86-avx2"], calibration="random", samples=1, precision="fp32", output=tmp_path
    )
    (failure,) = conversion.bundles
    assert isinstance(failure, ProfileFailure)
    assert "came quantized (qdq-u8u8)" in failure.message
    assert failure.exit_code == 2


@pytest.mark.all_sources
@pytest.mark.parametrize(("model", "shape"), [("face-mesh", (1, 192, 192, 3)), ("iris", (1, 64, 64, 3))])
def test_tflite_real_nets_answer_as_litert_does(imported, model_path, tmp_path, model, shape):
    """Face mesh and iris agree with LiteRT at 100 dB and more."""
    random = np.random.default_rng(0)
    feeds = [{"input_1": random.uniform(0, 1, shape).astype(np.float32)} for _ in range(2)]
    for expected, found in answers(imported(model_path(model)), feeds, tmp_path):
        assert 10 * np.log10(np.square(expected).sum() / np.square(found - expected).sum()) > 100
