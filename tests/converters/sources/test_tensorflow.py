"""TensorFlow and Keras models come in from every form they are kept in, and none of them runs code on the way."""

import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from converters.sources import select, tensorflow
from converters.sources.imported import Imported, Options
from edgert.errors import BadInput
from tests import real_samples
from tests.source_answers import source_answers

MAKER = Path(__file__).with_name("tensorflow_models.py")
LEAST_DB = 90.0


@pytest.fixture(scope="module")
def made(source_environment, tmp_path_factory) -> Path:
    """Return a folder with one small trained net in every form, recurrent nets, and models that hold code."""
    folder = tmp_path_factory.mktemp("keras")
    command = [str(source_environment("tensorflow")), str(MAKER), "keras", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture
def opened(tmp_path) -> Callable[..., Imported]:
    """Return a function: a path and options -> what it becomes."""

    def get(path: Path, **options: object) -> Imported:
        workdir = tmp_path / "work"
        shutil.rmtree(workdir, ignore_errors=True)
        workdir.mkdir()
        return tensorflow.load(path, Options(workdir=workdir, **options))

    return get


def least_db(model: Imported, feeds: list[dict[str, np.ndarray]], folder: Path) -> float:
    """Return the least SQNR of any output over the samples, the graph against TensorFlow itself."""
    figures = []
    for expected, found in source_answers(model, feeds, folder):
        for name, array in found.items():
            assert array.shape == expected[name].shape
            noise = max(float(np.square(array - expected[name]).sum()), 1e-30)
            figures.append(10 * np.log10(float(np.square(expected[name]).sum()) / noise))
    return min(figures)


def interface(model: Imported) -> tuple[dict[str, list[object]], list[str]]:
    """Return input -> its dimensions, and the names of the outputs."""
    graph = onnx.load(model.path).graph
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in graph.input
    }
    return shapes, [value.name for value in graph.output]


@pytest.mark.all_sources
@pytest.mark.parametrize(
    ("name", "output", "framework"),
    [
        ("net.keras", "corner", "keras 3"),
        ("net.h5", "corner", "keras 3"),
        ("net", "output_0", "tensorflow"),
        ("net.pb", "Identity", "tensorflow"),
    ],
)
def test_tensorflow_every_form_of_a_net_is_the_net(made, opened, tmp_path, name, output, framework):
    """Keras file, HDF5, SavedModel and frozen graph answer as TensorFlow does, at batch 1 and 3, under plain names."""
    assert select.detect(made / name) == "tensorflow"
    model = opened(made / name)
    assert interface(model) == ({"image": ["batch", 16, 16, 1]}, [output])
    assert model.framework.startswith(framework)
    random = np.random.default_rng(0)
    feeds = [{"image": random.random((batch, 16, 16, 1), np.float32)} for batch in (1, 3)]
    assert least_db(model, feeds, tmp_path) > LEAST_DB


@pytest.mark.all_sources
def test_tensorflow_recurrent_net_with_named_inputs_and_outputs(made, opened, tmp_path):
    """LSTM and bidirectional GRU, inputs and outputs in dicts: the dicts' keys are the names."""
    model = opened(made / "rnn.keras")
    shapes, outputs = interface(model)
    assert shapes == {"extra": ["batch", 3], "sequence": ["batch", 7, 5]}
    assert outputs == ["hidden", "score"]
    random = np.random.default_rng(0)
    feeds = [
        {name: random.normal(size=(2, *shape[1:])).astype(np.float32) for name, shape in shapes.items()}
        for _ in range(2)
    ]
    assert least_db(model, feeds, tmp_path) > LEAST_DB


@pytest.mark.all_sources
def test_tensorflow_model_of_keras_2_is_read_by_keras_2(made, opened, tmp_path):
    """What Keras 3 does not understand, tf_keras reads; which one did is told."""
    model = opened(made / "keras2.h5")
    assert model.framework.startswith(("tf_keras 2", "keras 3"))
    (name,) = interface(model)[0]
    assert least_db(model, [{name: np.ones((2, 5), np.float32) * 0.3}], tmp_path) > LEAST_DB


@pytest.mark.all_sources
def test_tensorflow_saved_model_and_onnx_of_one_net_agree(opened, model_path):
    """Basic-pitch as SavedModel, made by Keras 2, answers as its own ONNX file, whose outputs are numbered."""
    model = opened(model_path("basic-pitch-saved-model"))
    own = onnxruntime.InferenceSession(model_path("basic-pitch"), providers=["CPUExecutionProvider"])
    came = onnxruntime.InferenceSession(model.path, providers=["CPUExecutionProvider"])
    sample = next(real_samples.basic_pitch())
    expected = own.run([f"StatefulPartitionedCall:{number}" for number in range(3)], sample)
    found = came.run(["contour", "note", "onset"], {"input_2": sample["serving_default_input_2:0"]})
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4)


@pytest.mark.all_sources
def test_tensorflow_shape_that_is_asked_for_is_in_the_graph(made, opened):
    """`--shape` fixes the batch before tf2onnx sees the graph; one that contradicts the model is refused."""
    assert interface(opened(made / "net.keras", shapes={"image": (2, 16, 16, 1)}))[0] == {"image": [2, 16, 16, 1]}
    with pytest.raises(BadInput, match="contradicts the model, which has"):
        opened(made / "net.keras", shapes={"image": (1, 8, 16, 1)})
    with pytest.raises(BadInput, match="no input 'picture'") as caught:
        opened(made / "net.keras", shapes={"picture": (1, 16, 16, 1)})
    assert "image" in caught.value.remedy


@pytest.mark.all_sources
@pytest.mark.parametrize("name", ["lambda.keras", "lambda.h5", "lambda.2.keras", "lambda.2.h5"])
def test_tensorflow_lambda_layer_is_refused_and_does_not_run(made, opened, tmp_path, name):
    """Code in a Keras file, of either version and in either form, stays unread; the layer is named."""
    with pytest.raises(BadInput, match=r"layer 'double' \(Lambda\) holds code") as caught:
        opened(made / name)
    assert "--trust-pickle" in caught.value.remedy
    assert not list(tmp_path.rglob("written-by-the-model"))


@pytest.mark.all_sources
def test_tensorflow_lambda_layer_that_is_trusted_runs(made, opened, tmp_path):
    """With `--trust-pickle` the very same file loads, which also shows that its code would have run."""
    opened(made / "lambda.keras", trust_pickle=True)
    assert list(tmp_path.rglob("written-by-the-model"))


@pytest.mark.all_sources
@pytest.mark.parametrize(("name", "operator"), [("acts", "WriteFile"), ("calls", "PyFunc")])
def test_tensorflow_saved_model_that_acts_is_refused_and_does_not_run(made, opened, tmp_path, name, operator):
    """Operators that write files or call Python are named before the model is loaded."""
    with pytest.raises(BadInput, match=f"operator {operator} at node"):
        opened(made / name)
    assert not list(tmp_path.rglob("written-by-the-model"))


@pytest.mark.all_sources
def test_tensorflow_class_of_another_module_is_not_imported(made, opened, tmp_path):
    """A Keras file can name any Python class; only those of Keras are looked up."""
    path = tmp_path / "foreign.keras"
    with zipfile.ZipFile(made / "net.keras") as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename == "config.json":
                config = json.loads(data)
                config["config"]["layers"][1].update(module="subprocess", class_name="Popen")
                data = json.dumps(config).encode()
            target.writestr(entry, data)
    with pytest.raises(BadInput, match="'Popen' of the module 'subprocess'"):
        opened(path)


@pytest.mark.all_sources
def test_tensorflow_hdf5_that_reaches_into_another_file_is_refused(made, opened):
    """An external link would read whatever file the model names."""
    with pytest.raises(BadInput, match="lies in another file"):
        opened(made / "linked.h5")


@pytest.mark.all_sources
def test_tensorflow_weights_without_a_model_say_so(made, opened):
    """An HDF5 file of weights cannot be converted, and the line that saves the whole model is given."""
    with pytest.raises(BadInput, match="holds weights and no model") as caught:
        opened(made / "only.weights.h5")
    assert "model.save" in caught.value.remedy


def test_tensorflow_variables_of_which_one_file_is_missing_are_told(tmp_path):
    """A SavedModel that was copied without its data is refused before TensorFlow is asked."""
    (tmp_path / "model" / "variables").mkdir(parents=True)
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"\x08\x01\x12\x00")
    (tmp_path / "model" / "variables" / "variables.index").write_bytes(b"index")
    with pytest.raises(BadInput, match=r"variables/variables\.data-\* is missing"):
        tensorflow.load(tmp_path / "model", Options(workdir=tmp_path))


def test_tensorflow_keras_archive_that_swells_is_refused(tmp_path):
    """A zip whose members are a thousand times larger than it is not unpacked."""
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.h5", bytes(200 << 20))
    assert tensorflow.matches(path)
    with pytest.raises(BadInput):
        tensorflow.load(path, Options(workdir=tmp_path))


@pytest.mark.parametrize(
    "head",
    [
        b"\x0a\x1d\x0a\x05image\x12\x0bPlaceholder*\x07\x0a\x05dtype",
        b"\x0a\xac\x02\x0a\x01x\x12\x05Const" + bytes(16),
        b"\x89HDF\r\n\x1a\n" + bytes(16),
    ],
    ids=["graph", "graph with a long first node", "HDF5"],
)
def test_tensorflow_files_are_told_by_their_content(tmp_path, head):
    """A frozen graph starts with a node, its name and its operator; HDF5 has a magic number; names do not matter."""
    path = tmp_path / "model"
    path.write_bytes(head)
    assert tensorflow.matches(path)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x0a",
        b"\x0a\x05",
        b"\x08\x08\x12\x07pytorch",
        b"\x0a\x04\x08\x00\x10\x00",
        b"\x0a\x07\x0a\x01\x00\x12\x02Ad",
        b"hello",
    ],
    ids=["empty", "one byte", "cut", "ONNX", "Paddle", "no name", "text"],
)
def test_tensorflow_other_files_are_not_taken_for_its_own(tmp_path, head):
    """What starts otherwise is refused with the forms that are known."""
    path = tmp_path / "model.pb"
    path.write_bytes(head)
    assert not tensorflow.matches(path)
    with pytest.raises(BadInput, match="not a TensorFlow model") as caught:
        tensorflow.load(path, Options(workdir=tmp_path))
    assert "SavedModel folder" in caught.value.remedy
