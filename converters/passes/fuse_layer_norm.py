"""A layer norm that an exporter spelled out becomes LayerNormalization."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from converters.passes.matching import (
    Array,
    constant,
    is_op,
    is_private,
    label,
    nodes_of,
    only_consumer,
    producer,
    rank,
    scalar,
    shifted,
    split_constant,
)
from converters.passes.reductions import Reduction, is_kept, past_reshapes, read_mean
from converters.passes.result import PassResult
from converters.passes.rewriting import add_initializer, add_node, replace_output
from edgert.profile import DeviceProfile

_OPSET = 17
_LEAST_TRANSPOSED = 64
"""ONNX Runtime 1.31 on an EPYC, [1, n, m]: 1.6 times as fast as the spelled-out form at n = 64, 0.6 times at n = 8."""


@dataclass(frozen=True)
class _Norm:
    """(source - mean) / sqrt(variance + epsilon) x scale + bias; mean and variance are over `axis` alone."""

    source: ir.Value
    axis: int
    epsilon: float
    scale: Array
    bias: Array | None


def fuse_layer_norm(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Replace the mean, variance, division, scale and bias over one dimension; the epsilon is kept.

    Mean: ReduceMean, or ReduceSum times 1 / n. Variance: the mean of (x - mean)^2, or mean(x^2) - mean^2, clamped at 0
    or not: what float16 and integers cannot hold. The square may be a Pow or a Mul; the division a Div, or a Mul by a
    Reciprocal; the scale may multiply the quotient or be divided first. Scale and bias must be constants over that
    dimension; the bias may be absent. A dimension that is not the last one gets a Transpose before and behind.
    Declined below opset 17, where the operator does not exist, and off an NPU where the Transposes cost too much.
    """
    opset = model.graph.opset_imports.get("", 0)
    changes, declined = 0, list[str]()
    for node in nodes_of(model):
        found = None if node.graph is None else _read(node)
        if found is None:
            continue
        if opset < _OPSET:
            declined.append(f"{label(node)}: LayerNormalization needs opset {_OPSET}, this graph has {opset}")
            continue
        if not _is_worth_it(found[1], profile):
            declined.append(
                f"{label(node)}: two Transposes for a norm over {found[1].scale.size} elements cost too much"
            )
            continue
        _write(model, *found)
        changes += 1
    return PassResult(changes, tuple(declined))


def _is_worth_it(norm: _Norm, profile: DeviceProfile) -> bool:
    """Whether the Transposes that a dimension in the middle needs cost less than the nodes they replace."""
    return norm.axis + 1 == rank(norm.source) or profile.processor == "npu" or norm.scale.size >= _LEAST_TRANSPOSED


def _read(node: ir.Node) -> tuple[ir.Node, _Norm] | None:
    """Read a Mul by the scale, and the Add of the bias behind it where there is one; returns the last node of them."""
    for centred, root, factor in _candidates(node):
        found = _centred_over(centred, root)
        scale = _along(factor, found[0]) if found else None
        if found is None or scale is None:
            continue
        reduction, epsilon = found
        follower = only_consumer(node.outputs[0])
        after = split_constant(follower) if follower is not None and is_op(follower, "Add") else None
        bias = _along(after[1], reduction) if after else None
        last = node if follower is None or bias is None else follower
        return last, _Norm(reduction.source, reduction.axis, epsilon, scale, bias)
    return None


def _candidates(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value, ir.Value]]:
    """Read (a / root) x scale, or a x (scale / root), as (a, root, scale); the scale is constant."""
    for left, right in _orders(node) if is_op(node, "Mul") else ():
        for numerator, root in _quotients(right):
            if constant(left) is not None:
                yield numerator, root, left
            elif constant(numerator) is not None:
                yield left, root, numerator


def _quotients(value: ir.Value) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Read a private value as a / root: a Div, or a Mul by a Reciprocal."""
    node = producer(value, "Div", "Mul") if is_private(value) else None
    if node is not None and node.op_type == "Div":
        yield from (pair for pair in _orders(node)[:1] if is_private(pair[1]))
        return
    for left, right in () if node is None else _orders(node):
        inverse = producer(right, "Reciprocal")
        root = inverse.inputs[0] if inverse is not None else None
        if root is not None and is_private(right) and is_private(root):
            yield left, root


def _orders(node: ir.Node) -> tuple[tuple[ir.Value, ir.Value], ...]:
    """Return the two inputs of a node in both orders."""
    if len(node.inputs) != 2 or node.inputs[0] is None or node.inputs[1] is None:
        return ()
    return (node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])


def _along(value: ir.Value, reduction: Reduction) -> Array | None:
    """Read a constant that varies over the reduced axis only, and in full: one number for each of its elements."""
    array, dims = constant(value), rank(reduction.source)
    if array is None or dims is None or array.ndim > dims or reduction.source.shape is None:
        return None
    shape = (1,) * (dims - array.ndim) + array.shape
    is_along = array.size == shape[reduction.axis] == reduction.source.shape[reduction.axis]
    return array.reshape(-1) if is_along else None


def _centred_over(centred: ir.Value, root: ir.Value) -> tuple[Reduction, float] | None:
    """Match centred = x - mean(x) with root = sqrt(variance(x) + epsilon), both over the same axis."""
    mean, sqrt = _centre(centred), producer(past_reshapes(root), "Sqrt")
    inner = sqrt.inputs[0] if sqrt is not None else None
    moved = shifted(past_reshapes(inner)) if inner is not None and is_private(inner) else None
    if mean is None or moved is None or not is_private(moved[0]) or moved[1] < 0:
        return None
    is_variance = _variance(moved[0]) == mean and is_kept(root, mean)
    return (mean, moved[1]) if is_variance else None


def _centre(value: ir.Value) -> Reduction | None:
    """Read a value as x - mean(x)."""
    node = producer(value, "Sub")
    if node is None or len(node.inputs) != 2 or node.inputs[1] is None or value.is_graph_output():
        return None
    mean = read_mean(node.inputs[1])
    return mean if mean and mean.source is node.inputs[0] and is_kept(node.inputs[1], mean) else None


def _variance(value: ir.Value) -> Reduction | None:
    """Read a value as the variance of x: mean((x - mean(x))^2), or mean(x^2) - mean(x)^2, also clamped at 0."""
    mean = read_mean(value)
    if mean is not None:
        squared = _squared(mean.source) if is_private(mean.source) else None
        centre = _centre(squared) if squared is not None else None
        return centre if centre is not None and centre.axis == mean.axis else None
    node = producer(_unclamped(past_reshapes(value)), "Sub")
    if node is None or node.inputs[0] is None or node.inputs[1] is None:
        return None
    first, mean_value = read_mean(node.inputs[0]), _squared(past_reshapes(node.inputs[1]))
    second = read_mean(mean_value) if mean_value is not None else None
    if first is None or second is None or first.axis != second.axis or not is_private(first.source):
        return None
    return second if _squared(first.source) is second.source else None


def _unclamped(value: ir.Value) -> ir.Value:
    """Return x of max(x, 0), or the value."""
    node = producer(value, "Relu", "Max")
    if node is None or not is_private(value):
        return value
    others = [part for part in node.inputs if part is not None and scalar(part) != 0.0]
    return past_reshapes(others[0]) if len(others) == 1 else value


def _squared(value: ir.Value) -> ir.Value | None:
    node = producer(value, "Pow", "Mul")
    if node is None or len(node.inputs) != 2:
        return None
    if node.op_type == "Pow":
        return node.inputs[0] if scalar(node.inputs[1]) == 2.0 else None
    return node.inputs[0] if node.inputs[0] is node.inputs[1] else None


def _write(model: ir.Model, node: ir.Node, norm: _Norm) -> None:
    output, dims = node.outputs[0], rank(norm.source)
    assert dims is not None
    order = [*(axis for axis in range(dims) if axis != norm.axis), norm.axis]
    is_last = norm.axis == dims - 1
    source = norm.source if is_last else _transpose(model, node, norm.source, order)
    inputs = [source, add_initializer(model, f"{output.name}_scale", np.ascontiguousarray(norm.scale))]
    if norm.bias is not None:
        inputs.append(add_initializer(model, f"{output.name}_bias", np.ascontiguousarray(norm.bias)))
    value = add_node(model, node, "LayerNormalization", inputs, {"axis": -1, "epsilon": norm.epsilon}, like=source)
    if not is_last:
        value = _transpose(model, node, value, [order.index(axis) for axis in range(dims)])
    replace_output(node, value)


def _transpose(model: ir.Model, before: ir.Node, value: ir.Value, perm: list[int]) -> ir.Value:
    output = add_node(model, before, "Transpose", [value], {"perm": perm}, like=value)
    output.shape = None if value.shape is None else ir.Shape([value.shape[axis] for axis in perm])
    return output
