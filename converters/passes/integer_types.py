"""A quantized graph in the integer types that the device's kernels take: the same steps, counted from another zero."""

import numpy as np
import onnx_ir as ir

from converters.passes.matching import constant, is_op, label, nodes_of, producer
from converters.passes.result import PassResult
from converters.passes.rewriting import add_initializer, drop_unused_initializers, fresh_name, replace_output
from edgert.profile import DeviceProfile

HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose second input is a weight; other constants are operands like activations."""

_SHIFTS = {
    (ir.DataType.INT8, ir.DataType.UINT8): 128,
    (ir.DataType.UINT8, ir.DataType.INT8): -128,
    (ir.DataType.INT16, ir.DataType.UINT16): 32768,
}
_TYPES = {"int8": ir.DataType.INT8, "uint8": ir.DataType.UINT8}

Shift = tuple[ir.DataType, int]
"""The type to change to, and what to add to the integers."""


def integer_types(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Give the integers between QuantizeLinear and DequantizeLinear, and constants, the types that the profile names.

    Scales stay and zero points move with the integers, so that each stands for the same real number. Inputs and outputs
    of the graph keep their types: a pair of Q and DQ stands between them and the rest. 16-bit activations become uint16
    on an NPU. uint8 weights stay, for their zero points may be anywhere. A change is one quantized value, or one pair.
    """
    reason = _refusal(model, profile)
    if reason:
        return PassResult(0, (reason,))
    changes, declined = 0, []
    moved: dict[tuple[str, int], ir.Value] = {}
    for node in nodes_of(model):
        if not is_op(node, "QuantizeLinear", "DequantizeLinear"):
            continue
        shift = _shift(node, profile)
        if shift is None:
            continue
        done = _change(model, node, shift, moved)
        changes += done
        if not done:
            declined.append(f"{label(node)}: its zero point is not constant, or other nodes read its integers")
    return PassResult(changes, tuple(declined))


def _refusal(model: ir.Model, profile: DeviceProfile) -> str:
    """Return why this graph keeps its types on this device, "" where it does not."""
    quantization = profile.quantization
    if quantization.activation == "uint8" and quantization.weight == "int8" and quantization.reduce_range:
        return "this processor's sums of uint8 and int8 products saturate; its sums of equal types do not"
    weights = {node.inputs[0].dtype for node in nodes_of(model) if _is_weight(node) and node.inputs[0] is not None}
    if quantization.activation == "int8" and ir.DataType.UINT8 in weights:
        return "there are no kernels for int8 activations and uint8 weights"
    return ""


def _is_weight(node: ir.Node) -> bool:
    """Return whether the node is a DQ of a constant that is a weight for all that read it."""
    if not is_op(node, "DequantizeLinear") or constant(node.inputs[0]) is None:
        return False
    return all(is_op(use.node, *HEAVY) and use.idx == 1 for use in node.outputs[0].uses())


def _shift(node: ir.Node, profile: DeviceProfile) -> Shift | None:
    """Return how the integers of a Q, of a DQ of an input, or of a DQ of a constant change; None where they stay."""
    source = node.inputs[0]
    is_constant = constant(source) is not None
    if is_op(node, "DequantizeLinear") and not is_constant and (source is None or not source.is_graph_input()):
        return None  # the Q before it takes care of it
    if _is_converted(node):
        return None
    value = source if is_op(node, "DequantizeLinear") else node.outputs[0]
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    dtype = zero_point.dtype if zero_point is not None else (value.dtype if value is not None else None)
    if dtype is None:
        return None
    if _is_weight(node):
        wanted = ir.DataType.UINT8 if profile.quantization.weight == "uint8" else dtype
    elif dtype == ir.DataType.INT16:
        wanted = ir.DataType.UINT16 if profile.processor == "npu" else dtype
    else:
        wanted = _TYPES[profile.quantization.activation]
    step = _SHIFTS.get((dtype, wanted))
    return None if step is None else (wanted, step)


def _is_converted(node: ir.Node) -> bool:
    """Return whether integers of the graph's interface meet others at once, as a pair that was put in lets them."""
    source, output = node.inputs[0], node.outputs[0]
    if is_op(node, "QuantizeLinear"):
        return output.is_graph_output() and producer(source, "DequantizeLinear") is not None
    readers = list(output.consumers())
    inside = source is not None and source.is_graph_input() and not output.is_graph_output()
    return inside and bool(readers) and all(is_op(reader, "QuantizeLinear") for reader in readers)


def _change(model: ir.Model, node: ir.Node, shift: Shift, moved: dict[tuple[str, int], ir.Value]) -> bool:
    if len(node.inputs) < 3 or constant(node.inputs[2]) is None:
        return False
    if is_op(node, "DequantizeLinear"):
        if constant(node.inputs[0]) is not None:
            _move_constant(model, node, shift, moved)
        else:
            _put_pair(model, node, _moved(model, node.inputs[2], shift, moved))
        return True
    if node.outputs[0].is_graph_output():
        _read_before(node, _put_pair(model, node, _moved(model, node.inputs[2], shift, moved)))
        return True
    if not all(is_op(user, "DequantizeLinear") for user in node.outputs[0].consumers()):
        return False
    _retype(node, _moved(model, node.inputs[2], shift, moved))
    return True


def _moved(model: ir.Model, value: ir.Value | None, shift: Shift, moved: dict[tuple[str, int], ir.Value]) -> ir.Value:
    """Return a constant with its integers moved; asked for again, the same initializer."""
    dtype, step = shift
    array = constant(value)
    assert value is not None and array is not None
    key = (str(value.name), step)
    if key not in moved:
        integers = (array.astype(np.int64) + step).astype(dtype.numpy())
        moved[key] = add_initializer(model, f"{value.name}_{dtype.name.lower()}", integers)
    return moved[key]


def _move_constant(model: ir.Model, node: ir.Node, shift: Shift, moved: dict[tuple[str, int], ir.Value]) -> None:
    old = [node.inputs[0], node.inputs[2]]
    for index in (0, 2):
        node.replace_input_with(index, _moved(model, node.inputs[index], shift, moved))
    drop_unused_initializers([value for value in old if value is not None])


def _retype(node: ir.Node, zero_point: ir.Value) -> None:
    """Let a QuantizeLinear and the DequantizeLinear behind it use another zero point."""
    old = node.inputs[2]
    for user in (node, *node.outputs[0].consumers()):
        user.replace_input_with(2, zero_point)
    assert zero_point.dtype is not None and old is not None
    node.outputs[0].type = ir.TensorType(zero_point.dtype)  # a clone shares the old one with its model
    drop_unused_initializers([old])


def _read_before(node: ir.Node, real: ir.Value) -> None:
    """Let the readers of an output's integers read the real numbers before its Q, which are the same."""
    for user in list(node.outputs[0].consumers()):
        if is_op(user, "DequantizeLinear") and not user.outputs[0].is_graph_output():
            replace_output(user, real)


def _put_pair(model: ir.Model, node: ir.Node, zero_point: ir.Value) -> ir.Value:
    """Put Q and DQ with another zero point on the real side of the Q of an output or the DQ of an input."""
    before = is_op(node, "QuantizeLinear")
    real = node.inputs[0] if before else node.outputs[0]
    assert real is not None and node.graph is not None
    users = [(node, 0)] if before else list(real.uses())
    first = ir.node("QuantizeLinear", [real, node.inputs[1], zero_point], name=fresh_name(model, f"{real.name}_Q"))
    _describe(first, zero_point.type, real)
    parameters = first.inputs[1:]
    second = ir.node("DequantizeLinear", [first.outputs[0], *parameters], name=fresh_name(model, f"{real.name}_DQ"))
    _describe(second, real.type, real)
    if before:
        node.graph.insert_before(node, [first, second])
    else:
        node.graph.insert_after(node, [first, second])
    for user, index in users:
        user.replace_input_with(index, second.outputs[0])
    return second.outputs[0]


def _describe(node: ir.Node, kind: ir.TypeProtocol | None, like: ir.Value) -> None:
    output = node.outputs[0]
    output.name, output.type = node.name, kind
    output.shape = None if like.shape is None else like.shape.copy()
