"""The arithmetic of scales and zero points."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from converters.quantize.affine import (
    LIMITS,
    activation_affine,
    bias_affine,
    dequantize,
    make_affine,
    quantize,
    quantize_weights,
    weight_affine,
    widen_for_bias,
)
from converters.quantize.observers import TensorRange
from tests.converters.quantize.nets import net, normal, run


def _range(minimum: float, maximum: float) -> TensorRange:
    return TensorRange(minimum, maximum, max(abs(minimum), abs(maximum)), 1)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bounds", [(-1.7, 2.9), (0.3, 5.0), (-7.0, -2.0), (0.0, 0.0)])
def test_activation_affine_any_range_stores_zero_exactly(dtype, symmetric, bounds):
    """0 is a stored number in every encoding, also when the range does not hold it or is empty."""
    affine = activation_affine(_range(*bounds), dtype, symmetric=symmetric)
    assert dequantize(quantize(np.zeros(1, np.float32), affine), affine) == 0.0


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16"])
def test_activation_affine_values_in_range_come_back_within_a_step(dtype):
    """A value of the range comes back within half a step, or one at the ends, where zero_point was rounded."""
    values = np.linspace(-1.7, 2.9, 999, dtype=np.float32)
    affine = activation_affine(_range(-1.7, 2.9), dtype)
    assert np.abs(dequantize(quantize(values, affine), affine) - values).max() <= 1.01 * affine.scale


def test_weight_affine_symmetric_uint8_is_centred_on_128():
    """Symmetric unsigned weights have zero_point 128 and reach as far on both sides."""
    affine = weight_affine(np.array([[-2.0, 1.0]], np.float32), "uint8")
    assert int(affine.zero_point) == 128
    assert quantize(np.array([-2.0, 2.0], np.float32), affine).tolist() == [1, 255]


def test_weight_affine_per_channel_gives_each_channel_its_own_scale():
    """Channels of unequal size keep their relative precision, and an empty channel has a usable scale."""
    weights = np.array([[1.0, -0.5], [0.001, 0.0005], [0.0, 0.0]], np.float32)
    affine = weight_affine(weights, "int8", axis=0)
    assert affine.scale.shape == affine.zero_point.shape == (3,)
    assert np.allclose(dequantize(quantize(weights, affine), affine), weights, rtol=0.01)


def test_weight_affine_reduce_range_leaves_one_bit_unused():
    """With reduce_range no weight leaves -64..64, so that two u8 x s8 products fit 16 bits."""
    affine = weight_affine(normal(4, 9), "int8", axis=0, reduce_range=True)
    assert np.abs(quantize(normal(4, 9), affine).astype(int)).max() <= 64


def test_bias_affine_has_the_product_of_the_scales():
    """A bias is stored with input scale times weight scale, per channel, as an integer sum needs it."""
    source = make_affine("uint8", 0.5, 3)
    affine = bias_affine(source, weight_affine(np.array([[127.0], [254.0]], np.float32), "int8", axis=0))
    assert affine.scale.tolist() == [0.5, 1.0]
    assert affine.dtype == "int32"
    assert affine.axis == 0


def test_widen_for_bias_with_a_vanishing_channel_keeps_the_bias():
    """A channel of almost no weight whose bias would wrap in int32 gets a scale in which the bias fits."""
    weights, bias = np.array([[1e-12], [1.0]], np.float32), np.array([3.0, 3.0], np.float32)
    source = make_affine("uint8", 0.01, 0)
    narrow = weight_affine(weights, "int8", axis=0)
    wide = widen_for_bias(narrow, bias, source)
    stored = bias_affine(source, wide)
    assert np.allclose(dequantize(quantize(bias, stored), stored), bias, rtol=1e-4)
    assert wide.scale[1] == narrow.scale[1]


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (16, 1, 5, 5), (12, 64)])
def test_quantize_weights_errors_of_a_channel_cancel(shape):
    """Each output channel sums to within half a step, no weight moves more than one step, plain rounding does worse."""
    weights = normal(*shape)
    affine = weight_affine(weights, "int8", axis=0)
    steps = affine.scale.reshape(-1, *[1] * (len(shape) - 1))
    error = (dequantize(quantize_weights(weights, affine, 0), affine) - weights) / steps
    plain = (dequantize(quantize(weights, affine), affine) - weights) / steps
    sums = np.abs(error.reshape(shape[0], -1).sum(1))
    assert sums.max() <= 0.501
    assert sums.max() < np.abs(plain.reshape(shape[0], -1).sum(1)).max()
    assert np.abs(error).max() <= 1.001


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32"])
def test_quantize_equals_onnxruntime_bit_for_bit(dtype, tmp_path):
    """Our integers and floats are those of QuantizeLinear and DequantizeLinear, saturation included."""
    low, high = LIMITS[dtype]
    affine = make_affine(dtype, 0.037, 0 if dtype == "int32" else (low + high) // 2)
    values = normal(1, 4096, seed=7) * (1.0 if dtype != "uint16" else 2000.0) * 9
    if dtype == "int32":
        stored = quantize(values, affine)
        model = net("y = DequantizeLinear (q, s)", "int32[1,4096] q", "float[1,4096] y", {"s": affine.scale}, 21)
        assert np.array_equal(run(model, {"q": stored}, tmp_path)["y"], dequantize(stored, affine))
        return
    model = net(
        "q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z)",
        "float[1,4096] x",
        f"{dtype}[1,4096] q, float[1,4096] y",
        {"s": affine.scale, "z": affine.zero_point},
        21,
    )
    assert onnx.checker.check_model(ir.to_proto(model)) is None
    outputs = run(model, {"x": values}, tmp_path)
    assert np.array_equal(outputs["q"], quantize(values, affine))
    assert np.array_equal(outputs["y"], dequantize(outputs["q"], affine))
