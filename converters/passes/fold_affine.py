"""Multiplications and additions of constants disappear into the weights beside them."""

import numpy as np
import onnx_ir as ir

from converters.passes.linear import (
    Linear,
    Vector,
    bias_of_offset,
    input_vector,
    output_vector,
    read_linear,
    scale_input,
    scale_output,
    write_linear,
)
from converters.passes.matching import (
    attribute_float,
    attribute_int,
    constant,
    is_op,
    is_private,
    label,
    nodes_of,
    only_consumer,
    producer,
    split_constant,
)
from converters.passes.result import PassResult
from converters.passes.rewriting import add_initializer, drop_dead, drop_unused_initializers, replace_output
from edgert.profile import DeviceProfile

_AFFINE = ("Mul", "Div", "Add", "Sub", "Neg", "BatchNormalization")


def fold_affine(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Fold affine nodes into the Conv, ConvTranspose, Gemm or MatMul before or after them.

    After: Neg, Mul, Div, Add and Sub of a scalar or a number per channel, and BatchNormalization; an addition after a
    MatMul stays, but a multiplication after that addition goes into both. Before: Mul and Div always, Add and Sub where
    the node pads nothing; where it pads, a factor in front of the addition still moves on. Only where the value between
    the two is used nowhere else and is no graph output.
    """
    del profile
    changes, declined, again = 0, dict[str, None](), True
    while again:
        declined.clear()
        outcomes = [_fold(model, node) for node in nodes_of(model) if node.graph is not None and is_op(node, *_AFFINE)]
        again = any(outcome is True for outcome in outcomes)
        changes += sum(outcome is True for outcome in outcomes)
        declined.update((reason, None) for reason in outcomes if isinstance(reason, str))
    return PassResult(changes, tuple(declined))


Outcome = bool | str
"""True: folded; False: nothing to fold here; a text: why it was declined."""


def _fold(model: ir.Model, node: ir.Node) -> Outcome:
    if node.graph is None:
        return False
    before = _fold_into_previous(model, node)
    if before is True or is_op(node, "BatchNormalization", "Neg"):
        return before
    after = _fold_into_next(model, node)
    return after if after is True or before is False else before


def _fold_into_previous(model: ir.Model, node: ir.Node) -> Outcome:
    found = _previous(node)
    if found is None:
        return False
    linear, biased = found
    if isinstance(linear, str):
        return linear
    source = biased or linear.node
    if not is_private(linear.node.outputs[0]) or not is_private(source.outputs[0]):
        return f"{label(node)}: the output of {label(source)} is used elsewhere too"
    affine = _affine(node, linear)
    if affine is None:
        return f"{label(node)}: its constant is not one number per channel"
    return _write_after(model, node, linear, biased, *affine)


def _previous(node: ir.Node) -> tuple[Linear | str, ir.Node | None] | None:
    """Find the linear node before `node`, and the Add of a MatMul's bias where one lies between."""
    if is_op(node, "BatchNormalization", "Neg"):
        value: ir.Value | None = node.inputs[0]
    else:
        parts = split_constant(node)
        value = parts[0] if parts else None
    first = None if value is None else value.producer()
    linear = read_linear(first)
    if linear is not None:
        return linear, None
    inner = split_constant(first) if first is not None and is_op(first, "Add") else None
    matmul = producer(inner[0], "MatMul") if inner else None
    linear = read_linear(matmul)
    return None if linear is None or first is None else (linear, first)


def _affine(node: ir.Node, linear: Linear) -> tuple[Vector, Vector] | None:
    """Read a node after `linear` as (factor, offset) per output channel."""
    if is_op(node, "BatchNormalization"):
        return _batch_norm(node, linear)
    if is_op(node, "Neg"):
        return -np.ones(linear.channels), np.zeros(linear.channels)
    parts = split_constant(node)
    operand = constant(parts[1]) if parts else None
    vector = None if operand is None else output_vector(linear, operand, linear.node.outputs[0])
    return None if vector is None else _factor_and_offset(node, vector)


def _factor_and_offset(node: ir.Node, vector: Vector) -> tuple[Vector, Vector] | None:
    one, zero = np.ones_like(vector), np.zeros_like(vector)
    match node.op_type:
        case "Mul":
            return vector, zero
        case "Div":
            return (one / vector, zero) if np.all(vector != 0) else None
        case "Add":
            return one, vector
        case _:
            return one, -vector


def _batch_norm(node: ir.Node, linear: Linear) -> tuple[Vector, Vector] | None:
    parameters = [constant(value) for value in node.inputs[1:5]]
    if attribute_int(node, "training_mode", 0) or len(node.outputs) > 1 or linear.node.op_type == "MatMul":
        return None
    arrays = [array.astype(np.float64) for array in parameters if array is not None]
    if len(arrays) != 4 or any(array.shape != (linear.channels,) for array in arrays):
        return None
    scale, bias, mean, variance = arrays
    factor = scale / np.sqrt(variance + attribute_float(node, "epsilon", 1e-5))
    return (factor, bias - mean * factor) if np.all(np.isfinite(factor)) else None


def _write_after(
    model: ir.Model, node: ir.Node, linear: Linear, biased: ir.Node | None, factor: Vector, offset: Vector
) -> Outcome:
    source = (biased or linear.node).outputs[0]
    if linear.node.op_type == "MatMul":
        return _write_after_matmul(model, node, linear, biased, factor, offset)
    weight, bias = scale_output(linear, factor)
    if np.any(offset) or bias is not None:
        bias = offset if bias is None else bias + offset
    if bias is not None and bias.shape != (linear.channels,) and linear.node.op_type != "Gemm":
        return f"{label(linear.node)}: its bias is not one number per channel"
    if not write_linear(model, linear, weight, bias):
        return f"{label(node)}: the folded weights would overflow"
    replace_output(node, source)
    return True


def _write_after_matmul(
    model: ir.Model, node: ir.Node, linear: Linear, biased: ir.Node | None, factor: Vector, offset: Vector
) -> Outcome:
    if biased is None and np.any(offset):
        return False  # an Add after a MatMul is its bias already
    parts = split_constant(biased) if biased is not None else None
    operand = constant(parts[1]) if parts else None
    old_bias = None if operand is None else output_vector(linear, operand, linear.node.outputs[0])
    if biased is not None and (old_bias is None or parts is None):
        return f"{label(biased)}: its constant is not one number per channel"
    if not write_linear(model, linear, scale_output(linear, factor)[0], None):
        return f"{label(node)}: the folded weights would overflow"
    if biased is None or old_bias is None or operand is None or parts is None:
        replace_output(node, linear.node.outputs[0])
        return True
    bias = add_initializer(model, f"{parts[1].name}_folded", (old_bias * factor + offset).astype(operand.dtype))
    biased.replace_input_with(list(biased.inputs).index(parts[1]), bias)
    replace_output(node, biased.outputs[0])
    return True


def _fold_into_next(model: ir.Model, node: ir.Node) -> Outcome:
    parts = split_constant(node)
    following = only_consumer(node.outputs[0])
    if parts is None or following is None or following.inputs[0] is not node.outputs[0]:
        return False
    linear = read_linear(following)
    operand = constant(parts[1])
    if linear is None or operand is None:
        return False
    if isinstance(linear, str):
        return linear
    vector = input_vector(linear, operand, node.outputs[0])
    affine = None if vector is None else _factor_and_offset(node, vector)
    if affine is None:
        return f"{label(node)}: its constant is not one number per channel"
    return _write_before(model, node, linear, parts[0], *affine)


def _write_before(
    model: ir.Model, node: ir.Node, linear: Linear, source: ir.Value, factor: Vector, offset: Vector
) -> Outcome:
    bias = linear.bias
    if np.any(offset):
        added = bias_of_offset(linear, offset)
        if added is None:
            return _scale_behind_offset(model, node, linear, source, offset) or (
                f"{label(node)}: {label(linear.node)} pads its input, so an offset cannot move through it"
            )
        if linear.node.op_type == "MatMul":
            return False  # it would come back as an Add after the MatMul: nothing gained
        bias = added if bias is None else bias + added
    if not write_linear(model, linear, scale_input(linear, factor), bias):
        return f"{label(node)}: the folded weights would overflow"
    replace_output(node, source)
    return True


def _scale_behind_offset(model: ir.Model, node: ir.Node, linear: Linear, source: ir.Value, offset: Vector) -> bool:
    """Turn factor x + offset in front of a padded Conv into x + offset / factor, the factor in the weight.

    The offset that stays is one number per channel, or one number where it was one.
    """
    inner = producer(source, "Mul", "Div")
    parts = split_constant(inner) if inner is not None and is_private(source) else None
    operand = constant(parts[1]) if parts else None
    vector = None if operand is None else input_vector(linear, operand, source)
    affine = None if vector is None or inner is None else _factor_and_offset(inner, vector)
    own = split_constant(node)
    old = constant(own[1]) if own else None
    if parts is None or affine is None or own is None or old is None or operand is None or not np.all(affine[0] != 0):
        return False
    sign = -1.0 if is_op(node, "Sub") else 1.0
    moved = (sign * offset / affine[0]).astype(old.dtype)
    if not np.all(np.isfinite(moved)) or not write_linear(model, linear, scale_input(linear, affine[0]), linear.bias):
        return False
    shape = old.shape if operand.size == 1 and old.size == 1 else (-1, *(1,) * (linear.weight.ndim - 2))
    moved = moved[:1].reshape(shape) if moved.size and operand.size == 1 and old.size == 1 else moved.reshape(shape)
    node.replace_input_with(list(node.inputs).index(own[1]), add_initializer(model, f"{own[1].name}_moved", moved))
    drop_unused_initializers([own[1]])
    source.replace_all_uses_with(parts[0])
    if inner is not None:
        drop_dead(inner)
    return True
