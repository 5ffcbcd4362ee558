"""A softmax that an exporter spelled out becomes Softmax."""

import onnx_ir as ir

from converters.passes.matching import is_op, is_private, label, nodes_of, producer, rank
from converters.passes.reductions import is_kept, past_reshapes, read_reduction
from converters.passes.result import PassResult
from converters.passes.rewriting import add_node, replace_output
from edgert.profile import DeviceProfile

_ONE_AXIS_OPSET = 13


def fuse_softmax(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Replace exp(x) / sum(exp(x)) over one axis; where x is y minus its maximum over that axis, by Softmax of y.

    The division may be a Mul by a Reciprocal; sum and maximum keep their axis, or get it back by a reshape. What else
    was subtracted stays. Without a subtraction, Softmax also computes what would overflow. An axis that is not the
    last one is declined below opset 13, where Softmax goes over all dimensions from its axis on, and off an NPU.
    """
    opset = model.graph.opset_imports.get("", 0)
    changes, declined = 0, list[str]()
    for node in nodes_of(model):
        found = None if node.graph is None else _read(node)
        if found is None:
            continue
        source, axis = found
        reason = "" if axis + 1 == rank(source) else _inner_axis_defect(opset, profile)
        if reason:
            declined.append(f"{label(node)}: Softmax over axis {axis}, which is not the last one, {reason}")
            continue
        replace_output(node, add_node(model, node, "Softmax", [source], {"axis": axis}, like=node.outputs[0]))
        changes += 1
    return PassResult(changes, tuple(declined))


def _inner_axis_defect(opset: int, profile: DeviceProfile) -> str:
    """Return why Softmax over an axis that is not the last one is no good here, or ""."""
    if opset < _ONE_AXIS_OPSET:
        return f"needs opset {_ONE_AXIS_OPSET}, this graph has {opset}"
    # ONNX Runtime 1.31 on an EPYC: [1, 21, 128, 128] takes 13 ms as Softmax and 1.3 ms spelled out. An NPU needs it for
    # the accuracy: integers hold exponentials and their sum badly.
    return "" if profile.processor == "npu" else "is worth its transposes on an NPU only"


def _read(node: ir.Node) -> tuple[ir.Value, int] | None:
    """Read a Div by the sum, or a Mul by its Reciprocal, as (what Softmax takes, axis)."""
    if not is_op(node, "Div", "Mul") or len(node.inputs) != 2:
        return None
    orders = [tuple(node.inputs)] if node.op_type == "Div" else [tuple(node.inputs), tuple(node.inputs)[::-1]]
    for power, divisor in orders:
        total = divisor if node.op_type == "Div" else _inverted(divisor)
        exp = producer(power, "Exp")
        if exp is None or total is None or not is_private(total):
            continue
        axis = _sum_axis(exp, total)
        if axis is not None and exp.inputs[0] is not None:
            return _unshifted(exp.inputs[0], axis), axis
    return None


def _inverted(value: ir.Value | None) -> ir.Value | None:
    node = producer(value, "Reciprocal")
    return node.inputs[0] if node is not None and value is not None and is_private(value) else None


def _sum_axis(exp: ir.Node, total: ir.Value) -> int | None:
    """Return the axis when `total` is the sum of `exp`, which nothing but the sum and the division uses."""
    found, power = read_reduction(total, "ReduceSum"), exp.outputs[0]
    if found is None or found.source is not power or not is_kept(total, found):
        return None
    is_free = len(power.uses()) == 2 and not power.is_graph_output() and is_private(past_reshapes(total))
    return found.axis if is_free else None


def _unshifted(value: ir.Value, axis: int) -> ir.Value:
    """Return x where the value is x - max(x) over the axis, else the value: Softmax is the same for both."""
    node = producer(value, "Sub")
    if node is None or not is_private(value) or node.inputs[0] is None or node.inputs[1] is None:
        return value
    source, largest = node.inputs[0], node.inputs[1]
    found = read_reduction(largest, "ReduceMax")
    is_shift = found is not None and found.source is source and found.axis == axis and is_kept(largest, found)
    return source if is_shift else value
