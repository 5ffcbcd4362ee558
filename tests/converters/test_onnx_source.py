"""An ONNX file is read whole or refused with one clear reason."""

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from converters.sources.onnx_file import read_model
from edgert.errors import BadInput


def matmul(opset: int = 17, outputs: int = 1, nodes: int = 1) -> onnx.ModelProto:
    """x[1,64] times w[64,64]; `outputs` and `nodes` may be 0."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])][:nodes],
        "g",
        [value("x", TensorProto.FLOAT, [1, 64])],
        [value("y", TensorProto.FLOAT, [1, 64])][:outputs],
        [numpy_helper.from_array(np.arange(64 * 64, dtype=np.float32).reshape(64, 64), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def saved(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def with_external_data(folder: Path, **entries: str) -> Path:
    """Save the model with its weight in `weights.data`; `entries` replace what the model says about it."""
    model = matmul()
    (tensor,) = model.graph.initializer
    (folder / "weights.data").write_bytes(tensor.raw_data)
    external_data_helper.set_external_data(tensor, location="weights.data", offset=0, length=len(tensor.raw_data))
    tensor.ClearField("raw_data")
    for entry in tensor.external_data:
        entry.value = entries.get(entry.key, entry.value)
    return saved(folder, model)


def refused(path: Path, message: str) -> BadInput:
    with pytest.raises(BadInput, match=message) as caught:
        read_model(path)
    assert caught.value.remedy
    return caught.value


def test_model_is_loaded_with_its_weights(tmp_path):
    """What was saved is what is read."""
    model = read_model(saved(tmp_path, matmul()))
    assert [node.op_type for node in model.graph] == ["MatMul"]
    weight = model.graph.initializers["w"].const_value
    assert weight is not None
    np.testing.assert_array_equal(weight.numpy().reshape(-1), np.arange(64 * 64))


def test_external_weights_are_mapped_and_not_copied(tmp_path):
    """The tensor reads from the file when it is asked for."""
    model = read_model(with_external_data(tmp_path))
    weight = model.graph.initializers["w"].const_value
    assert isinstance(weight, ir.ExternalTensor)
    assert weight.raw is None
    np.testing.assert_array_equal(weight.numpy().reshape(-1), np.arange(64 * 64))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"# a text file\nthat is no model\n", "not an ONNX model"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + bytes(range(256)), "not an ONNX model"),
        (b'{"model": "json"}', "not an ONNX model"),
        (b"PK\x03\x04" + bytes(100), "not an ONNX model"),
    ],
    ids=["empty", "text", "jpeg", "json", "zip"],
)
def test_file_that_is_no_model_is_refused(tmp_path, content, message):
    """Whatever else the file is, the reason says that it is no model."""
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    refused(path, message)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_truncated_model_is_refused(tmp_path, part):
    """A model that is cut off anywhere is not loaded."""
    data = matmul().SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(data[: int(len(data) * part)])
    refused(path, "cut off|damaged|does not say which opset")


def test_missing_file_and_folder_are_refused(tmp_path):
    """There is nothing to read."""
    refused(tmp_path / "nothing.onnx", "no such file")
    refused(tmp_path, "no such file")


def test_graph_without_nodes_or_outputs_is_refused(tmp_path):
    """There is nothing to run."""
    refused(saved(tmp_path, matmul(nodes=0)), "no nodes")
    refused(saved(tmp_path, matmul(outputs=0)), "no outputs")


def test_graph_that_uses_a_value_nobody_makes_is_refused(tmp_path):
    """The reason names the value."""
    model = matmul()
    model.graph.node[0].input[0] = "ghost"
    refused(saved(tmp_path, model), "ghost")


@pytest.mark.parametrize("opset", [6, 99])
def test_opset_out_of_range_is_refused_with_the_range(tmp_path, opset):
    """Both the number and the range are in the reason."""
    refused(saved(tmp_path, matmul(opset=opset)), f"opset {opset} is not supported; 7 to ")


def test_weight_with_too_few_bytes_is_refused(tmp_path):
    """Nothing is read past the end of a weight."""
    model = matmul()
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    refused(saved(tmp_path, model), "weight 'w' has 16380 bytes; its shape needs 16384")


def test_missing_external_file_is_named(tmp_path):
    """The remedy names the file and the folder."""
    path = with_external_data(tmp_path)
    (tmp_path / "weights.data").unlink()
    assert "weights.data" in refused(path, "'weights.data' is missing").remedy


def test_external_file_that_is_too_short_is_refused(tmp_path):
    """Sizes are checked before anything is mapped."""
    path = with_external_data(tmp_path)
    data = (tmp_path / "weights.data").read_bytes()
    (tmp_path / "weights.data").write_bytes(data[:-1])
    refused(path, "has 16383 bytes; 'w' ends at 16384")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"length": "8"}, "says 8 bytes"),
        ({"offset": "-4"}, "at -4"),
        ({"offset": "4"}, "ends at 16388"),
        ({"length": "many"}, "no number"),
    ],
)
def test_external_entry_that_contradicts_the_shape_is_refused(tmp_path, entries, message):
    """The model's own words about its weight must agree."""
    refused(with_external_data(tmp_path, **entries), message)


@pytest.mark.parametrize("location", ["../secret.data", "/etc/passwd", "", "sub/../../secret.data"])
def test_external_path_outside_the_folder_is_refused(tmp_path, location):
    """No path leaves the folder, whether the file is there or not."""
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.data").write_bytes(bytes(64 * 64 * 4))
    refused(with_external_data(folder, location=location), "outside the model's folder")


@pytest.mark.skipif(os.name == "nt", reason="making symbolic links needs a privilege on Windows")
def test_external_link_out_of_the_folder_is_refused(tmp_path):
    """A symbolic link is followed before the path is judged."""
    folder = tmp_path / "model"
    folder.mkdir()
    path = with_external_data(folder)
    (folder / "weights.data").rename(tmp_path / "elsewhere.data")
    (folder / "weights.data").symlink_to(tmp_path / "elsewhere.data")
    refused(path, "outside the model's folder")


def test_external_file_with_a_second_hard_link_is_refused(tmp_path):
    """Another name for the file means that another program may change it."""
    path = with_external_data(tmp_path)
    (tmp_path / "second.data").hardlink_to(tmp_path / "weights.data")
    refused(path, "hard links")


def test_operators_of_other_domains_are_left_to_later_steps(tmp_path):
    """A custom operator is no reason to refuse the file."""
    model = matmul()
    model.graph.node[0].domain = "somebody.else"
    model.opset_import.append(helper.make_opsetid("somebody.else", 1))
    assert [node.domain for node in read_model(saved(tmp_path, model)).graph] == ["somebody.else"]


@pytest.mark.parametrize("opset", [27, 99])
def test_opset_that_onnxruntime_refuses_is_refused_first(tmp_path, opset):
    """An opset beyond the runtime's is answered with the ones that are taken."""
    refused(saved(tmp_path, matmul(opset=opset)), f"opset {opset} is not supported; 7 to 26 are")


def test_ir_version_that_onnxruntime_refuses_is_refused_first(tmp_path):
    """An IR version beyond the runtime's is named, with the newest that is taken."""
    model = matmul()
    model.ir_version = 14
    refused(saved(tmp_path, model), "IR version 14 is not supported; the newest is 13")


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("kind", ["sequence", "optional"])
def test_input_or_output_that_is_no_tensor_is_named(tmp_path, side, kind):
    """Sequences and optionals cannot be sampled or compared: the value is named before any work."""
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [1, 64])
    wrap = {"sequence": helper.make_sequence_type_proto, "optional": helper.make_optional_type_proto}[kind]
    model = matmul()
    getattr(model.graph, side).append(helper.make_value_info("extra", wrap(tensor)))
    refused(saved(tmp_path, model), f"{side} 'extra' has the type {kind}, and not tensor")


def test_name_that_is_not_utf8_is_refused(tmp_path):
    """Damaged bytes in a name are a model that is not valid, not a crash."""
    model = matmul()
    model.graph.node[0].op_type = "QQQQ"
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString().replace(b"QQQQ", b"\xff\xfe\xfdQ"))
    refused(path, "not valid: .*utf-8")


def test_output_that_is_listed_twice_is_refused(tmp_path):
    """Outputs are known by name: one name twice is named before a pass gives one of them another."""
    model = matmul()
    model.graph.output.append(model.graph.output[0])
    refused(saved(tmp_path, model), "output 'y' is listed twice")
