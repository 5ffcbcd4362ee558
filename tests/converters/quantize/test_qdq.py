"""Quantized models as they run."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from converters.quantize.plan import plan_quantization
from converters.quantize.qdq import apply_qdq
from edgert.errors import BadInput
from edgert.profile import Quantization
from edgert.runtime.providers import Absent, find_device
from edgert.runtime.session import Session
from tests.converters.quantize.nets import CPU_OPS, NPU, U8S8, conv_net, cosine, images, net, normal, ranges_of, run

S8S8 = Quantization("int8", "int8", ("Conv", "MatMul", "Gemm"), True, False, False, CPU_OPS)
U8U8 = Quantization("uint8", "uint8", (), True, False, False, CPU_OPS)


def _quantized(model, samples, tmp_path, quantization=U8S8, bits=8):
    return apply_qdq(model, plan_quantization(model, ranges_of(model, samples, tmp_path), quantization, bits))


@pytest.mark.parametrize(
    ("quantization", "bits", "least"),
    [(U8S8, 8, 0.998), (U8U8, 8, 0.998), (S8S8, 8, 0.998), (NPU, 8, 0.998), (NPU, 16, 0.9999)],
)
def test_apply_qdq_every_class_computes_what_the_float_model_does(quantization, bits, least, tmp_path):
    """The quantized net is a valid model with the same inputs and outputs, and agrees with the float one."""
    model, samples = conv_net(), images()
    quantized = _quantized(model, samples, tmp_path, quantization, bits)
    assert [value.name for value in quantized.graph.inputs] == ["x"]
    assert [value.name for value in quantized.graph.outputs] == ["y"]
    for sample in images(4):
        assert cosine(run(quantized, sample, tmp_path)["y"], run(model, sample, tmp_path)["y"]) > least


def test_apply_qdq_leaves_the_float_model_as_it_was(tmp_path):
    """Quantizing makes a new model: the float one is still needed for the other variants."""
    model = conv_net()
    before = ir.to_proto(model).SerializeToString()
    _quantized(model, images(2), tmp_path)
    assert ir.to_proto(model).SerializeToString() == before


def test_apply_qdq_twice_gives_the_same_bytes(tmp_path):
    """Same graph and data, same file."""
    files = [ir.to_proto(_quantized(conv_net(), images(2), tmp_path)).SerializeToString() for _ in range(2)]
    assert files[0] == files[1]


def test_apply_qdq_on_the_cpu_becomes_integer_kernels(tmp_path):
    """onnxruntime fuses the Q/DQ of the net into integer kernels: no float Conv, Gemm, Add, Mul or Sigmoid is left."""
    path = tmp_path / "q.onnx"
    ir.save(_quantized(conv_net(), images(), tmp_path), path)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("QLinearConv") == 2
    assert not {"Conv", "Gemm", "Add", "Mul", "Sigmoid", "Relu"} & set(kinds)


@pytest.mark.parametrize("bits", [8, 16])
def test_apply_qdq_runs_whole_on_the_htp(bits, tmp_path):
    """The Snapdragon HTP (its emulator here) takes every node, and agrees with the float model."""
    device = find_device("QNNExecutionProvider", allow_emulated=True)
    if isinstance(device, Absent):
        pytest.skip(f"{device.reason}; {device.remedy}")
    model, samples = conv_net(), images()
    path = tmp_path / "npu.onnx"
    ir.save(_quantized(model, samples, tmp_path, NPU, bits), path)
    with Session.open(path, device, options={"offload_graph_io_quantization": "0"}) as session:
        assert set(session.nodes) == {"QNNExecutionProvider"}
        assert cosine(session.run(samples[0])["y"], run(model, samples[0], tmp_path)["y"]) > 0.998


def test_apply_qdq_weights_are_stored_once_as_integers(tmp_path):
    """Two nodes that share weights share their integers, and the float weights are gone."""
    model = net("a = Conv (x, w) y = Conv (a, w)", "float[1,4,8,8] x", "float[1,4,8,8] y", {"w": normal(4, 4, 1, 1)})
    samples = [{"x": normal(1, 4, 8, 8, seed=5)}]
    quantized = _quantized(model, samples, tmp_path)
    weights = [v for v in quantized.graph.initializers.values() if v.shape is not None and len(v.shape) == 4]
    assert [value.dtype for value in weights] == [ir.DataType.INT8]
    assert cosine(run(quantized, samples[0], tmp_path)["y"], run(model, samples[0], tmp_path)["y"]) > 0.99


def test_apply_qdq_weights_shared_with_other_axes_are_stored_for_each(tmp_path):
    """A Conv and a ConvTranspose that share weights have them per channel along different axes."""
    quantization = Quantization("uint8", "int8", ("Conv", "ConvTranspose"), True, False, False, ("*",))
    model = net(
        "a = Conv (x, w) y = ConvTranspose (a, w)", "float[1,4,8,8] x", "float[1,4,8,8] y", {"w": normal(4, 4, 1, 1)}
    )
    samples = [{"x": normal(1, 4, 8, 8, seed=5)}]
    quantized = _quantized(model, samples, tmp_path, quantization)
    axes = [n.attributes.get_int("axis", -1) for n in quantized.graph if n.op_type == "DequantizeLinear"]
    assert {0, 1} <= set(axes)
    assert cosine(run(quantized, samples[0], tmp_path)["y"], run(model, samples[0], tmp_path)["y"]) > 0.99


def test_apply_qdq_output_that_is_also_read_inside_keeps_its_name(tmp_path):
    """A tensor that is an output and feeds another node stays an output of that name and type."""
    model = net(
        "a = Conv (x, w) y = Relu (a)",
        "float[1,4,8,8] x",
        "float[1,4,8,8] a, float[1,4,8,8] y",
        {"w": normal(4, 4, 1, 1)},
    )
    samples = [{"x": normal(1, 4, 8, 8, seed=5)}]
    for quantization in (U8S8, NPU):
        outputs = run(_quantized(model, samples, tmp_path, quantization), samples[0], tmp_path)
        assert list(outputs) == ["a", "y"]
        assert np.array_equal(np.maximum(outputs["a"], 0), outputs["y"]) or quantization is NPU
        assert cosine(outputs["a"], run(model, samples[0], tmp_path)["a"]) > 0.99


def test_apply_qdq_layer_normalization_and_constants_run_on_the_cpu(tmp_path):
    """A LayerNormalization's scale and bias, and other constants, have the type of the activations."""
    model = net(
        "a = LayerNormalization (x, g, b) c = Mul (a, k) y = Pow (c, two)",
        "float[1,6,32] x",
        "float[1,6,32] y",
        {"g": normal(32), "b": normal(32, seed=1), "k": np.float32(0.7), "two": np.float32(2)},
    )
    samples = [{"x": normal(1, 6, 32, seed=index)} for index in range(3)]
    plan = plan_quantization(model, ranges_of(model, samples, tmp_path), NPU, 16)
    assert [plan.constants[key].dtype for key in (("a", 1), ("a", 2), ("c", 1))] == ["uint16"] * 3
    quantized = apply_qdq(model, plan)
    assert cosine(run(quantized, samples[0], tmp_path)["y"], run(model, samples[0], tmp_path)["y"]) > 0.999


def test_apply_qdq_keeps_no_weight_that_nothing_reads(tmp_path):
    """The bounds of a Clip that vanished into a range go with it: onnxruntime would warn of each."""
    weights = {"w": normal(8, 3, 3, 3) / 5, "low": np.float32(0).reshape(()), "high": np.float32(6).reshape(())}
    body = "a = Conv <pads = [1,1,1,1]> (x, w)\ny = Clip (a, low, high)\nz = Conv (y, v)"
    model = net(body, "float[1,3,8,8] x", "float[1,2,8,8] z", weights | {"v": normal(2, 8, 1, 1)})
    quantized = _quantized(model, [{"x": normal(1, 3, 8, 8, seed=seed)} for seed in range(4)], tmp_path)
    graph = quantized.graph
    assert not any(node.op_type == "Clip" for node in graph)
    assert all(value.uses() for value in graph.initializers.values())
    assert {"low", "high"}.isdisjoint(graph.initializers)
    assert {"low", "high"} <= set(model.graph.initializers)


@pytest.mark.parametrize(("opset", "bits", "needed"), [(12, 8, 13), (17, 16, 21)])
def test_apply_qdq_with_an_old_opset_is_refused(opset, bits, needed, tmp_path):
    """Per-axis DequantizeLinear needs opset 13 and 16-bit types 21: an invalid model is never written."""
    model = net("y = Relu (x)", "float[1,4] x", "float[1,4] y", {}, opset)
    with pytest.raises(BadInput, match=f"needs opset {needed}"):
        _quantized(model, [{"x": normal(1, 4)}], tmp_path, NPU, bits)


def _hard_swish_net(alpha: float, beta: float) -> ir.Model:
    return net(
        f"""a = Conv (x, w)
        g = HardSigmoid <alpha = {alpha}, beta = {beta}> (a)
        s = Mul (a, g)
        y = Conv (s, v)""",
        "float[1,3,16,16] x",
        "float[1,4,16,16] y",
        {"w": normal(8, 3, 1, 1) * 4, "v": normal(4, 8, 1, 1, seed=1)},
    )


@pytest.mark.parametrize(("alpha", "beta"), [(1 / 6, 0.5), (0.2, 0.5), (0.3, 0.25)])
@pytest.mark.parametrize("activation", ["uint8", "int8"])
def test_apply_qdq_hard_sigmoid_is_saturation(alpha, beta, activation, tmp_path):
    """HardSigmoid has no integer kernel: the encoding cuts as it does, nothing stays in float, and the values hold."""
    ops = (*CPU_OPS, "HardSigmoid")
    quantization = Quantization(activation, "int8", ("Conv",), True, False, False, ops)
    model, samples = _hard_swish_net(alpha, beta), images()
    quantized = _quantized(model, samples, tmp_path, quantization)
    assert "HardSigmoid" not in [node.op_type for node in quantized.graph]
    for sample in images(4):
        assert cosine(run(quantized, sample, tmp_path)["y"], run(model, sample, tmp_path)["y"]) > 0.999


def test_apply_qdq_hard_sigmoid_values_are_right_over_the_whole_range(tmp_path):
    """Each of the integers stands for HardSigmoid of its input, within half a step and 0.2 %."""
    ops = (*CPU_OPS, "HardSigmoid")
    model = net(
        "a = Conv (x, w) g = HardSigmoid <alpha = 0.16666667, beta = 0.5> (a) y = Conv (g, w)",
        "float[1,1,1,401] x",
        "float[1,1,1,401] y",
        {"w": np.ones((1, 1, 1, 1), np.float32)},
    )
    sample = {"x": np.linspace(-4, 4, 401, dtype=np.float32).reshape(1, 1, 1, 401)}
    quantization = Quantization("uint8", "int8", ("Conv",), True, False, False, ops)
    quantized = _quantized(model, [sample], tmp_path, quantization)
    exact = np.clip(sample["x"] / 6 + 0.5, 0, 1)
    assert np.abs(run(quantized, sample, tmp_path)["y"] - exact).max() < 0.004 + 0.5 * 6 / 255 / 6 + 0.002


def _wide(model, samples, tmp_path, wide):
    plan = plan_quantization(model, ranges_of(model, samples, tmp_path), NPU, 8, wide=wide)
    return apply_qdq(model, plan)


def test_apply_qdq_conversions_are_placed_once_for_all_readers(tmp_path):
    """Two 8-bit readers of a 16-bit tensor share one conversion, and a third of 16 bits reads it as it is."""
    body = "a = Abs (x) b = Neg (a) c = Abs (a) d = Neg (a) e = Add (b, c) y = Add (d, e)"
    model, samples = net(body, "float[1,4] x", "float[1,4] y", {}), [{"x": normal(1, 4)}]
    quantized = _wide(model, samples, tmp_path, {"a", "d"})
    pairs = {n.name: n for n in quantized.graph if n.op_type == "QuantizeLinear"}
    chained = [n for n in pairs.values() if n.inputs[0].producer() and n.inputs[0].producer().op_type.startswith("Deq")]
    assert [n.outputs[0].dtype for n in chained] == [ir.DataType.UINT8, ir.DataType.UINT8]  # of a and of d
    readers = {n.op_type + n.outputs[0].name: n.inputs[0].producer() for n in quantized.graph if n.name}
    assert readers["Negb"] is readers["Absc"]
    assert readers["Negd"] is not readers["Negb"]
    assert quantized.opset_imports[""] == 21


def test_apply_qdq_wide_everywhere_is_the_sixteen_bit_model(tmp_path):
    """With all nodes wide the numbers are those of 16-bit activations, without a conversion."""
    model, samples = conv_net(), images()
    every = {node.outputs[0].name for node in model.graph}
    mixed = _wide(model, samples, tmp_path, every)
    whole = _quantized(model, samples, tmp_path, NPU, 16)
    assert [node.op_type for node in mixed.graph] == [node.op_type for node in whole.graph]
    np.testing.assert_array_equal(run(mixed, samples[0], tmp_path)["y"], run(whole, samples[0], tmp_path)["y"])


@pytest.mark.parametrize("wide", [{"a", "r", "c"}, {"d"}, {"s", "e"}, {"y"}, {"a", "d", "y"}])
def test_apply_qdq_any_set_of_wide_nodes_computes_what_the_float_model_does(wide, tmp_path):
    """Wherever the border lies, the file is valid and no further from the float model than 8 bits alone."""
    model, samples = conv_net(), images()
    for sample in samples[:2]:
        expected = run(model, sample, tmp_path)["y"]
        assert cosine(run(_wide(model, samples, tmp_path, wide), sample, tmp_path)["y"], expected) > 0.998


def test_apply_qdq_with_wide_nodes_runs_whole_on_the_htp(tmp_path):
    """The HTP converts between 8 and 16 bits itself, and agrees with the same file on the CPU."""
    device = find_device("QNNExecutionProvider", allow_emulated=True)
    if isinstance(device, Absent):
        pytest.skip(f"{device.reason}; {device.remedy}")
    model, samples = conv_net(), images()
    quantized, path = _wide(model, samples, tmp_path, {"c", "d", "s"}), tmp_path / "npu.onnx"
    ir.save(quantized, path)
    with Session.open(path, device, options={"offload_graph_io_quantization": "0"}) as session:
        assert set(session.nodes) == {"QNNExecutionProvider"}
        assert cosine(session.run(samples[0])["y"], run(quantized, samples[0], tmp_path)["y"]) > 0.9995
