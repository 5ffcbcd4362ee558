"""x + x * gate becomes x * (gate + 1) where the gate is small, on CPUs.

A squeeze-and-excite block with a residual multiplies a picture by one number for each channel and adds the picture
again. Adding 1 to the gate instead saves a pass over the picture.
"""

import math

import numpy as np
import onnx_ir as ir

from converters.passes.matching import constant, is_op, is_private, nodes_of, producer
from converters.passes.result import PassResult
from converters.passes.rewriting import add_initializer, add_node, replace_output
from edgert.profile import DeviceProfile

MIN_RATIO = 16
"""How many times as many elements as the gate the value must have."""


def gate_with_residual(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Write Add(x, Mul(x, gate)) as Mul(x, Add(gate, 1)) where x has at least 16 times as many elements as the gate.

    Only on a CPU, float32, known sizes behind the batch, and where nothing else reads the product.
    """
    if profile.processor != "cpu":
        return PassResult(0)
    return PassResult(sum(_rewrite(model, node) for node in nodes_of(model) if is_op(node, "Add")))


def _rewrite(model: ir.Model, node: ir.Node) -> bool:
    for value, product in (node.inputs, reversed(node.inputs)):
        mul = producer(product, "Mul")
        if mul is None or value is None or product is None or not is_private(product) or value not in mul.inputs:
            continue
        gate = next((other for other in mul.inputs if other is not value), None)
        if gate is None or constant(gate) is not None or not _is_small(gate, value):
            continue
        one = add_initializer(model, f"{node.outputs[0].name}_one", np.ones((), np.float32))
        more = add_node(model, mul, "Add", [gate, one], like=gate)
        replace_output(node, add_node(model, node, "Mul", [value, more], like=node.outputs[0]))
        return True
    return False


def _is_small(gate: ir.Value, value: ir.Value) -> bool:
    """Whether the gate is spread over many elements of the value, and the value keeps its shape."""
    if value.dtype != ir.DataType.FLOAT or value.shape is None or gate.shape is None:
        return False
    if len(gate.shape) != len(value.shape) or gate.shape[0] != value.shape[0]:
        return False
    inner = [_behind_batch(one) for one in (gate, value)]
    return None not in inner and math.prod(inner[0] or ()) * MIN_RATIO <= math.prod(inner[1] or ())


def _behind_batch(value: ir.Value) -> tuple[int, ...] | None:
    """Return the dimensions but the first when they are numbers."""
    dims = tuple(value.shape or ())[1:]
    return tuple(int(dim) for dim in dims if isinstance(dim, int)) if all(isinstance(d, int) for d in dims) else None
