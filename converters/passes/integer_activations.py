"""Activations of a quantized graph in the integer type that the device's kernels take: the same steps, counted anew."""

import numpy as np
import onnx_ir as ir

from converters.passes.matching import constant, is_op, label, nodes_of
from converters.passes.result import PassResult
from converters.passes.rewriting import add_initializer, fresh_name, replace_output
from edgert.profile import DeviceProfile

_SHIFTS = {
    (ir.DataType.INT8, ir.DataType.UINT8): 128,
    (ir.DataType.UINT8, ir.DataType.INT8): -128,
    (ir.DataType.INT16, ir.DataType.UINT16): 32768,
}
_TYPES = {"int8": ir.DataType.INT8, "uint8": ir.DataType.UINT8}


def integer_activations(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Give the values between QuantizeLinear and DequantizeLinear the profile's type for activations.

    Scales stay, zero points move with the type, so every value stands for the same real number. Inputs, outputs and
    weights keep their types: a pair of Q and DQ stands between them and the rest. 16-bit activations become uint16,
    which is what a processor with them takes. A change is one quantized value, or one pair put in.
    """
    reason = _refusal(model, profile)
    if reason:
        return PassResult(0, (reason,))
    changes, declined = 0, []
    zero_points: dict[tuple[str, int], ir.Value] = {}
    for node in nodes_of(model):
        if is_op(node, "QuantizeLinear"):
            shift = _shift(node.outputs[0].dtype or _zero_type(node), profile)
        elif is_op(node, "DequantizeLinear") and node.inputs[0] is not None and node.inputs[0].is_graph_input():
            shift = _shift(_zero_type(node), profile)
        else:
            continue
        if shift is None:
            continue
        if len(node.inputs) < 3 or constant(node.inputs[2]) is None:
            declined.append(f"{label(node)}: its zero point is not constant")
        elif is_op(node, "QuantizeLinear") and node.outputs[0].is_graph_output():
            _read_before(node, _put_pair(model, node, _shifted(model, node, shift, zero_points)))
            changes += 1
        elif is_op(node, "DequantizeLinear"):
            _put_pair(model, node, _shifted(model, node, shift, zero_points))
            changes += 1
        elif all(is_op(user, "DequantizeLinear") for user in node.outputs[0].consumers()):
            _retype(node, _shifted(model, node, shift, zero_points))
            changes += 1
        else:
            declined.append(f"{label(node)}: other nodes read the integers")
    return PassResult(changes, tuple(declined))


def _refusal(model: ir.Model, profile: DeviceProfile) -> str:
    """Return why this graph keeps its types on this device, "" where it does not."""
    quantization = profile.quantization
    weights = {
        node.inputs[0].dtype
        for node in nodes_of(model)
        if is_op(node, "DequantizeLinear") and constant(node.inputs[0]) is not None and node.inputs[0] is not None
    }
    if quantization.activation == "uint8" and quantization.reduce_range:
        return "this processor's sums of uint8 and int8 products saturate; its sums of equal types do not"
    if quantization.activation == "int8" and ir.DataType.UINT8 in weights:
        return "there are no kernels for int8 activations and uint8 weights"
    return ""


def _shift(dtype: ir.DataType | None, profile: DeviceProfile) -> tuple[ir.DataType, int] | None:
    """Return the type to change to and what to add to integers of `dtype`; None where they stay."""
    if dtype is None:
        return None
    wide = dtype == ir.DataType.INT16
    wanted = ir.DataType.UINT16 if wide else _TYPES[profile.quantization.activation]
    shift = _SHIFTS.get((dtype, wanted))
    return None if shift is None or (wide and profile.processor != "npu") else (wanted, shift)


def _zero_type(node: ir.Node) -> ir.DataType | None:
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    return None if zero_point is None else zero_point.dtype


def _shifted(
    model: ir.Model, node: ir.Node, shift: tuple[ir.DataType, int], made: dict[tuple[str, int], ir.Value]
) -> ir.Value:
    """Return the zero point of `node`, moved; equal ones are one initializer."""
    old = node.inputs[2]
    dtype, step = shift
    assert old is not None
    key = (str(old.name), step)
    if key not in made:
        array = constant(old)
        assert array is not None
        made[key] = add_initializer(model, f"{old.name}_{dtype.name.lower()}", (array.astype(np.int64) + step).astype(dtype.numpy()))
    return made[key]


def _retype(node: ir.Node, zero_point: ir.Value) -> None:
    """Let a QuantizeLinear and the DequantizeLinear behind it use another zero point."""
    node.replace_input_with(2, zero_point)
    assert zero_point.dtype is not None
    node.outputs[0].type = ir.TensorType(zero_point.dtype)  # a clone shares the old one with its model
    for user in node.outputs[0].consumers():
        user.replace_input_with(2, zero_point)


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
    first.outputs[0].name, first.outputs[0].type, first.outputs[0].shape = first.name, zero_point.type, real.shape
    second = ir.node("DequantizeLinear", [first.outputs[0], *first.inputs[1:]], name=fresh_name(model, f"{real.name}_DQ"))
    second.outputs[0].name, second.outputs[0].type, second.outputs[0].shape = second.name, real.type, real.shape
    if before:
        node.graph.insert_before(node, [first, second])
    else:
        node.graph.insert_after(node, [first, second])
    for user, index in users:
        user.replace_input_with(index, second.outputs[0])
    return second.outputs[0]
