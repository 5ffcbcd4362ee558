"""In a quantized graph every node stands between a DequantizeLinear and a QuantizeLinear, as providers look for them.

Exporters leave a Transpose or a Reshape among the integers, or between a DQ and the node that the DQ is for, and a Relu
between a node and its Q. What is put in changes no number: its scale and zero point are those of the Q or DQ beside it.
"""

from collections.abc import Sequence

import onnx_ir as ir

from converters.passes.matching import constant, is_op, nodes_of, producer, scalar
from converters.passes.result import PassResult
from converters.passes.rewriting import can_stand_for, fresh_name, replace_output
from edgert.profile import DeviceProfile

MOVES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Expand", "DepthToSpace", "SpaceToDepth")
"""Nodes whose output holds values of their first input and no others."""

CUTS = ("Relu", "Clip")
"""Nodes that a Q may follow or precede alike: rounding and cutting can change places, for both only ever rise."""

_LIMITS = {
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-32768, 32767),
    ir.DataType.UINT16: (0, 65535),
}


def between_dq_and_q(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Put a Q and a DQ beside every node of MOVES and before every one of CUTS that lacks them.

    A Relu or Clip whose Q cuts as it does goes. A change is one node that got what it lacked, or went.
    """
    del profile
    changes = 0
    cuts = [node for node in nodes_of(model) if is_op(node, *CUTS)]
    for node in cuts:
        changes += _drop(node) or _open(model, node)
    moves = [node for node in nodes_of(model) if is_op(node, *MOVES) and constant(node.inputs[0]) is None]
    for node in moves:
        changes += _lift(model, node)
    for node in moves:
        changes += _close(model, node)
    for node in reversed(moves):
        changes += _open(model, node)
    return PassResult(changes)


def _drop(node: ir.Node) -> bool:
    """Remove a Relu or Clip that only a Q reads whose integers end where it cuts, or sooner."""
    quantizer = _only_quantizer(node.outputs[0])
    bounds = _bounds(node)
    if (
        quantizer is None
        or bounds is None
        or node.inputs[0] is None
        or not can_stand_for(node.inputs[0], node.outputs[0])
    ):
        return False
    scale, zero_point = scalar(quantizer.inputs[1]), _zero_point(quantizer)
    if scale is None or zero_point is None:
        return False
    value, dtype = zero_point
    if dtype not in _LIMITS:
        return False
    low, high = ((limit - value) * scale for limit in _LIMITS[dtype])
    if low < bounds[0] - scale / 2 or high > bounds[1] + scale / 2:
        return False
    replace_output(node, node.inputs[0])
    return True


def _bounds(node: ir.Node) -> tuple[float, float] | None:
    """Return what the node cuts to; None where that is not constant."""
    if is_op(node, "Relu"):
        return 0.0, float("inf")
    found = [float("-inf"), float("inf")]
    for place, value in enumerate(node.inputs[1:3]):
        if value is not None:
            number = scalar(value)
            if number is None:
                return None
            found[place] = number
    return found[0], found[1]


def _zero_point(quantizer: ir.Node) -> tuple[float, ir.DataType | None] | None:
    if len(quantizer.inputs) < 3 or quantizer.inputs[2] is None:
        return 0.0, ir.DataType.UINT8
    value = scalar(quantizer.inputs[2])
    return None if value is None else (value, quantizer.inputs[2].dtype)


def _only_quantizer(value: ir.Value) -> ir.Node | None:
    users = list(value.consumers())
    alone = len(users) == 1 and is_op(users[0], "QuantizeLinear") and not value.is_graph_output()
    return users[0] if alone else None


def _lift(model: ir.Model, node: ir.Node) -> bool:
    """Move a node from the integers behind a Q to the real numbers: DQ before it, Q behind it."""
    source, output = node.inputs[0], node.outputs[0]
    quantizer = producer(source, "QuantizeLinear")
    if quantizer is None or source is None:
        return False
    parameters = quantizer.inputs[1:]
    users = list(output.uses())
    name, was_output = output.name, output.is_graph_output()
    real = _after(model, quantizer, "DequantizeLinear", source, parameters, quantizer.inputs[0])
    node.replace_input_with(0, real)
    integers = _after(model, node, "QuantizeLinear", output, parameters, output)
    integers.type, integers.shape = _type(source.dtype), output.shape
    output.type = _type(real.dtype)
    for user, index in users:
        user.replace_input_with(index, integers)
    if was_output:
        output.name, integers.name = f"{name}_real", name
        outputs = model.graph.outputs
        outputs[:] = [integers if value is output else value for value in outputs]
    return True


def _close(model: ir.Model, node: ir.Node) -> bool:
    """Put Q and DQ behind a node with a DQ before it, where something else than a Q reads it."""
    output, dequantizer = node.outputs[0], producer(node.inputs[0], "DequantizeLinear")
    users = [use for use in output.uses() if not is_op(use.node, "QuantizeLinear")]
    if dequantizer is None or not users:
        return False
    parameters = dequantizer.inputs[1:]
    integers = _after(model, node, "QuantizeLinear", output, parameters, output)
    integers.type = _type(dequantizer.inputs[0].dtype if dequantizer.inputs[0] is not None else None)
    maker = integers.producer()
    assert maker is not None
    real = _after(model, maker, "DequantizeLinear", integers, parameters, output)
    for user, index in users:
        user.replace_input_with(index, real)
    return True


def _open(model: ir.Model, node: ir.Node) -> bool:
    """Put the Q that is behind a node, and its DQ, before it too, where no DQ makes its input."""
    output, source = node.outputs[0], node.inputs[0]
    quantizer = _only_quantizer(output)
    if (
        source is None
        or quantizer is None
        or source.dtype != ir.DataType.FLOAT
        or producer(source, "DequantizeLinear") is not None
    ):
        return False
    parameters = quantizer.inputs[1:]
    first = ir.node("QuantizeLinear", [source, *parameters], name=fresh_name(model, f"{source.name}_Q"))
    _describe(first, quantizer.outputs[0].dtype, source)
    assert node.graph is not None
    node.graph.insert_before(node, first)
    node.replace_input_with(0, _after(model, first, "DequantizeLinear", first.outputs[0], parameters, source))
    return True


def _after(
    model: ir.Model,
    node: ir.Node,
    op_type: str,
    value: ir.Value,
    parameters: Sequence[ir.Value | None],
    like: ir.Value | None,
) -> ir.Value:
    """Insert a Q or DQ of `value` behind `node`, and return its output, typed and shaped as `like`."""
    made = ir.node(op_type, [value, *parameters], name=fresh_name(model, f"{value.name}_{op_type[0]}"))
    _describe(made, like.dtype if like is not None else None, like)
    assert node.graph is not None
    node.graph.insert_after(node, made)
    return made.outputs[0]


def _describe(node: ir.Node, dtype: ir.DataType | None, like: ir.Value | None) -> None:
    node.outputs[0].name = node.name
    node.outputs[0].type = _type(dtype)
    node.outputs[0].shape = None if like is None or like.shape is None else like.shape.copy()


def _type(dtype: ir.DataType | None) -> ir.TensorType | None:
    """Return a type of its own: a cloned model shares those of its values with the first one."""
    return None if dtype is None else ir.TensorType(dtype)
