"""Every source of models keeps the contract of `source_contract.py`; here is what is special about each.

A 3 GB model whose weights lie beside the graph: ONNX files and Hugging Face folders can be such, and both are tested.
Paddle's refusal is in `tests/converters/sources/test_paddle.py`: paddle2onnx cannot write more than 2 GB. For the
others there is nothing to test: the weights of `.pt2`, TorchScript, `.keras`, TFLite (a flatbuffer, 2 GB at most) and
of trees are inside the one file, and TensorFlow reads the variables of a SavedModel into memory in any case.
"""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

import converters
from edgert.errors import EdgertError
from tests import real_samples
from tests.contracts.source_contract import Feeds, SourceContract

GIGABYTE = 1 << 30
PEAK = """
import json, resource, sys
from pathlib import Path
from converters.sources import select
from converters.sources.imported import Options
from edgert.host import peak_rss_bytes
imported = select.open_source(Path(sys.argv[1]), None, Options(workdir=Path(sys.argv[2])))
child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({"path": str(imported.path), "own": peak_rss_bytes(), "child": child * 1024}))
"""


def peaks(model: Path, workdir: Path) -> dict[str, int | str]:
    """Open the model in a process of its own; return where the ONNX file is, and the peaks of memory in bytes."""
    pytest.importorskip("resource", reason="peaks of memory are measured on Unix")
    workdir.mkdir()
    command = [sys.executable, "-c", PEAK, str(model), str(workdir)]
    environ = {**os.environ, "PYTHONPATH": str(Path(converters.__file__).parent.parent)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout))


def sparse(file: Path, size: int) -> None:
    """Make the file `size` bytes long without writing them."""
    with file.open("ab") as stream:
        stream.truncate(size)


def enlarge(file: Path, name: str, shape: list[int]) -> None:
    """Give a tensor of a `.safetensors` file another shape, and put its values at the end: zeros, not written."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    large = header.pop(name)
    kept, chunks, place = {}, [], 0
    for other, entry in header.items():
        if other != "__metadata__":
            start, end = entry["data_offsets"]
            chunks.append(body[start:end])
            kept[other] = {**entry, "data_offsets": [place, place + end - start]}
            place += end - start
    size = 4 * shape[0] * shape[1]
    kept[name] = {**large, "shape": shape, "data_offsets": [place, place + size]}
    text = json.dumps({**kept, "__metadata__": {"format": "pt"}}).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(chunks))
    sparse(file, 8 + len(text) + place + size)


class TestOnnx(SourceContract):
    """ONNX is read as it is: there is no framework behind it, and no exporter."""

    kind = "onnx"
    real = "ppocr-cls"

    def test_source_agrees_with_its_own_framework(self, imported, model):
        """The very file is used, so there is nothing that could differ."""
        assert imported.path == model
        assert imported.rerun is None

    def test_source_without_its_framework_names_the_line_that_installs_it(self, opened, model, tmp_path, monkeypatch):
        """There is nothing to install: ONNX opens where no framework is."""
        monkeypatch.setenv("EDGERT_SOURCES", str(tmp_path / "none"))
        assert opened(model).path == model

    def test_source_operator_that_the_exporter_does_not_know_is_named_with_its_place(self, tmp_path):
        """An operator of an unknown domain has its name and its node's in the error of the conversion."""
        node = helper.make_node("Whirl", ["x"], ["y"], name="head/whirl", domain="com.example")
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in "xy"]
        graph = helper.make_graph([node], "whirl", values[:1], values[1:])
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "whirl.onnx")
        with pytest.raises(EdgertError, match=r"(?s)Whirl.*head/whirl|head/whirl.*Whirl") as caught:
            converters.convert(
                tmp_path / "whirl.onnx", ["x86-avx512-vnni"], calibration="random", output=tmp_path / "out"
            )
        assert caught.value.remedy

    def test_source_with_3_gb_beside_the_graph_is_not_read_into_memory(self, tmp_path):
        """A table of 3 GB in a sparse file is imported with less than a gigabyte of memory."""
        rows, width = 3 * GIGABYTE // 4 // 256, 256
        table = numpy_helper.from_array(np.zeros((1, 1), np.float32), "table")
        table.dims[:] = (rows, width)
        external_data_helper.set_external_data(table, "table.bin", length=rows * width * 4)
        table.ClearField("raw_data")
        graph = helper.make_graph(
            [helper.make_node("Gather", ["table", "x"], ["y"], name="lookup")],
            "lookup",
            [helper.make_tensor_value_info("x", TensorProto.INT64, [1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, width])],
            [table],
        )
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx"
        )
        sparse(tmp_path / "table.bin", rows * width * 4)
        seen = peaks(tmp_path / "m.onnx", tmp_path / "work")
        assert seen["path"] == str(tmp_path / "m.onnx")
        assert seen["own"] < GIGABYTE


class TestPyTorch(SourceContract):
    """A state_dict with its class for the real model, `.pt2` for the unknown operator."""

    kind = "pytorch"
    environments = ("torch", "huggingface")
    maker = ("make_torch.py", "huggingface")
    real = "effnet-lite0"
    options = MappingProxyType({"factory": "examples.efficientnet.model:build"})
    unknown = "unknown.pt2"
    unknown_says = r"(?s)bessel_j0.*head|head.*bessel_j0"

    def feeds(self, random: np.random.Generator) -> Feeds:
        """Return a picture of noise, [1, 3, 224, 224] in -1..1."""
        return {"image": random.uniform(-1, 1, (1, 3, 224, 224)).astype(np.float32)}


class TestHuggingFace(SourceContract):
    """The exporter knows architectures, so it is one of these that is unknown."""

    kind = "huggingface"
    environments = ("huggingface",)
    real = "minilm-l6"
    cut = "model.safetensors"

    def feeds(self, random: np.random.Generator) -> Feeds:
        """Return two texts of seven tokens, the second padded by three."""
        mask = np.array([[1] * 7, [1] * 4 + [0] * 3])
        ids = random.integers(1000, 20000, (2, 7)) * mask
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}

    def test_source_operator_that_the_exporter_does_not_know_is_named_with_its_place(self, opened, model, tmp_path):
        """The architecture that is not known is named, and so is the folder."""
        folder = tmp_path / "model"
        shutil.copytree(model, folder)
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "whirl", "architectures": ["WhirlModel"]}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(EdgertError, match="whirl") as caught:
            opened(folder)
        assert caught.value.remedy

    @pytest.mark.all_sources
    def test_source_with_3_gb_beside_the_graph_becomes_onnx(self, opened, model, tmp_path, request):
        """An embedding of 3 GB in a sparse file comes out as external data, for a graph holds two at most."""
        request.addfinalizer(lambda: shutil.rmtree(tmp_path))
        folder, width = tmp_path / "model", 384
        shutil.copytree(model, folder)
        config = json.loads((folder / "config.json").read_text())
        config |= {"vocab_size": 3 * GIGABYTE // 4 // width, "num_hidden_layers": 1}
        (folder / "config.json").write_text(json.dumps(config))
        enlarge(folder / "model.safetensors", "embeddings.word_embeddings.weight", [config["vocab_size"], width])
        seen = peaks(folder, tmp_path / "work")
        assert seen["own"] < GIGABYTE
        assert seen["child"] < 4 * 3 * GIGABYTE
        assert onnx.load(seen["path"], load_external_data=False).ByteSize() < GIGABYTE
        beside = sum(file.stat().st_size for file in Path(str(seen["path"])).parent.iterdir())
        assert beside > 3 * GIGABYTE - (1 << 20)


class TestTFLite(SourceContract):
    """LiteRT runs the original; its 16-bit weights become 32-bit ones."""

    kind = "tflite"
    environments = ("tensorflow",)
    maker = ("make_tensorflow.py", "tensorflow")
    real = "face-detection"
    unknown = "unknown.tflite"
    unknown_says = r"(?s)Betainc.*operator \d"

    def feeds(self, random: np.random.Generator) -> Feeds:
        """Return a picture of noise, [1, 128, 128, 3] in -1..1."""
        return {"input": random.uniform(-1, 1, (1, 128, 128, 3)).astype(np.float32)}


class TestSklearn(SourceContract):
    """XGBoost's own file needs no trust; the pipeline with an unknown step is a pickle."""

    kind = "sklearn"
    environments = ("sklearn",)
    maker = ("make_sklearn.py", "sklearn")
    real = "digits.json"
    options = MappingProxyType({"trust_pickle": True})
    unknown = "unknown.joblib"
    unknown_says = r"step 'kernelridge' \(KernelRidge\)"

    def feeds(self, random: np.random.Generator) -> Feeds:
        """Return five pictures of 64 grey values, 0..16."""
        return {"x": random.integers(0, 17, (5, 64)).astype(np.float32)}


class TestSklearnPipeline(TestSklearn):
    """The same with a pipeline of scikit-learn itself."""

    real = "digits.joblib"


@pytest.mark.all_sources
class TestTensorFlow(SourceContract):
    """A SavedModel, the form that everything else of TensorFlow is saved to."""

    kind = "tensorflow"
    environments = ("tensorflow",)
    maker = ("make_tensorflow.py", "tensorflow")
    real = "basic-pitch-saved-model"
    cut = "saved_model.pb"
    unknown = "unknown_saved_model"
    unknown_says = r"(?s)Betainc at node '.*head/Betainc'"

    def feeds(self, random: np.random.Generator) -> Feeds:
        """Return two seconds of a tone in noise, [1, 43844, 1], 22,050 Hz."""
        time = np.arange(43844) / 22050
        tone = 0.3 * np.sin(2 * np.pi * 440 * time) + 0.01 * random.normal(size=43844)
        return {"input_2": tone.astype(np.float32).reshape(1, -1, 1)}


@pytest.mark.all_sources
class TestPaddle(SourceContract):
    """PP-OCR is a `.pdmodel` of Paddle 2; the unknown operator stands in a `.json` of Paddle 3."""

    kind = "paddle"
    environments = ("paddle2",)
    maker = ("make_paddle.py", "paddle")
    real = "ppocr-cls-paddle"
    cut = "inference.pdmodel"
    unknown = "unknown.json"
    unknown_says = r"op 'lgamma' after layer '/Linear"

    def feeds(self, random: np.random.Generator) -> Feeds:
        """Return a line of text, [1, 3, 48, 192]."""
        return list(real_samples.ppocr_cls())[random.integers(real_samples.COUNT)]
