"""A layer norm that an exporter spelled out becomes LayerNormalization."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from converters.passes.matching import (
    Array,
    attribute_int,
    attribute_ints,
    constant,
    is_op,
    is_private,
    label,
    nodes_of,
    producer,
    rank,
    scalar,
    shifted,
    split_constant,
)
from converters.passes.result import PassResult
from converters.passes.rewriting import add_initializer, add_node, replace_output
from edgert.profile import DeviceProfile

_OPSET = 17


@dataclass(frozen=True)
class _Normal:
    """(source - mean) / sqrt(variance + epsilon) over the last dimension."""

    source: ir.Value
    epsilon: float


def fuse_layer_norm(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Replace the mean, variance, division, scale and bias over the last dimension; the epsilon is kept.

    The square may be a Pow or a Mul; the division a Div, or a Mul by a Reciprocal. Scale and bias must be constants
    over the last dimension; the bias may be absent. Declined below opset 17, where the operator does not exist.
    """
    del profile
    opset = model.graph.opset_imports.get("", 0)
    changes, declined = 0, list[str]()
    for node in nodes_of(model):
        found = None if node.graph is None else _read(node)
        if found is None:
            continue
        if opset < _OPSET:
            declined.append(f"{label(node)}: LayerNormalization needs opset {_OPSET}, this graph has {opset}")
            continue
        _write(model, *found)
        changes += 1
    return PassResult(changes, tuple(declined))


def _read(node: ir.Node) -> tuple[ir.Node, _Normal, Array, Array | None] | None:
    """Read a Mul by the scale, and the Add of the bias behind it where there is one; returns the last node of them."""
    parts = split_constant(node) if is_op(node, "Mul") else None
    normal = _normal(parts[0]) if parts and is_private(parts[0]) else None
    scale = _last_dimension(parts[1], normal.source) if parts and normal else None
    if normal is None or scale is None:
        return None
    follower = next(iter(node.outputs[0].uses())).node if is_private(node.outputs[0]) else None
    after = split_constant(follower) if follower is not None and is_op(follower, "Add") else None
    bias = _last_dimension(after[1], normal.source) if after else None
    if follower is None or bias is None or bias.shape != scale.shape:
        return node, normal, scale, None
    return follower, normal, scale, bias


def _last_dimension(value: ir.Value, source: ir.Value) -> Array | None:
    """Read a constant that varies over the last dimension only, and in full: one number for each of its elements."""
    array, dims = constant(value), rank(source)
    if array is None or dims is None or array.ndim == 0 or array.ndim > dims or array.size != array.shape[-1]:
        return None
    size = source.shape[-1] if source.shape is not None else None
    return array.reshape(-1) if isinstance(size, int) and size == array.size else None


def _normal(value: ir.Value) -> _Normal | None:
    node = producer(value, "Div", "Mul")
    if node is None or len(node.inputs) != 2:
        return None
    pairs = [tuple(node.inputs)] if node.op_type == "Div" else [tuple(node.inputs), tuple(node.inputs)[::-1]]
    for centred, deviation in pairs:
        if centred is None or deviation is None or not is_private(deviation):
            continue
        root = deviation
        if node.op_type == "Mul":
            reciprocal = producer(deviation, "Reciprocal")
            if reciprocal is None or reciprocal.inputs[0] is None or not is_private(reciprocal.inputs[0]):
                continue
            root = reciprocal.inputs[0]
        found = _centred_over(centred, root)
        if found is not None:
            return found
    return None


def _centred_over(centred: ir.Value, root: ir.Value) -> _Normal | None:
    """Match centred = x - mean(x) with root = sqrt(mean(centred^2) + epsilon)."""
    sqrt = producer(root, "Sqrt")
    moved = shifted(sqrt.inputs[0]) if sqrt and sqrt.inputs[0] and is_private(sqrt.inputs[0]) else None
    variance = producer(moved[0], "ReduceMean") if moved and is_private(moved[0]) else None
    square = variance.inputs[0] if variance is not None else None
    if moved is None or variance is None or square is None or not is_private(square):
        return None
    source = _centred_source(centred)
    squared = _squared(square)
    if source is None or squared is None or (squared is not centred and _centred_source(squared) is not source):
        return None
    return _Normal(source, moved[1]) if _is_last_mean(variance) and moved[1] >= 0 else None


def _centred_source(value: ir.Value) -> ir.Value | None:
    """Return x of x - mean(x) over the last dimension."""
    node = producer(value, "Sub")
    if node is None or len(node.inputs) != 2 or value.is_graph_output():
        return None
    mean = producer(node.inputs[1], "ReduceMean")
    if mean is None or mean.inputs[0] is not node.inputs[0] or not _is_last_mean(mean):
        return None
    return node.inputs[0]


def _squared(value: ir.Value) -> ir.Value | None:
    node = producer(value, "Pow", "Mul")
    if node is None or len(node.inputs) != 2:
        return None
    if node.op_type == "Pow":
        return node.inputs[0] if scalar(node.inputs[1]) == 2.0 else None
    return node.inputs[0] if node.inputs[0] is node.inputs[1] else None


def _is_last_mean(node: ir.Node) -> bool:
    """Whether a ReduceMean goes over the last dimension alone and keeps it."""
    axes = attribute_ints(node, "axes")
    if len(node.inputs) > 1:
        array = constant(node.inputs[1])
        axes = () if array is None else tuple(int(axis) for axis in array.reshape(-1))
    dims = rank(node.inputs[0])
    last = (-1,) if dims is None else (-1, dims - 1)
    return len(axes) == 1 and axes[0] in last and attribute_int(node, "keepdims", 1) == 1


def _write(model: ir.Model, node: ir.Node, normal: _Normal, scale: Array, bias: Array | None) -> None:
    output = node.outputs[0]
    inputs = [normal.source, add_initializer(model, f"{output.name}_scale", np.ascontiguousarray(scale))]
    if bias is not None:
        inputs.append(add_initializer(model, f"{output.name}_bias", np.ascontiguousarray(bias)))
    value = add_node(model, node, "LayerNormalization", inputs, {"axis": -1, "epsilon": normal.epsilon}, like=output)
    replace_output(node, value)
