"""Reductions over one axis, read in the spellings that exporters use; nothing here changes a graph.

A reduced value that keeps its axis, as a dimension of 1, broadcasts back over what it was reduced from. Exporters write
that with keepdims, or with a Reshape or Unsqueeze somewhere behind the reduction.
"""

import math
from dataclasses import dataclass

import onnx_ir as ir

from converters.passes.matching import (
    attribute_int,
    attribute_ints,
    constant,
    producer,
    rank,
    scaled,
    static_shape,
)

_RESHAPES = ("Reshape", "Unsqueeze", "Squeeze")
_UNARY = ("Sqrt", "Reciprocal", "Relu")
_BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Pow")
_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax")


@dataclass(frozen=True)
class Reduction:
    """`source` reduced over one `axis`, which is counted from the front."""

    source: ir.Value
    axis: int


def past_reshapes(value: ir.Value) -> ir.Value:
    """Return the value that reshapes only gave another shape."""
    node = producer(value, *_RESHAPES)
    while node is not None and node.inputs[0] is not None:
        value = node.inputs[0]
        node = producer(value, *_RESHAPES)
    return value


def read_reduction(value: ir.Value, op_type: str) -> Reduction | None:
    """Read a value as a reduction over one axis, through reshapes; the shape is left to `is_kept`."""
    node = producer(past_reshapes(value), op_type)
    source = None if node is None else node.inputs[0]
    dims, axes = rank(source), () if node is None else _axes(node)
    return Reduction(source, axes[0] % dims) if source is not None and dims and len(axes) == 1 else None


def read_mean(value: ir.Value) -> Reduction | None:
    """Read a value as a mean: ReduceMean, or ReduceSum over n elements times 1 / n."""
    inner = past_reshapes(value)
    mean, parts = read_reduction(inner, "ReduceMean"), scaled(inner)
    if mean is not None or parts is None:
        return mean
    total = read_reduction(parts[0], "ReduceSum")
    count = None if total is None or total.source.shape is None else total.source.shape[total.axis]
    return total if isinstance(count, int) and math.isclose(parts[1] * count, 1.0, rel_tol=1e-6) else None


def is_kept(value: ir.Value, reduction: Reduction) -> bool:
    """Whether `value`, made of this reduction, broadcasts back over its source along its axis alone."""
    if _keeps_dimension(value):
        return True
    shape, wanted = static_shape(value), static_shape(reduction.source)
    if shape is None or wanted is None or len(shape) > len(wanted):
        return False
    full = (1,) * (len(wanted) - len(shape)) + shape
    return full == (*wanted[: reduction.axis], 1, *wanted[reduction.axis + 1 :])


def _keeps_dimension(value: ir.Value | None) -> bool:
    """Whether only keepdims and elementwise nodes made the value, so that it is kept whatever the shapes are."""
    node = producer(value, *_REDUCTIONS, *_UNARY, *_BINARY)
    if node is None:
        return False
    if node.op_type in _REDUCTIONS:
        return attribute_int(node, "keepdims", 1) == 1
    return all(constant(part) is not None or _keeps_dimension(part) for part in node.inputs)


def _axes(node: ir.Node) -> tuple[int, ...]:
    if len(node.inputs) < 2:
        return attribute_ints(node, "axes")
    array = constant(node.inputs[1])
    return () if array is None else tuple(int(axis) for axis in array.reshape(-1))
