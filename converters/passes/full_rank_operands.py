"""One number beside a value whose last dimension is 1 gets as many dimensions as the value, on CPUs.

ONNX Runtime's broadcast takes such a pair for rows of one element: [1, 172, 309, 1] times [1] takes 0.52 ms, times
[1, 1, 1, 1] 0.01 ms, one thread of an EPYC with onnxruntime 1.31. The numbers are the same.
"""

import math

import onnx_ir as ir

from converters.passes.matching import constant, is_op, nodes_of, split_constant
from converters.passes.result import PassResult
from converters.passes.rewriting import add_initializer, drop_unused_initializers
from edgert.profile import DeviceProfile


def full_rank_operands(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Give the constant of an Add, Sub, Mul, Div or Pow the rank of its other operand where that ends in a 1."""
    if profile.processor != "cpu":
        return PassResult(0)
    return PassResult(sum(_rewrite(model, node) for node in nodes_of(model)))


def _rewrite(model: ir.Model, node: ir.Node) -> bool:
    parts = split_constant(node) if is_op(node, "Add", "Sub", "Mul", "Div", "Pow") else None
    if parts is None or parts[0].shape is None or len(parts[0].shape) == 0 or parts[0].shape[-1] != 1:
        return False
    operand = parts[1]
    array, dims = constant(operand), len(parts[0].shape)
    if array is None or array.ndim >= dims or math.prod(array.shape) != 1:
        return False
    full = add_initializer(model, f"{operand.name}_full_rank", array.reshape((1,) * dims))
    node.replace_input_with(list(node.inputs).index(operand), full)
    drop_unused_initializers([operand])
    return True
