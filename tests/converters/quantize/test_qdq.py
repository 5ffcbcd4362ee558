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


@pytest.mark.parametrize(("opset", "bits", "needed"), [(12, 8, 13), (17, 16, 21)])
def test_apply_qdq_with_an_old_opset_is_refused(opset, bits, needed, tmp_path):
    """Per-axis DequantizeLinear needs opset 13 and 16-bit types 21: an invalid model is never written."""
    model = net("y = Relu (x)", "float[1,4] x", "float[1,4] y", {}, opset)
    with pytest.raises(BadInput, match=f"needs opset {needed}"):
        _quantized(model, [{"x": normal(1, 4)}], tmp_path, NPU, bits)
