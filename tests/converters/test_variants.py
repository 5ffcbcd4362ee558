"""Variants of a bundle share one weights file: each distinct tensor is stored once."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from converters.variants import PAGE, WEIGHTS_FILE, WeightsFile, write_variant


def model(*weights: np.ndarray) -> ir.Model:
    """A chain of MatMuls by the given [64, 64] float32 weights."""
    names = ["x", *(f"h{number}" for number in range(len(weights)))]
    nodes = [
        helper.make_node("MatMul", [names[number], f"w{number}"], [names[number + 1]]) for number in range(len(weights))
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 64])],
        [value(names[-1], TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(weight, f"w{number}") for number, weight in enumerate(weights)],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


def weight(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(64, 64)).astype(np.float32)


def run(path: Path, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def test_variants_share_equal_tensors_and_still_compute_the_same(tmp_path):
    """Three uses of two tensors take two tensors of room, and both files give their own result."""
    a, b = weight(1), weight(2)
    weights = WeightsFile(tmp_path)
    first = write_variant(model(a, b), "first", weights, tmp_path)
    second = write_variant(model(b), "second", weights, tmp_path)
    assert (tmp_path / WEIGHTS_FILE).stat().st_size == 2 * a.nbytes
    x = np.ones((1, 64), np.float32)
    np.testing.assert_allclose(run(first, x), x @ a @ b, rtol=1e-4)
    np.testing.assert_allclose(run(second, x), x @ b, rtol=1e-4)


def test_variants_place_large_tensors_on_pages(tmp_path):
    """A tensor of a page or more starts on a page, so that it can be mapped."""
    weights = WeightsFile(tmp_path)
    small = ir.tensor(np.ones(300, np.float32), name="small")
    assert weights.place(small).offset == 0
    assert weights.place(ir.tensor(weight(1), name="large")).offset == PAGE


def test_variants_of_one_content_but_another_type_are_not_mixed_up(tmp_path):
    """All-zero int32 and float32 tensors have the same bytes and stay two entries of the right type."""
    weights = WeightsFile(tmp_path)
    placed = [weights.place(ir.tensor(np.zeros(512, dtype), name="t")) for dtype in (np.float32, np.int32)]
    assert [tensor.dtype for tensor in placed] == [ir.DataType.FLOAT, ir.DataType.INT32]


def test_variants_leave_the_model_as_it_was(tmp_path):
    """Writing does not turn the caller's weights into references to a file that may go away."""
    source = model(weight(1))
    write_variant(source, "v", WeightsFile(tmp_path), tmp_path)
    (tmp_path / WEIGHTS_FILE).unlink()
    np.testing.assert_array_equal(source.graph.initializers["w0"].const_value.numpy(), weight(1))


def test_variants_are_the_same_bytes_each_time(tmp_path):
    """Writing the same model twice gives the same graph file and the same weights file."""
    files = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        path = write_variant(model(weight(1), weight(2)), "v", WeightsFile(folder), folder)
        files.append((path.read_bytes(), (folder / WEIGHTS_FILE).read_bytes()))
    assert files[0] == files[1]
    loaded = onnx.load(tmp_path / "one" / "v.onnx", load_external_data=False)
    assert loaded.graph.initializer[0].data_location == TensorProto.EXTERNAL
