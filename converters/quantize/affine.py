"""Affine quantization arithmetic: ranges to scale and zero_point, floats to integers and back. Pure numpy.

The formulas are those of ONNX `QuantizeLinear` and `DequantizeLinear` (opset 21). Which tensor gets which
type is left to `plan`; reading ranges off data is left to `calibrate` and `observers`.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from converters.quantize.observers import TensorRange

LIMITS = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
    "int32": (-(2**31), 2**31 - 1),
}
MINIMUM_REAL_RANGE = 1e-4
"""No activation range is narrower; the same as `MinimumRealRange` in onnxruntime's QNN configuration."""

_T = TypeVar("_T", bound=np.generic)
_FLOAT32 = np.finfo(np.float32)
_BIAS_LIMIT = 2**31 - 2**8


@dataclass(frozen=True)
class Affine:
    """How one tensor is stored: real = (stored - zero_point) * scale, per tensor or along one axis.

    `scale` is float32 and `zero_point` has the type `dtype`; both have shape [] or, with an axis, [channels].
    """

    dtype: str
    scale: NDArray[np.float32]
    zero_point: NDArray[np.generic]
    axis: int | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """Return the smallest and the largest real value that a per-tensor encoding can hold."""
        low, high = LIMITS[self.dtype]
        zero, scale = int(self.zero_point), float(self.scale)
        return (low - zero) * scale, (high - zero) * scale

    def same_as(self, other: "Affine") -> bool:
        """Return whether both encodings store every real value as the same integer."""
        return (
            self.dtype == other.dtype
            and self.axis == other.axis
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )


def make_affine(dtype: str, scale: object, zero_point: object, axis: int | None = None) -> Affine:
    """Return an encoding from plain numbers, with the array types that `Affine` promises."""
    return Affine(dtype, np.asarray(scale, np.float32), np.asarray(zero_point, np.dtype(dtype)), axis)


def activation_affine(observed: TensorRange, dtype: str, *, symmetric: bool = False) -> Affine:
    """Return the per-tensor encoding of an observed range, in which 0 is exact (zero padding, ReLU)."""
    minimum, maximum = min(observed.minimum, 0.0), max(observed.maximum, 0.0)
    maximum = max(maximum, minimum + MINIMUM_REAL_RANGE)
    low, high = LIMITS[dtype]
    if symmetric:
        middle = (low + high + 1) // 2
        return make_affine(dtype, max(-minimum, maximum) / (high - middle), middle)
    scale = (maximum - minimum) / (high - low)
    return make_affine(dtype, scale, int(np.clip(round(low - minimum / scale), low, high)))


def constant_affine(array: NDArray[np.generic], dtype: str) -> Affine:
    """Return the encoding of a constant operand: its own range, so that a single number is stored exactly."""
    real = np.asarray(array, np.float64)
    minimum, maximum = min(float(real.min(initial=0.0)), 0.0), max(float(real.max(initial=0.0)), 0.0)
    low, high = LIMITS[dtype]
    scale = (maximum - minimum) / (high - low)
    if scale < _FLOAT32.tiny:
        return make_affine(dtype, 1.0, low)
    return make_affine(dtype, scale, int(np.clip(round(low - minimum / scale), low, high)))


def at_width(affine: Affine, dtype: str) -> Affine:
    """Return a per-tensor encoding with the same bounds in a type of another width.

    65535 is 255 * 257, so 16 bits hold every value of 8 bits exactly.
    """
    (low, high), (to_low, to_high) = LIMITS[affine.dtype], LIMITS[dtype]
    factor = (to_high - to_low) / (high - low)
    zero_point = to_low + round((int(affine.zero_point) - low) * factor)
    return make_affine(dtype, float(affine.scale) / factor, zero_point)


def weight_affine(
    weights: NDArray[np.floating],
    dtype: str,
    *,
    axis: int | None = None,
    symmetric: bool = True,
    reduce_range: bool = False,
) -> Affine:
    """Return the encoding of constant weights, per channel of `axis` or per tensor (None).

    Symmetric means zero_point 0 for signed and the middle (128) for unsigned types. `reduce_range` uses 7
    of the 8 bits, which keeps pairwise 16-bit sums of u8 x s8 products from saturating on x86 without VNNI.
    """
    flat = _by_channel(np.asarray(weights, np.float64), axis)
    minimum, maximum = np.minimum(flat.min(1), 0.0), np.maximum(flat.max(1), 0.0)
    low, high = _weight_limits(dtype, reduce_range)
    if symmetric:
        middle = (low + high + 1) // 2
        scale = np.maximum(-minimum, maximum) / (high - middle)
        scale = np.where(scale < _FLOAT32.tiny, 1.0, scale)
        zero = np.full(scale.shape, middle)
    else:
        scale = (maximum - minimum) / (high - low)
        scale = np.where(scale < _FLOAT32.tiny, 1.0, scale)
        zero = np.clip(np.rint(low - minimum / scale), low, high)
    if axis is None:
        return make_affine(dtype, scale[0], zero[0])
    return make_affine(dtype, scale, zero, axis)


def bias_affine(input_affine: Affine, weights: Affine) -> Affine:
    """Return the int32 encoding of a bias: scale = input scale * weight scale, zero_point 0.

    A bias has one axis, so a per-channel encoding lies along axis 0 whatever the axis of the weights.
    """
    scale = (np.float64(input_affine.scale) * np.asarray(weights.scale, np.float64)).astype(np.float32)
    return make_affine("int32", scale, np.zeros(scale.shape), None if weights.axis is None else 0)


def widen_for_bias(weights: Affine, bias: NDArray[np.floating], input_affine: Affine) -> Affine:
    """Return `weights` with the scales raised where the bias would not fit int32.

    A channel whose weights are almost zero has a tiny scale, and its bias would wrap around
    (https://github.com/microsoft/onnxruntime/pull/22020). The zero_point of such a channel is kept: weights
    that small then round towards zero, which is what they are worth beside their bias.
    """
    magnitude = np.abs(np.asarray(bias, np.float64))
    if weights.axis is None:
        magnitude = magnitude.max(initial=0.0)
    needed = magnitude / (float(input_affine.scale) * _BIAS_LIMIT)
    return Affine(weights.dtype, np.maximum(weights.scale, needed.astype(np.float32)), weights.zero_point, weights.axis)


def quantize(values: NDArray[np.floating], affine: Affine) -> NDArray[np.generic]:
    """Return the stored integers of `values`: round half to even, then saturate, as `QuantizeLinear` does."""
    low, high = LIMITS[affine.dtype]
    work = np.float64 if affine.dtype == "int32" else np.float32
    scaled = np.rint(np.asarray(values, work) / _along(affine.scale.astype(work), affine.axis, values.ndim))
    scaled += _along(affine.zero_point.astype(work), affine.axis, values.ndim)
    stored: NDArray[np.generic] = np.clip(scaled, low, high).astype(affine.dtype)
    return stored


def quantize_weights(values: NDArray[np.floating], affine: Affine, output_axis: int) -> NDArray[np.generic]:
    """Return the stored integers of weights, rounded so that the errors of an output channel cancel.

    Rounding each weight to nearest shifts the sum of a kernel by up to half a step per weight, and inputs
    that are alike (smooth images, activations of one sign) multiply that shift. So the weights nearest to
    the other neighbour are rounded the other way until each kernel, then each output channel, sums to
    within half a step of the truth. Values have shape [.., outputs at `output_axis`, ..]; the axes after
    the first two are the kernel. Source: Guo et al., "SQuant: On-the-Fly Data-Free Quantization via
    Diagonal Hessian Approximation" (ICLR 2022).
    """
    low, high = LIMITS[affine.dtype]
    rank = values.ndim
    real = np.asarray(values, np.float64) / _along(affine.scale.astype(np.float64), affine.axis, rank)
    real = np.moveaxis(real, output_axis, 0)
    kernels = (*real.shape[: min(rank, 2)], -1)
    rounded = np.rint(real)
    if rank > 2:
        rounded = _cancel_errors(real.reshape(kernels), rounded.reshape(kernels)).reshape(real.shape)
    rows = (real.shape[0], -1)
    rounded = _cancel_errors(real.reshape(rows), rounded.reshape(rows)).reshape(real.shape)
    stored = np.moveaxis(rounded, 0, output_axis)
    stored = stored + _along(affine.zero_point.astype(np.float64), affine.axis, rank)
    return np.ascontiguousarray(np.clip(stored, low, high).astype(affine.dtype))


def dequantize(stored: NDArray[np.generic], affine: Affine) -> NDArray[np.float32]:
    """Return the real values (float32) of stored integers, as `DequantizeLinear` does."""
    zero = _along(affine.zero_point.astype(np.int64), affine.axis, stored.ndim)
    centred = (stored.astype(np.int64) - zero).astype(np.float32)
    real: NDArray[np.float32] = centred * _along(affine.scale, affine.axis, stored.ndim)
    return real


def _cancel_errors(real: NDArray[np.float64], rounded: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round the worst of each row the other way until its errors sum to at most half a step."""
    error = rounded - real
    surplus = np.rint(error.sum(-1, keepdims=True))
    direction = np.sign(surplus)
    worst_first = np.argsort(-error * direction, axis=-1, kind="stable")
    flips = np.where(np.arange(real.shape[-1]) < np.abs(surplus), direction, 0.0)
    result = rounded.copy()
    np.put_along_axis(result, worst_first, np.take_along_axis(rounded, worst_first, -1) - flips, -1)
    return result


def _weight_limits(dtype: str, reduce_range: bool) -> tuple[int, int]:
    low, high = LIMITS[dtype]
    if not reduce_range:
        return low, high
    return (0, 127) if low == 0 else (-64, 63)


def _by_channel(weights: NDArray[np.float64], axis: int | None) -> NDArray[np.float64]:
    """Return the weights as [channels, values]; one channel when axis is None."""
    if weights.size == 0:
        return np.zeros((1 if axis is None else weights.shape[axis], 1))
    if axis is None:
        return weights.reshape(1, -1)
    return np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)


def _along(vector: NDArray[_T], axis: int | None, rank: int) -> NDArray[_T]:
    if axis is None:
        return vector
    return vector.reshape([-1 if dim == axis % rank else 1 for dim in range(rank)])
