"""A row of a matrix that is chosen by multiplying with a one-hot vector is looked up instead, on CPUs.

Exporters of JAX and TensorFlow write an embedding as Equal(x, 0 1 2 ...), Cast, MatMul: for each number a whole row of
zeros with a single 1. The product is a row of the weight, to the bit; what follows row by row, a bias or an activation,
is the same for equal rows and moves into the table, where it is computed once and not for each number.
"""

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
    split_constant,
)
from converters.passes.result import PassResult
from converters.passes.rewriting import add_initializer, add_node, replace_output
from edgert.profile import DeviceProfile

MAX_TABLE = 1 << 20
"""A larger table (elements) is not copied: it may be the model's largest weight."""

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
_INTEGERS = (ir.DataType.INT32, ir.DataType.INT64)
_ROW_WISE = ("Relu", "Gelu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "HardSigmoid", "HardSwish", "Erf", "Sqrt", "Neg")


def one_hot_as_gather(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Write MatMul(Cast(Equal(x, [0, 1, ..., n - 1])), w) as Gather, and move what follows row by row into the table.

    Only on a CPU, for integers x [..., 1] and a constant w [n, m]. A number outside of 0..n-1 gives zeros, as before.
    """
    if profile.processor != "cpu":
        return PassResult(0)
    changes, declined = 0, list[str]()
    for node in nodes_of(model):
        found = _one_hot(node) if is_op(node, "MatMul") else None
        if found is None:
            continue
        table = constant(node.inputs[1])
        if table is None or table.ndim != 2 or table.size > MAX_TABLE or not np.all(np.isfinite(table)):
            declined.append(f"{label(node)}: its weight is not a small constant of finite numbers")
            continue
        _write(model, node, found, table)
        changes += 1
    return PassResult(changes, tuple(declined))


def _one_hot(node: ir.Node) -> ir.Value | None:
    """Return x of MatMul(Cast(Equal(x, [0, 1, ..., n - 1]))), integers of shape [..., 1]."""
    cast = producer(node.inputs[0], "Cast")
    equal = producer(cast.inputs[0], "Equal") if cast is not None and cast.outputs[0].dtype in _FLOATS else None
    if cast is None or equal is None or not (is_private(cast.outputs[0]) and is_private(equal.outputs[0])):
        return None
    for value, numbers in (equal.inputs, reversed(equal.inputs)):
        array = constant(numbers)
        if value is None or array is None or value.dtype not in _INTEGERS or value.shape is None:
            continue
        counts = array.size == array.shape[-1:][0] if array.ndim else False
        if counts and array.ndim <= len(value.shape) and value.shape[-1] == 1:
            return value if np.array_equal(array.reshape(-1), np.arange(array.size)) else None
    return None


def _write(model: ir.Model, node: ir.Node, value: ir.Value, table: Array) -> None:
    """Look up x + 1 among rows of which the first and the last are zeros: those of all numbers outside."""
    name, row = str(node.outputs[0].name), np.zeros((1, table.shape[1]), table.dtype)
    integer = np.dtype(value.dtype.numpy()) if value.dtype is not None else np.dtype(np.int64)

    def number(what: str, content: int | list[int]) -> ir.Value:
        dtype = np.int64 if isinstance(content, list) else integer
        return add_initializer(model, f"{name}_{what}", np.array(content, dtype))

    flat = add_node(model, node, "Squeeze", [value, number("last_axis", [-1])])
    inside = add_node(model, node, "Clip", [flat, number("below", -1), number("above", len(table))])
    place = add_node(model, node, "Add", [inside, number("one", 1)])
    for part in (flat, inside, place):
        part.type, part.shape = value.type, ir.Shape(list(value.shape)[:-1]) if value.shape is not None else None
    rows = add_initializer(model, f"{name}_table", np.concatenate([row, table, row]))
    last, rows = _follow(model, node, rows)
    replace_output(last, add_node(model, last, "Gather", [rows, place], {"axis": 0}, like=last.outputs[0]))


def _follow(model: ir.Model, node: ir.Node, rows: ir.Value) -> tuple[ir.Node, ir.Value]:
    """Apply to the table what follows the product row by row; return the last such node and the new table."""
    last = node
    while (following := only_consumer(last.outputs[0])) is not None and following.graph is node.graph:
        if is_op(following, *_ROW_WISE):
            attributes = dict(following.attributes)
            inputs: list[ir.Value | None] = [rows]
        elif (operand := _per_column(following, last.outputs[0])) is not None:
            attributes, columns = {}, add_initializer(model, f"{rows.name}_columns", operand)
            inputs = [columns if value is not last.outputs[0] else rows for value in following.inputs]
        else:
            break
        table = ir.node(following.op_type, inputs, attributes=attributes, version=following.version)
        table.outputs[0].name = table.name = f"{following.outputs[0].name}_rows"
        table.outputs[0].type, table.outputs[0].shape = rows.type, rows.shape
        node.graph.insert_before(node, table)  # type: ignore[union-attr]
        last, rows = following, table.outputs[0]
    return last, rows


def _per_column(node: ir.Node, value: ir.Value) -> Array | None:
    """Return the constant of an Add, Sub, Mul or Div that has one number, or one for each column."""
    parts = split_constant(node) if is_op(node, "Add", "Sub", "Mul", "Div") else None
    array = constant(parts[1]) if parts is not None and parts[0] is value else None
    if array is None or value.shape is None or array.ndim > len(value.shape) or array.size != (array.shape or (1,))[-1]:
        return None
    return array.reshape(-1)
