"""Models that are valid and unusual: each is converted, or refused with one clear reason."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgert
from converters.pipeline import convert
from converters.request import BundleReport, ProfileFailure
from edgert.errors import BadInput
from edgert.host import host_facts
from edgert.profile import detect_profile

OWN = detect_profile(host_facts())
BOARD = "raspberry-pi-5"
"""A profile whose time is not measured here, so that its first precision that holds the gate is chosen: int8."""

MASK = np.array([0, 0, -np.inf, -np.inf], np.float32)
MATMUL = helper.make_node("MatMul", ["x", "w"], ["h"])
ADD = helper.make_node("Add", ["h", "b"], ["y"])


def value(name: str, *shape: int, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def saved(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[onnx.ValueInfoProto],
    *,
    weights: Mapping[str, np.ndarray] | None = None,
    inputs: Sequence[onnx.ValueInfoProto] = (),
    opset: int = 17,
    ir_version: int = 8,
) -> Path:
    """Save a graph with the input x[1,8], the weight w[8,4] and the bias b[4]."""
    random = np.random.default_rng(0)
    arrays = {name: random.normal(size=size).astype(np.float32) for name, size in (("w", (8, 4)), ("b", 4))}
    arrays |= weights or {}
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", [value("x", 1, 8), *inputs], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def converted(model: Path, output: Path, profile: str = BOARD, **options: object) -> BundleReport:
    (entry,) = convert(model, [profile], calibration="random", samples=2, output=output, **options).bundles
    assert isinstance(entry, BundleReport), entry
    return entry


@pytest.mark.parametrize("columns", [4, 64])
def test_convert_external_weights_to_int8(tmp_path, columns):
    """Weights in a file beside the model are calibrated like any other, those of a few bytes too."""
    weights = {name: np.ones(size, np.float32) for name, size in (("w", (8, columns)), ("b", columns))}
    path = saved(tmp_path, [MATMUL, ADD], [value("y", 1, columns)], weights=weights)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="model.weights", size_threshold=0)
    assert converted(path, tmp_path / "out", precision="int8").variants[0].precision == "int8"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_convert_ir_version_3_lists_weights_as_inputs(tmp_path, precision):
    """Exporters of opset 7 name every weight as an input: the bundle asks only for the real one."""
    listed = [value("w", 8, 4), value("b", 4)]
    path = saved(tmp_path, [MATMUL, ADD], [value("y", 1, 4)], inputs=listed, opset=7, ir_version=3)
    report = converted(path, tmp_path / "out", precision=precision)
    with edgert.load(report.path) as model:
        assert set(model.run({"x": np.ones((1, 8), np.float32)})) == {"y"}


def test_convert_infinite_mask_is_quantized_around(tmp_path):
    """A constant mask of -inf before a Softmax leaves its own nodes in float, and the MatMul becomes int8."""
    nodes = [MATMUL, ADD, helper.make_node("Add", ["y", "m"], ["z"]), helper.make_node("Softmax", ["z"], ["p"])]
    path = saved(tmp_path, nodes, [value("p", 1, 4)], weights={"m": MASK})
    assert converted(path, tmp_path / "out").variants[0].precision == "int8"


def test_convert_masked_output_keeps_its_infinities(tmp_path):
    """An output of -inf is the model's answer: the bundle gives it too, and its reference profile counts it."""
    path = saved(
        tmp_path, [MATMUL, ADD, helper.make_node("Add", ["y", "m"], ["z"])], [value("z", 1, 4)], weights={"m": MASK}
    )
    report = converted(path, tmp_path / "out", profile=OWN)
    with edgert.load(report.path) as model:
        seen = model.run({"x": np.ones((1, 8), np.float32)})["z"]
    np.testing.assert_array_equal(np.isneginf(seen), np.isneginf(MASK)[None])


def test_convert_nan_of_the_model_leaves_the_float_variant(tmp_path):
    """Where the model itself makes NaN, int8 is recorded as failed and says where; float goes on."""
    weight = np.ones((8, 4), np.float32)
    weight[0, 0] = np.nan
    path = saved(tmp_path, [MATMUL, ADD], [value("y", 1, 4)], weights={"w": weight})
    report = converted(path, tmp_path / "out")
    assert report.chosen == "fp32"
    (failed,) = [one for one in report.candidates if one.precision == "int8" and one.variant != "dyn-int8"]
    assert "NaN in the tensor 'h'" in failed.outcome
    (entry,) = convert(path, [BOARD], calibration="random", precision="int8", output=tmp_path / "int8").bundles
    assert isinstance(entry, ProfileFailure)
    assert "NaN in the tensor 'h'" in entry.message


def test_convert_input_that_is_an_output_keeps_its_name(tmp_path):
    """An input passed through is found under its own name on both sides."""
    path = saved(tmp_path, [MATMUL, ADD], [value("y", 1, 4), value("x", 1, 8)])
    feeds = {"x": np.ones((1, 8), np.float32)}
    for precision in ("fp32", "int8"):
        report = converted(path, tmp_path / precision, precision=precision)
        with edgert.load(report.path) as model:
            outputs = model.run(feeds)
        assert list(outputs) == ["y", "x"]
        np.testing.assert_array_equal(outputs["x"], feeds["x"])


def test_convert_strings_as_input_are_refused_truthfully(tmp_path):
    """No precision helps a model that takes strings, and no remedy says so."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["s"], ["t"])],
        "g",
        [value("s", 1, dtype=TensorProto.STRING)],
        [value("t", 1, dtype=TensorProto.STRING)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "s.onnx")
    with pytest.raises(BadInput, match="'s'") as caught:
        convert(tmp_path / "s.onnx", [OWN], calibration="random", output=tmp_path / "out")
    assert "--precision" not in caught.value.remedy
