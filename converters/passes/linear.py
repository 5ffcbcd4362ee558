"""Conv, ConvTranspose, Gemm and MatMul seen as one thing: a constant weight with output channels, and maybe a bias.

A Conv weight is [M, C/group, ...], a ConvTranspose weight [C, M/group, ...], a Gemm or MatMul weight [K, N] ([N, K]
with transB). Folding multiplies its output channels (M, N) or its input channels (C, K), or adds to its bias.
Arithmetic is in float64 and rounded once to the weight's type.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from converters.passes.matching import (
    Array,
    attribute_float,
    attribute_int,
    attribute_ints,
    constant,
    is_op,
    is_private,
    label,
    rank,
)
from converters.passes.rewriting import add_initializer, drop_unused_initializers

Vector = npt.NDArray[np.float64]
LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Linear:
    """One such node with its constant weight, and its constant bias or None."""

    node: ir.Node
    weight: Vector
    bias: Vector | None
    output_axis: int
    input_axis: int
    group: int

    @property
    def channels(self) -> int:
        """The number of output channels."""
        size = int(self.weight.shape[self.output_axis])
        return size * self.group if self.node.op_type == "ConvTranspose" else size

    @property
    def input_channels(self) -> int:
        """The number of input channels."""
        size = int(self.weight.shape[self.input_axis])
        return size * self.group if self.node.op_type == "Conv" else size


def read_linear(node: ir.Node | None) -> Linear | str | None:
    """Read a node; None when it is not of this kind, a reason when its weights cannot be changed."""
    if node is None or not is_op(node, *LINEAR) or len(node.inputs) < 2:
        return None
    weight, bias = constant(node.inputs[1]), constant(_bias(node))
    if weight is None:
        return None
    if (
        weight.dtype not in (np.float32, np.float64)
        or weight.ndim < 2
        or (weight.ndim > 2 and node.op_type == "MatMul")
    ):
        return f"{label(node)}: weight of type {weight.dtype} and {weight.ndim} dimensions"
    if not is_private(node.inputs[1]):  # type: ignore[arg-type]
        return f"{label(node)}: it shares its weight with another node"
    if _bias(node) is not None and bias is None:
        return f"{label(node)}: its bias is not constant"
    if node.op_type == "Gemm" and attribute_int(node, "transA", 0):
        return f"{label(node)}: transA"
    return _linear(node, weight.astype(np.float64), None if bias is None else bias.astype(np.float64))


def _linear(node: ir.Node, weight: Vector, bias: Vector | None) -> Linear:
    if node.op_type in ("Conv", "ConvTranspose"):
        output_axis = 0 if node.op_type == "Conv" else 1
        return Linear(node, weight, bias, output_axis, 1 - output_axis, attribute_int(node, "group", 1))
    if node.op_type == "MatMul":
        return Linear(node, weight, None, 1, 0, 1)
    output_axis = 0 if attribute_int(node, "transB", 0) else 1
    beta = attribute_float(node, "beta", 1.0)
    weight = weight * attribute_float(node, "alpha", 1.0)
    return Linear(node, weight, None if bias is None else bias * beta, output_axis, 1 - output_axis, 1)


def _bias(node: ir.Node) -> ir.Value | None:
    return node.inputs[2] if len(node.inputs) > 2 and node.op_type != "MatMul" else None


def output_vector(linear: Linear, operand: Array, output: ir.Value) -> Vector | None:
    """Read a constant operand as one number per output channel; None when it varies otherwise or widens the output."""
    is_conv = linear.node.op_type in ("Conv", "ConvTranspose")
    dims = linear.weight.ndim if is_conv else (2 if linear.node.op_type == "Gemm" else rank(output))
    if dims is None:
        dims = 1 if operand.ndim <= 1 else 0
    return channel_vector(operand, dims, 1 if is_conv else dims - 1, linear.channels)


def input_vector(linear: Linear, operand: Array, source: ir.Value) -> Vector | None:
    """Read a constant operand as one number per input channel of the value that goes into the node."""
    is_conv = linear.node.op_type in ("Conv", "ConvTranspose")
    dims = linear.weight.ndim if is_conv else (2 if linear.node.op_type == "Gemm" else rank(source))
    if dims is None:
        dims = 1 if operand.ndim <= 1 else 0
    return channel_vector(operand, dims, 1 if is_conv else dims - 1, linear.input_channels)


def channel_vector(operand: Array, dims: int, axis: int, channels: int) -> Vector | None:
    """Read `operand`, broadcast against a value of `dims` dimensions, as a vector over `axis`; None when it is none."""
    if operand.dtype.kind != "f" or operand.ndim > dims or not np.all(np.isfinite(operand)):
        return None
    shape = (1,) * (dims - operand.ndim) + operand.shape
    if any(size != 1 for index, size in enumerate(shape) if index != axis) or shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(operand.astype(np.float64).reshape(-1), (channels,))


def scale_output(linear: Linear, factor: Vector) -> tuple[Vector, Vector | None]:
    """Return weight and bias of the node with each output channel multiplied."""
    bias = None if linear.bias is None else linear.bias * factor
    if linear.node.op_type != "ConvTranspose":
        return linear.weight * _along(factor, linear.weight.ndim, linear.output_axis), bias
    weight = linear.weight.copy()
    inputs, outputs = weight.shape[0] // linear.group, weight.shape[1]
    for index in range(linear.group):
        part = factor[index * outputs : (index + 1) * outputs]
        weight[index * inputs : (index + 1) * inputs] *= _along(part, weight.ndim, 1)
    return weight, bias


def scale_input(linear: Linear, factor: Vector) -> Vector:
    """Return the weight that gives the same result when each input channel is no longer multiplied by `factor`."""
    if linear.node.op_type != "Conv" or linear.group == 1:
        return linear.weight * _along(factor, linear.weight.ndim, linear.input_axis)
    return linear.weight * _per_output(linear, factor)


def bias_of_offset(linear: Linear, offset: Vector) -> Vector | None:
    """Return the constant that an offset of each input channel adds to each output channel.

    None where it is not the same at every position: a padded Conv, a ConvTranspose.
    """
    if linear.node.op_type == "ConvTranspose" or (linear.node.op_type == "Conv" and is_padded(linear.node)):
        return None
    if linear.node.op_type == "Conv":
        spread = linear.weight * _per_output(linear, offset)
        return np.asarray(spread.sum(axis=tuple(range(1, linear.weight.ndim))), dtype=np.float64)
    return np.asarray(offset @ (linear.weight if linear.input_axis == 0 else linear.weight.T), dtype=np.float64)


def is_padded(node: ir.Node) -> bool:
    """Whether a Conv adds zeros around its input."""
    auto_pad = node.attributes.get("auto_pad")
    kind = "NOTSET" if auto_pad is None else auto_pad.as_string()
    return kind not in ("NOTSET", "VALID") or any(attribute_ints(node, "pads"))


def _per_output(linear: Linear, vector: Vector) -> Vector:
    """Lay out a number per input channel as a Conv weight needs it: [M, C/group, 1, ...]."""
    outputs, inputs = linear.weight.shape[:2]
    rows = np.repeat(vector.reshape(linear.group, inputs), outputs // linear.group, axis=0)
    return rows.reshape(outputs, inputs, *(1,) * (linear.weight.ndim - 2))


def _along(vector: Vector, dims: int, axis: int) -> Vector:
    return vector.reshape([-1 if index == axis else 1 for index in range(dims)])


def write_linear(model: ir.Model, linear: Linear, weight: Vector, bias: Vector | None) -> bool:
    """Give the node a new weight and bias, both in the type of the old weight; False when they would not be finite.

    A MatMul has no place for a bias: its bias must be None.
    """
    node, old = linear.node, linear.node.inputs[1]
    assert old is not None and old.const_value is not None and (bias is None or node.op_type != "MatMul")
    dtype = old.const_value.numpy().dtype
    with np.errstate(over="ignore"):
        new_weight, new_bias = weight.astype(dtype), None if bias is None else bias.astype(dtype)
    if not np.all(np.isfinite(new_weight)) or not (new_bias is None or np.all(np.isfinite(new_bias))):
        return False
    replaced = [value for value in (old, _bias(node)) if value is not None]
    node.replace_input_with(1, add_initializer(model, f"{old.name}_folded", new_weight))
    if new_bias is not None:
        node.resize_inputs(3)
        node.replace_input_with(2, add_initializer(model, f"{node.outputs[0].name}_bias", new_bias))
    drop_unused_initializers(replaced)
    if node.op_type == "Gemm":
        node.attributes.pop("alpha", None)
        node.attributes.pop("beta", None)
    return True
