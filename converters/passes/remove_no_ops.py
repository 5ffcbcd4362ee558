"""Nodes that return their input unchanged go, and chains of reshapes and transposes become one."""

import math

import numpy as np
import onnx_ir as ir

from converters.passes.matching import (
    attribute_int,
    attribute_ints,
    constant,
    is_op,
    is_private,
    nodes_of,
    producer,
    rank,
    static_shape,
)
from converters.passes.result import PassResult
from converters.passes.rewriting import add_initializer, add_node, can_stand_for, replace_output
from edgert.profile import DeviceProfile

_RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0, "Max": -math.inf, "Min": math.inf}
_COMMUTATIVE = ("Add", "Mul", "Max", "Min")


def remove_no_ops(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Remove what changes nothing, and merge what one node can do.

    Removed: Identity, Cast to the same type, Mul and Div by 1, Add and Sub of 0, Max with -inf and Min with inf,
    Transpose in order, Slice of everything, Expand and Reshape to the same shape, Concat of one, Pad by 0, Dropout
    outside training. Merged: Transpose after Transpose, any reshape after a reshape, two Transposes that undo each
    other around a reshape of dimensions of 1; a Transpose that moves only dimensions of 1 is a Reshape.
    """
    del profile
    changes, again = 0, True
    while again:
        found = sum(_simplify(model, node) for node in nodes_of(model) if node.graph is not None)
        changes += found
        again = found > 0
    return PassResult(changes)


def _simplify(model: ir.Model, node: ir.Node) -> bool:
    source = _same_as(node)
    if source is not None and can_stand_for(source, node.outputs[0]):
        replace_output(node, source)
        return True
    return (
        _merge_transposes(model, node)
        or _merge_reshapes(model, node)
        or _transpose_as_reshape(model, node)
        or _undo_transposes(model, node)
    )


def _same_as(node: ir.Node) -> ir.Value | None:
    """Return the input that the node's only output is equal to."""
    if node.domain != "" or len(node.outputs) != 1 or not node.inputs or node.inputs[0] is None:
        return None
    source = node.inputs[0]
    if is_op(node, "Identity") or (is_op(node, "Concat") and len(node.inputs) == 1):
        return source
    if is_op(node, "Cast"):
        return source if source.dtype is not None and source.dtype == attribute_int(node, "to", 0) else None
    if is_op(node, "Transpose"):
        perm = attribute_ints(node, "perm")
        return source if perm and perm == tuple(range(len(perm))) else None
    if is_op(node, *_NEUTRAL) and len(node.inputs) == 2:
        return _neutral(node)
    if is_op(node, "Slice"):
        return source if _slices_everything(node) else None
    if is_op(node, "Pad"):
        return source if len(node.inputs) > 1 and _is_all(node.inputs[1], 0) else None
    if is_op(node, "Dropout"):
        return source if len(node.inputs) < 3 or _is_all(node.inputs[2], 0) else None
    if is_op(node, "Expand", *_RESHAPES):
        shape = static_shape(source)
        return source if shape is not None and shape == static_shape(node.outputs[0]) else None
    return None


def _is_all(value: ir.Value | None, number: float) -> bool:
    array = constant(value)
    return array is not None and array.dtype.kind in "fiub" and bool(np.all(array == number))


def _neutral(node: ir.Node) -> ir.Value | None:
    """Return the operand that is left when the other one is the operator's neutral number and widens nothing."""
    left, right = node.inputs
    pairs = [(left, right)] + ([(right, left)] if node.op_type in _COMMUTATIVE else [])
    for source, other in pairs:
        if source is None or other is None or not _is_all(other, _NEUTRAL[node.op_type]):
            continue
        if constant(source) is not None:
            continue
        if other.const_value is None or other.const_value.dtype != source.dtype:
            continue
        if len(other.const_value.shape) == 0 or _widens_not(source, tuple(other.const_value.shape.numpy())):
            return source
    return None


def _widens_not(source: ir.Value, other: tuple[int, ...]) -> bool:
    if source.shape is None or len(other) > len(source.shape):
        return False
    tail = tuple(source.shape)[len(source.shape) - len(other) :]
    return all(size in (1, dim) for dim, size in zip(tail, other, strict=True))


def _slices_everything(node: ir.Node) -> bool:
    if len(node.inputs) < 3:
        return False
    starts, ends = constant(node.inputs[1]), constant(node.inputs[2])
    steps = node.inputs[4] if len(node.inputs) > 4 else None
    if static_shape(node.inputs[0]) is not None and static_shape(node.inputs[0]) == static_shape(node.outputs[0]):
        return steps is None or _is_all(steps, 1)
    if starts is None or ends is None or ends.dtype.kind not in "iu" or not (steps is None or _is_all(steps, 1)):
        return False
    return bool(np.all(starts == 0)) and bool(np.all(ends.astype(np.int64) >= np.iinfo(np.int32).max))


def _merge_transposes(model: ir.Model, node: ir.Node) -> bool:
    inner = producer(node.inputs[0], "Transpose") if is_op(node, "Transpose") else None
    if inner is None or inner.inputs[0] is None or not is_private(inner.outputs[0]):
        return False
    first, second = attribute_ints(inner, "perm"), attribute_ints(node, "perm")
    if not first or len(first) != len(second):
        return False
    perm = tuple(first[axis] for axis in second)
    output = node.outputs[0]
    replace_output(node, add_node(model, node, "Transpose", [inner.inputs[0]], {"perm": perm}, like=output))
    return True


def _merge_reshapes(model: ir.Model, node: ir.Node) -> bool:
    """Let a reshape read what the reshape before it read, when the result has at most one unknown dimension."""
    inner = producer(node.inputs[0], *_RESHAPES) if is_op(node, *_RESHAPES) else None
    if inner is None or inner.inputs[0] is None or not is_private(inner.outputs[0]):
        return False
    return _as_reshape(model, node, inner.inputs[0])


def _as_reshape(model: ir.Model, node: ir.Node, source: ir.Value) -> bool:
    output = node.outputs[0]
    if output.shape is None or any(dim == 0 for dim in output.shape):
        return False
    dims = [dim if isinstance(dim, int) else -1 for dim in output.shape]
    if dims.count(-1) > 1:
        return False
    shape = add_initializer(model, f"{output.name}_shape", np.array(dims, dtype=np.int64))
    replace_output(node, add_node(model, node, "Reshape", [source, shape], like=output))
    return True


def _transpose_as_reshape(model: ir.Model, node: ir.Node) -> bool:
    source = node.inputs[0] if is_op(node, "Transpose") else None
    shape, perm = (None, ()) if source is None else (source.shape, attribute_ints(node, "perm"))
    if source is None or shape is None or not perm or rank(node.outputs[0]) != len(perm):
        return False
    moved = [axis for axis in perm if shape[axis] != 1]
    if moved != sorted(moved) or math.prod(dim for dim in shape if isinstance(dim, int)) == 0:
        return False
    return _as_reshape(model, node, source)


def _undo_transposes(model: ir.Model, node: ir.Node) -> bool:
    """Let one Reshape replace Transpose, a reshape that only adds or removes dimensions of 1, and Transpose back."""
    middle = producer(node.inputs[0], *_RESHAPES) if is_op(node, "Transpose") else None
    first = producer(middle.inputs[0], "Transpose") if middle is not None else None
    source = first.inputs[0] if first is not None else None
    if middle is None or first is None or source is None:
        return False
    if not (is_private(first.outputs[0]) and is_private(middle.outputs[0])):
        return False
    before, after = _moved_dims(first.outputs[0]), _moved_dims(middle.outputs[0])
    there, back = attribute_ints(first, "perm"), attribute_ints(node, "perm")
    if before is None or after is None or not there or not back:
        return False
    if [dim for _, dim in before] != [dim for _, dim in after]:
        return False
    origin = {position: there[axis] for (position, _), (axis, _) in zip(after, before, strict=True)}
    order = [origin[axis] for axis in back if axis in origin]
    return order == sorted(order) and _as_reshape(model, node, source)


def _moved_dims(value: ir.Value) -> list[tuple[int, object]] | None:
    """Return (position, dimension) of all dimensions but 1; None when one has neither number nor name."""
    if value.shape is None or any(isinstance(dim, ir.SymbolicDim) and dim.value is None for dim in value.shape):
        return None
    return [(axis, dim) for axis, dim in enumerate(value.shape) if dim != 1]
