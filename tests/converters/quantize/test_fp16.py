"""Models in float16 with what must stay float32."""

import numpy as np
import onnx_ir as ir
import pytest

from converters.quantize.fp16 import to_fp16
from tests.converters.quantize.nets import conv_net, cosine, images, net, normal, ranges_of, run


def _halved(model, samples, tmp_path):
    return to_fp16(model, ranges_of(model, samples, tmp_path))


def test_to_fp16_keeps_the_interface_and_halves_the_weights(tmp_path):
    """Inputs and outputs stay float32 under their names; weights and everything between are float16."""
    model, samples = conv_net(), images(3)
    half, kept = _halved(model, samples, tmp_path)
    assert kept == ()
    assert [(v.name, v.dtype) for v in (*half.graph.inputs, *half.graph.outputs)] == [
        ("x", ir.DataType.FLOAT),
        ("y", ir.DataType.FLOAT),
    ]
    assert ir.DataType.FLOAT not in {v.dtype for v in half.graph.initializers.values()}
    assert cosine(run(half, samples[0], tmp_path)["y"], run(model, samples[0], tmp_path)["y"]) > 0.99999


def test_to_fp16_value_near_overflow_stays_in_float32(tmp_path):
    """A square that reaches 90,000 would be infinite in float16: its nodes are kept and named."""
    model = net("a = Mul (x, x) b = Mul (a, k) y = Relu (b)", "float[1,4] x", "float[1,4] y", {"k": np.float32(0.001)})
    samples = [{"x": np.array([[300.0, 2.0, 1.0, -3.0]], np.float32)}]
    half, kept = _halved(model, samples, tmp_path)
    assert [sentence.split(":")[0] for sentence in kept] == ["Mul 'Mul_0'", "Mul 'Mul_1'"]
    assert "9e+04" in kept[0]
    assert run(half, samples[0], tmp_path)["y"] == pytest.approx(run(model, samples[0], tmp_path)["y"], rel=1e-3)


def test_to_fp16_small_divisor_stays_in_float32(tmp_path):
    """An epsilon of 1e-12 is 0 in float16, and so the division by it is kept where 0/0 would be NaN."""
    model = net(
        "n = Mul (x, x) s = ReduceSum <keepdims = 1> (n) e = Add (s, eps) r = Sqrt (e) y = Div (x, r)",
        "float[1,4] x",
        "float[1,4] y",
        {"eps": np.float32(1e-12)},
    )
    samples = [{"x": normal(1, 4)}]
    half, kept = _halved(model, samples, tmp_path)
    assert [sentence.split(" ")[0] for sentence in kept] == ["Add", "Sqrt", "Div"]
    assert np.array_equal(run(half, {"x": np.zeros((1, 4), np.float32)}, tmp_path)["y"], np.zeros((1, 4)))


def test_to_fp16_spectrogram_in_decibels_stays_in_float32(tmp_path):
    """Where the logarithm of a power is read, float16 would end at its noise floor: all that leads there is kept."""
    weights = {"w": normal(4, 1, 8), "k": np.float32(0.1)}
    model = net(
        "a = Conv (x, w) p = Mul (a, a) d = Log (p) y = Mul (d, k)", "float[1,1,64] x", "float[1,4,57] y", weights
    )
    samples = [{"x": normal(1, 1, 64) * scale} for scale in (1.0, 1e-5)]
    half, kept = _halved(model, [{"x": s["x"].astype(np.float32)} for s in samples], tmp_path)
    assert [sentence.split(" ")[0] for sentence in kept] == ["Conv", "Mul", "Log"]
    quiet = {"x": samples[1]["x"].astype(np.float32)}
    assert run(half, quiet, tmp_path)["y"] == pytest.approx(run(model, quiet, tmp_path)["y"], abs=2e-3)


def test_to_fp16_float32_parameters_stay(tmp_path):
    """Resize takes its scales in float32 by definition, whatever its data is."""
    model = net(
        'y = Resize <mode = "nearest"> (x, , scales)',
        "float[1,1,4,4] x",
        "float[1,1,8,8] y",
        {"scales": np.array([1, 1, 2, 2], np.float32)},
    )
    samples = [{"x": normal(1, 1, 4, 4)}]
    half, kept = _halved(model, samples, tmp_path)
    assert kept == ()
    assert run(half, samples[0], tmp_path)["y"] == pytest.approx(run(model, samples[0], tmp_path)["y"], rel=1e-3)


@pytest.mark.parametrize("choice", [True, False])
def test_to_fp16_converts_inside_subgraphs(choice, tmp_path):
    """Both branches of an If compute in float16 with their own and with outer values; the If itself gives float32."""
    model = net(
        """a = Mul (x, k)
        y = If (c) <
            then_branch = t () => (float[1,4] u) { v = Add (a, k) u = Relu (v) },
            else_branch = e () => (float[1,4] w) { w = Sub (x, k) }
        >""",
        "float[1,4] x, bool c",
        "float[1,4] y",
        {"k": np.float32(0.3)},
    )
    feeds = {"x": normal(1, 4), "c": np.array(choice)}
    half, kept = to_fp16(model, {})
    inner = {n.op_type: n.outputs[0].dtype for n in ir.traversal.RecursiveGraphIterator(half.graph)}
    assert kept == ()
    assert inner["Add"] == inner["Sub"] == ir.DataType.FLOAT16
    assert run(half, feeds, tmp_path)["y"] == pytest.approx(run(model, feeds, tmp_path)["y"], rel=2e-3, abs=1e-3)


def test_to_fp16_cast_and_filled_tensors_change_their_type(tmp_path):
    """A Cast to float and a ConstantOfShape give float16 once they are between float16 nodes."""
    model = net(
        "f = Cast <to = 1> (i) z = ConstantOfShape <value = float[1] {0.5}> (n) a = Add (f, z) y = Mul (a, a)",
        "int64[1,4] i",
        "float[1,4] y",
        {"n": np.array([1, 4])},
    )
    half, kept = to_fp16(model, {})
    assert kept == ()
    assert run(half, {"i": np.arange(4).reshape(1, 4)}, tmp_path)["y"].tolist() == [[0.25, 2.25, 6.25, 12.25]]
