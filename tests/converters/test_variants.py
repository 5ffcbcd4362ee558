"""Variants of a bundle share one weights file: each distinct tensor is stored once."""

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from converters.variants import PAGE, WEIGHTS_FILE, WeightsFile, variant_bytes, write_variant


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


def test_variants_of_weights_in_another_file_are_the_same_bytes(tmp_path):
    """Weights that lie in an external file are copied to where they would go from memory."""
    arrays = [weight(1), weight(2), weight(1)[:5, :10], weight(1)]
    files = []
    for name in ("memory", "external"):
        folder = tmp_path / name
        folder.mkdir()
        tensors: list[ir.TensorProtocol] = [ir.tensor(array, name=f"w{n}") for n, array in enumerate(arrays)]
        if name == "external":
            tensors = list(ir.external_data.convert_tensors_to_external(tensors, tmp_path, "source.bin"))
        weights = WeightsFile(folder)
        offsets = [weights.place(tensor).offset for tensor in tensors]
        files.append((offsets, (folder / WEIGHTS_FILE).read_bytes()))
    assert files[0] == files[1]
    assert files[0][0] == [0, 4 * PAGE, 8 * PAGE, 0]


def test_variants_of_large_weights_are_copied_in_parts(tmp_path):
    """A tensor of 64 MB in another file takes a few MB of memory, and one in memory is not copied there."""
    array = np.ones((4096, 4096), np.float32)
    (tensor,) = ir.external_data.convert_tensors_to_external([ir.tensor(array, name="w")], tmp_path, "source.bin")
    (tmp_path / "target").mkdir()
    weights = WeightsFile(tmp_path / "target")
    tracemalloc.start()
    placed = [weights.place(tensor), weights.place(ir.tensor(2 * array, name="v"))]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [one.offset for one in placed] == [0, array.nbytes]
    assert peak < array.nbytes + 8e6


def test_variants_size_is_that_of_the_graph_and_each_tensor_once(tmp_path):
    """What a variant takes on disk counts a tensor once however often the graph holds it, and none of the others."""
    weights = WeightsFile(tmp_path)
    write_variant(model(weight(1)), "other", weights, tmp_path)
    path = write_variant(model(weight(2), weight(3), weight(2)), "v", weights, tmp_path)
    assert variant_bytes(path) == path.stat().st_size + 2 * weight(2).nbytes


def test_variants_keep_a_tensor_that_lies_in_their_file_already(tmp_path):
    """A model whose weights were placed before is written without reading them again."""
    weights = WeightsFile(tmp_path)
    source = model(weight(1))
    value = source.graph.initializers["w0"]
    assert value.const_value is not None
    value.const_value = weights.store(value.const_value)
    size = (tmp_path / WEIGHTS_FILE).stat().st_size
    (tmp_path / WEIGHTS_FILE).chmod(0)
    write_variant(source, "v", weights, tmp_path)
    (tmp_path / WEIGHTS_FILE).chmod(0o600)
    assert (tmp_path / WEIGHTS_FILE).stat().st_size == size
    x = np.ones((1, 64), np.float32)
    np.testing.assert_allclose(run(tmp_path / "v.onnx", x), x @ weight(1), rtol=1e-4)
