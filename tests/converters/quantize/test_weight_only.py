"""Weights in blocks: what is stored is what `MatMulNBits` computes with, in memory and streamed alike."""

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import matmul_nbits_quantizer as ort_tool

from converters.quantize.blocks import BlockFormat, quantize_matrix
from converters.quantize.matrix_reader import ArrayMatrix, open_matrix
from converters.quantize.weight_only import quantize_weights_only, stream_weights_only
from converters.sources.onnx_file import read_model
from converters.variants import WeightsFile, write_variant
from edgert.errors import BadInput, EnvironmentFailed, UsageError
from tests.block_weights import dequantize, stored_weights, unpack
from tests.converters.quantize.nets import Array, net, normal

FORMATS = [(bits, size, symmetric) for bits in (4, 8) for size in (16, 32, 256) for symmetric in (True, False)]


def product(weights: Array, **more: Array) -> ir.Model:
    """Return y = x @ w, with x [2, K]."""
    rows, columns = weights.shape
    return net("y = MatMul (x, w)", f"float[2,{rows}] x", f"float[2,{columns}] y", {"w": weights, **more})


def run(model: ir.Model | Path, x: Array) -> Array:
    source = model if isinstance(model, Path) else ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def stored(model: ir.Model) -> list[Array]:
    return list(stored_weights(ir.to_proto(model)))


def error(weights: Array, other: Array) -> float:
    return float(np.mean(np.square(weights.astype(np.float64) - other)))


def op_types(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def save(model: ir.Model, path: Path) -> Path:
    """Save a model with its weights in an external file."""
    ir.save(model, path, external_data=f"{path.stem}.bin", size_threshold_bytes=0)
    return path


def test_packing_puts_the_first_of_two_weights_into_the_low_half():
    """-8 .. 7 with the scale 1 are the codes 0 .. 15, two to a byte, along K."""
    weights = quantize_matrix(ArrayMatrix(np.arange(-8, 8, dtype=np.float32)[:, None]), BlockFormat(4, 16))
    assert weights.packed.tolist() == [[[0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]]]
    assert weights.scales.tolist() == [[1.0]]


def test_packing_of_zero_points_is_two_blocks_to_a_byte():
    """The zero points of blocks 0 and 1 share a byte, block 0 in the low half; a third leaves its byte half empty."""
    ramp = np.arange(16, dtype=np.float32)
    columns = np.concatenate([ramp, ramp - 15, ramp - 4])[:, None]
    weights = quantize_matrix(ArrayMatrix(columns), BlockFormat(4, 16, symmetric=False))
    assert weights.zero_points is not None
    assert weights.zero_points.tolist() == [[0 | 15 << 4, 4]]


@pytest.mark.parametrize(("bits", "block_size", "symmetric"), FORMATS)
@pytest.mark.parametrize("rows", [256, 270, 301])
def test_operator_computes_with_what_was_stored(bits, block_size, symmetric, rows):
    """onnxruntime's kernel and the layout in the operator's document agree, K a multiple of the block or not."""
    model = product(normal(rows, 24))
    result = quantize_weights_only(model, bits=bits, block_size=block_size, symmetric=symmetric, accuracy_level=0)
    assert op_types(result) == ["MatMulNBits"]
    x = normal(2, rows, seed=1)
    np.testing.assert_allclose(run(result, x), x @ stored(result)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("rows", [256, 300])
def test_error_is_that_of_onnxruntime_or_less(bits, symmetric, rows):
    """Rounding to nearest loses as little as in `MatMulNBitsQuantizer`."""
    weights = normal(rows, 40)
    model = product(weights)
    peer = ort_tool.MatMulNBitsQuantizer(
        ir.to_proto(model), bits=bits, block_size=32, is_symmetric=symmetric, op_types_to_quantize=("MatMul",)
    )
    peer.process()
    theirs = error(next(stored_weights(peer.model.model)), weights)
    ours = error(stored(quantize_weights_only(model, bits=bits, symmetric=symmetric))[0], weights)
    assert 0 < ours <= theirs * 1.001


@pytest.mark.parametrize("symmetric", [True, False])
def test_refine_lowers_the_error(symmetric):
    """Scales that are searched for lose less than those of the whole range, by several percent."""
    weights = normal(256, 40)
    model = product(weights)
    plain, refined = (
        error(stored(quantize_weights_only(model, bits=4, symmetric=symmetric, refine=refine))[0], weights)
        for refine in (False, True)
    )
    assert refined < 0.95 * plain


def test_refine_loses_less_than_k_quant():
    """The search over a few ranges is at least as good as onnxruntime's k-quant."""
    weights = normal(256, 40)
    model = product(weights)
    peer = ort_tool.MatMulNBitsQuantizer(
        ir.to_proto(model), block_size=32, algo_config=ort_tool.KQuantWeightOnlyQuantConfig()
    )
    peer.process()
    theirs = error(next(stored_weights(peer.model.model)), weights)
    result = quantize_weights_only(model, bits=4, symmetric=False, refine=True)
    assert error(stored(result)[0], weights) <= theirs


def test_quantize_keeps_the_given_model_and_the_names_of_its_interface():
    """The model that is given can be quantized again another way; inputs and outputs keep names and shapes."""
    weights = normal(64, 24)
    model = product(weights)
    result = quantize_weights_only(model, bits=4)
    assert op_types(model) == ["MatMul"]
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), weights)
    assert [(value.name, value.shape) for value in (*result.graph.inputs, *result.graph.outputs)] == [
        (value.name, value.shape) for value in (*model.graph.inputs, *model.graph.outputs)
    ]
    assert "w" not in result.graph.initializers


def test_quantize_sets_the_accuracy_level():
    """Level 4 is the default, and 0 leaves the attribute out: some providers do not know it."""
    model = product(normal(64, 24))
    levels = [
        quantize_weights_only(model, bits=8, **given).graph[0].attributes.get("accuracy_level")
        for given in ({}, {"accuracy_level": 0})
    ]
    assert levels[0].as_int() == 4
    assert levels[1] is None


def test_shared_weights_are_stored_once():
    """Two products with one weight share its blocks; a Gather that uses it too keeps the float."""
    model = net(
        "a = MatMul (x, w)  b = MatMul (a, w)  c = Gather (w, i)  y = Add (b, c)",
        "float[2,64] x",
        "float[2,64] y",
        {"w": normal(64, 64), "i": np.array(3)},
    )
    result = quantize_weights_only(model, bits=4)
    first, second = (node for node in result.graph if node.op_type == "MatMulNBits")
    assert list(first.inputs[1:]) == list(second.inputs[1:])
    assert set(result.graph.initializers) == {"w", "i", "w_Q4", "w_Q4_scales"}


def test_one_weight_read_both_ways_is_stored_both_ways():
    """A weight [64, 64] that one node reads as it is and another transposed gives two different matrices."""
    model = net(
        "a = MatMul (x, w)  y = Gemm <transB = 1> (a, w)", "float[2,64] x", "float[2,64] y", {"w": normal(64, 64)}
    )
    result = quantize_weights_only(model, bits=8)
    straight, transposed = stored(result)
    np.testing.assert_allclose(straight, transposed.T, atol=0.03)
    x = normal(2, 64, seed=1)
    np.testing.assert_allclose(run(result, x), x @ straight @ transposed, rtol=0.05, atol=2)


@pytest.mark.parametrize("bias", [(24,), (1, 24), (1,), None])
@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_is_replaced_with_its_bias(bias, transposed):
    """A bias of one dimension goes into the operator, any other is added behind it."""
    weights = normal(24, 70) if transposed else normal(70, 24)
    more = {} if bias is None else {"c": normal(*bias, seed=2)}
    inputs = "x, w" if bias is None else "x, w, c"
    model = net(
        f"y = Gemm <transB = {transposed}> ({inputs})", "float[2,70] x", "float[2,24] y", {"w": weights, **more}
    )
    result = quantize_weights_only(model, bits=4, accuracy_level=0)
    assert op_types(result) == (["MatMulNBits"] if bias in (None, (24,)) else ["MatMulNBits", "Add"])
    x = normal(2, 70, seed=1)
    expected = x @ stored(result)[0] + more.get("c", np.float32(0))
    np.testing.assert_allclose(run(result, x), expected, rtol=1e-4, atol=1e-4)
    assert error(stored(result)[0], weights.T if transposed else weights) < 0.02


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        ("y = Gemm <alpha = 2.0> (x, w)", "float[64,64] x"),
        ("y = Gemm <beta = 2.0> (x, w, c)", "float[64,64] x"),
        ("y = Gemm <transA = 1> (x, w)", "float[64,64] x"),
        ("y = MatMul (w, x)", "float[64,64] x"),
        ("y = MatMul (x, v)", "float[64,64] x"),
        ("y = MatMul (x, x)", "float[64,64] x"),
    ],
)
def test_other_products_stay_and_are_said_to(body, inputs):
    """What the operator cannot say stays; a model with nothing else is refused and not passed on as quantized."""
    weights = {"w": normal(64, 64), "v": normal(3, 64, 64), "c": normal(64)}
    ranks = "3,64,64" if "v" in body else "64,64"
    model = net(body, inputs, f"float[{ranks}] y", weights)
    with pytest.raises(BadInput, match="no MatMul or Gemm"):
        quantize_weights_only(model, bits=4)


def test_weights_that_a_caller_may_override_stay():
    """An initializer that is an input too is only a default."""
    model = product(normal(64, 24))
    model.graph.inputs.append(model.graph.initializers["w"])
    with pytest.raises(BadInput):
        quantize_weights_only(model, bits=4)


def test_weights_that_would_grow_stay():
    """One row of 24 weights would be filled up to 24 blocks."""
    with pytest.raises(BadInput):
        quantize_weights_only(product(normal(1, 24)), bits=4, block_size=256)


@pytest.mark.parametrize("name", ["MatMul_0", "a"])
def test_kept_nodes_stay(name):
    """A node is kept by its name or by that of its output; its neighbour is replaced."""
    weights = {"w": normal(64, 64), "v": normal(64, 64)}
    model = net("a = MatMul (x, w)  y = MatMul (a, v)", "float[2,64] x", "float[2,64] y", weights)
    assert op_types(quantize_weights_only(model, bits=4, keep=(name,))) == ["MatMul", "MatMulNBits"]


def test_products_inside_a_branch_are_replaced():
    """A branch of an If finds the stored weights in the graph around it."""
    model = net(
        """y = If (c) <then_branch = then () => (float[2,24] a) { a = MatMul (x, w) },
                       else_branch = other () => (float[2,24] b) { b = MatMul (x, v) }>""",
        "float[2,64] x",
        "float[2,24] y",
        {"w": normal(64, 24), "v": normal(64, 24, seed=5), "c": np.array(False)},
    )
    result = quantize_weights_only(model, bits=8)
    x = normal(2, 64, seed=1)
    np.testing.assert_allclose(run(result, x), x @ normal(64, 24, seed=5), atol=0.3)
    assert sorted(result.graph.initializers) == ["c", "v_Q8", "v_Q8_scales", "w_Q8", "w_Q8_scales"]


def test_names_that_are_taken_are_not_given_again():
    """A model that already has a value called w_Q4 keeps it."""
    model = net("w_Q4 = MatMul (x, w)  y = Relu (w_Q4)", "float[2,64] x", "float[2,24] y", {"w": normal(64, 24)})
    result = quantize_weights_only(model, bits=4)
    assert run(result, normal(2, 64)).shape == (2, 24)


def test_half_precision_weights_get_half_precision_scales():
    """The codes belong to the scales as they are stored, so rounding the scales to float16 costs next to nothing."""
    weights = normal(64, 24).astype(np.float16)
    body, ends = "y = MatMul (x, w)", ("float16[2,64] x", "float16[2,24] y")
    result = quantize_weights_only(net(body, *ends, {"w": weights}), bits=8)
    assert result.graph.initializers["w_Q8_scales"].dtype == ir.DataType.FLOAT16
    assert error(stored(result)[0], weights) < 2e-4
    x = normal(2, 64, seed=1).astype(np.float16)
    np.testing.assert_allclose(run(result, x), x @ weights, atol=0.3)


@pytest.mark.parametrize("symmetric", [True, False])
def test_blocks_of_zeros_and_of_tiny_weights_stay_finite(symmetric):
    """A block without a range is all zeros and not a division by zero."""
    weights = np.zeros((64, 24), np.float32)
    weights[40, 3] = 1e-42
    result = quantize_weights_only(product(weights), bits=4, symmetric=symmetric)
    np.testing.assert_allclose(stored(result)[0], weights, atol=1e-30)
    assert np.all(run(result, normal(2, 64)) == 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("refine", [False, True])
def test_weights_that_are_not_finite_are_refused_by_name(value, refine):
    """A model that is broken already is not made to look whole."""
    weights = normal(64, 24)
    weights[3, 4] = value
    with pytest.raises(BadInput, match=r"weight 'w': .*infinite or not a number"):
        quantize_weights_only(product(weights), bits=4, refine=refine)


@pytest.mark.parametrize(("given", "says"), [({"bits": 3}, "3 bits"), ({"bits": 4, "block_size": 48}, "48 weights")])
def test_formats_that_the_operator_lacks_are_refused(given, says, tmp_path):
    """Bits and block sizes are checked before any file is opened."""
    with pytest.raises(UsageError, match=says):
        quantize_weights_only(product(normal(64, 24)), **given)
    with pytest.raises(UsageError, match=says):
        stream_weights_only(tmp_path / "none.onnx", tmp_path / "out.onnx", **given)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [(300, 9000), (9000, 300)])
def test_parts_of_a_large_matrix_fit_together(transposed, shape, tmp_path):
    """However a matrix is cut for threads and caches, read from a file or not, the blocks are those of the whole."""
    weights = normal(*shape)
    path = save(product(weights), tmp_path / "m.onnx")
    tensor = read_model(path).graph.initializers["w"].const_value
    assert tensor is not None
    form = BlockFormat(4, 32, symmetric=False)
    results = [
        quantize_matrix(matrix, form, transposed=transposed, threads=threads)
        for matrix, threads in ((ArrayMatrix(weights), 1), (open_matrix(tensor), 3))
    ]
    for name in ("packed", "scales", "zero_points"):
        np.testing.assert_array_equal(*(getattr(result, name) for result in results))
    rows = (weights.T if transposed else weights)[:, 5]
    for block in range(form.blocks(len(rows))):
        part = rows[block * 32 : block * 32 + 32]
        low, high = min(part.min(), 0), max(part.max(), 0)
        assert results[0].scales[5, block] == pytest.approx((high - low) / 15)
        codes = unpack(results[0].packed[5, block], 4)[: len(part)]
        zero = unpack(results[0].zero_points[5], 4)[block]
        np.testing.assert_allclose((codes - float(zero)) * results[0].scales[5, block], part, atol=(high - low) / 15)


def chain(layers: int, side: int) -> ir.Model:
    """Return a chain of products with a weight beside them that is no product's."""
    names = ["x", *(f"h{number}" for number in range(layers))]
    body = "  ".join(f"h{number} = MatMul ({names[number]}, w{number})" for number in range(layers))
    weights = {f"w{number}": normal(side, side, seed=number) / np.float32(side**0.5) for number in range(layers)}
    return net(
        f"{body}  y = Add ({names[-1]}, e)", f"float[1,{side}] x", f"float[1,{side}] y", {**weights, "e": normal(side)}
    )


@pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (4, False), (8, False)])
def test_stream_writes_what_the_model_in_memory_would_be(bits, symmetric, tmp_path):
    """Both ways give the same graph file and the same weights file, to the byte."""
    source = save(chain(4, 300), tmp_path / "m.onnx")
    (tmp_path / "memory").mkdir()
    given = {"bits": bits, "symmetric": symmetric}
    memory = quantize_weights_only(read_model(source), **given)
    write_variant(memory, "out", WeightsFile(tmp_path / "memory", "out.data"), tmp_path / "memory")
    (tmp_path / "streamed").mkdir()
    told = stream_weights_only(source, tmp_path / "streamed" / "out.onnx", **given)
    files = sorted(path.name for path in (tmp_path / "streamed").iterdir())
    assert files == ["out.data", "out.onnx"]
    for name in files:
        assert (tmp_path / "streamed" / name).read_bytes() == (tmp_path / "memory" / name).read_bytes()
    assert told.weights == 4
    assert told.bytes == sum((tmp_path / "streamed" / name).stat().st_size for name in files)
    x = normal(1, 300, seed=9)
    original, quantized = run(source, x), run(tmp_path / "streamed" / "out.onnx", x)
    assert np.vdot(original, quantized) > 0.98 * np.linalg.norm(original) * np.linalg.norm(quantized)


def test_stream_over_its_own_source_replaces_it(tmp_path):
    """The source may be the destination: nothing is replaced before all is written."""
    source = save(chain(2, 64), tmp_path / "m.onnx")
    x = normal(1, 64, seed=9)
    before = run(source, x)
    stream_weights_only(source, source, bits=8)
    np.testing.assert_allclose(run(source, x), before, atol=0.1)
    assert [node.op_type for node in read_model(source).graph] == ["MatMulNBits", "MatMulNBits", "Add"]


def test_stream_needs_the_memory_of_one_weight(tmp_path):
    """64 MB of weights in 16 files' parts go through in less than 16 MB, whether they are stored or only copied."""
    source = save(chain(16, 1024), tmp_path / "m.onnx")
    for keep in ((), tuple(f"MatMul_{number}" for number in range(15))):
        tracemalloc.start()
        stream_weights_only(source, tmp_path / "out.onnx", bits=4, keep=keep, threads=2)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16e6


def test_stream_of_a_file_that_is_cut_off_leaves_nothing(tmp_path):
    """An external data file that lacks its end is named, with what to do."""
    source = save(chain(4, 64), tmp_path / "m.onnx")
    data = tmp_path / "m.bin"
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"m\.bin") as caught:
        stream_weights_only(source, tmp_path / "out.onnx", bits=4)
    assert "cut off" in caught.value.remedy
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.bin", "m.onnx"]


@pytest.mark.parametrize("transposed", [False, True])
def test_file_that_is_cut_off_while_it_is_read_is_an_error(transposed, tmp_path):
    """A file that another program shortens after it was checked raises; a memory map would end the process."""
    source = save(product(normal(64, 24)), tmp_path / "m.onnx")
    tensor = read_model(source).graph.initializers["w"].const_value
    assert tensor is not None
    matrix = open_matrix(tensor)
    (tmp_path / "m.bin").write_bytes(b"\0" * 1000)
    with pytest.raises(BadInput, match="1000 bytes"):
        quantize_matrix(matrix, BlockFormat(), transposed=transposed)


def test_file_that_is_gone_while_it_is_read_is_an_error(tmp_path):
    """A disk that is taken away is the machine's failure, not the model's."""
    source = save(product(normal(64, 24)), tmp_path / "m.onnx")
    tensor = read_model(source).graph.initializers["w"].const_value
    assert tensor is not None
    matrix = open_matrix(tensor)
    (tmp_path / "m.bin").unlink()
    with pytest.raises(EnvironmentFailed, match=r"cannot read .*m\.bin"):
        quantize_matrix(matrix, BlockFormat())


def test_stream_into_a_full_disk_leaves_nothing(tmp_path):
    """A write that the system cuts short, as a full disk does, says how much is needed and leaves no file behind."""
    resource = pytest.importorskip("resource")
    source = save(chain(4, 256), tmp_path / "m.onnx")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        with pytest.raises(EnvironmentFailed, match="bytes are needed"):
            stream_weights_only(source, tmp_path / "out.onnx", bits=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.bin", "m.onnx"]


def test_stream_into_a_folder_that_is_not_there_is_an_error(tmp_path):
    """The destination's folder is the caller's."""
    source = save(chain(2, 64), tmp_path / "m.onnx")
    with pytest.raises(EnvironmentFailed, match="cannot write"):
        stream_weights_only(source, tmp_path / "none" / "out.onnx", bits=4)


def test_dequantize_of_the_tests_reads_what_onnxruntime_writes():
    """The yardstick itself: onnxruntime's own blocks read back are within half a step of the weights."""
    weights = normal(64, 24)
    peer = ort_tool.MatMulNBitsQuantizer(ir.to_proto(product(weights)), bits=8, block_size=32)
    peer.process()
    graph: onnx.GraphProto = peer.model.model.graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    np.testing.assert_allclose(dequantize(graph.node[0], tensors), weights, atol=0.02)
