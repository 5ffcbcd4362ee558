"""Questions that graph passes ask about values and nodes; nothing here changes a graph.

A value is `private` when exactly one node uses it and it is no graph output: only then may a pass make it disappear.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[np.generic]


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether the node is one of these operators of the ONNX domain."""
    return node is not None and node.domain in ("", "ai.onnx") and node.op_type in op_types


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Return the node that makes the value when it is one of these ONNX operators."""
    node = None if value is None else value.producer()
    return node if is_op(node, *op_types) else None


def constant(value: ir.Value | None) -> Array | None:
    """Return the value's array when nothing can change it: an initializer that is no graph input, or a Constant."""
    if value is None or value.is_graph_input() or value.const_value is None:
        return None
    if not value.is_initializer() and producer(value, "Constant") is None:
        return None
    return value.const_value.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """Return the only element of a constant; None when it is not constant or has more than one element."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    array = constant(value)
    if array is None or array.dtype.kind not in "fiu":
        return None
    return float(array.reshape(())[()])


def is_private(value: ir.Value) -> bool:
    """Whether exactly one node uses the value and it is no graph output."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def only_consumer(value: ir.Value) -> ir.Node | None:
    """Return the one node that uses a private value."""
    return next(iter(value.uses())).node if is_private(value) else None


def split_constant(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """Split a two-input node into (variable, constant); Sub and Div only with the constant on the right."""
    if len(node.inputs) != 2:
        return None
    left, right = node.inputs
    if left is None or right is None:
        return None
    if constant(right) is not None and constant(left) is None:
        return left, right
    if is_op(node, "Add", "Mul") and constant(left) is not None and constant(right) is None:
        return right, left
    return None


def scaled(value: ir.Value) -> tuple[ir.Value, float] | None:
    """Read `value` as source x factor (Mul or Div by a scalar constant)."""
    node = producer(value, "Mul", "Div")
    parts = split_constant(node) if node else None
    factor = scalar(parts[1]) if parts else None
    if node is None or parts is None or factor is None or not keeps_rank(parts[0], parts[1]):
        return None
    if node.op_type == "Div":
        return (parts[0], 1.0 / factor) if factor else None
    return parts[0], factor


def shifted(value: ir.Value) -> tuple[ir.Value, float] | None:
    """Read `value` as source + offset (Add or Sub of a scalar constant)."""
    node = producer(value, "Add", "Sub")
    parts = split_constant(node) if node else None
    offset = scalar(parts[1]) if parts else None
    if node is None or parts is None or offset is None or not keeps_rank(parts[0], parts[1]):
        return None
    return parts[0], -offset if node.op_type == "Sub" else offset


def keeps_rank(value: ir.Value, other: ir.Value) -> bool:
    """Whether broadcasting `value` with the one-element `other` gives the shape of `value`."""
    rank = 0 if other.const_value is None else len(other.const_value.shape)
    return rank == 0 or (value.shape is not None and rank <= len(value.shape))


def attribute_int(node: ir.Node, name: str, default: int) -> int:
    """Return an integer attribute or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def attribute_float(node: ir.Node, name: str, default: float) -> float:
    """Return a float attribute or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()


def attribute_ints(node: ir.Node, name: str) -> tuple[int, ...]:
    """Return a list-of-integers attribute; empty when it is absent."""
    attribute = node.attributes.get(name)
    return () if attribute is None else tuple(attribute.as_ints())


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return the shape when every dimension of it is a known number."""
    if value is None or value.shape is None:
        return None
    dims = tuple(dim for dim in value.shape if isinstance(dim, int))
    return dims if len(dims) == len(value.shape) else None


def rank(value: ir.Value | None) -> int | None:
    """Return the number of dimensions when it is known."""
    return None if value is None or value.shape is None else len(value.shape)


def nodes_of(model: ir.Model) -> Iterator[ir.Node]:
    """Yield every node of the model, subgraphs included, as a snapshot that a pass may change while it walks."""
    for graph in tuple(model.graphs()):
        yield from tuple(graph)


def label(node: ir.Node) -> str:
    """Name a node for a message: its name, or its first output where it has no name."""
    return f"{node.op_type} '{node.name or node.outputs[0].name}'"
