"""A product of several Mul and Div nodes read as one: a number times a list of factors, in any order."""

from dataclasses import dataclass

import onnx_ir as ir

from converters.passes.matching import constant, is_private, keeps_rank, producer, scalar


@dataclass(frozen=True)
class Product:
    """`number` times the product of `factors`, none of which is a scalar constant."""

    number: float
    factors: tuple[ir.Value, ...]


def read_product(value: ir.Value, stop: ir.Value | None = None) -> Product:
    """Read a value as a product, through Mul nodes, Div by a scalar, and squares and cubes written as Pow.

    Looks only through values that nothing else uses; `stop` is never looked through.
    """
    return Product(*_collect(value, stop, top=True))


def _collect(value: ir.Value, stop: ir.Value | None, top: bool) -> tuple[float, tuple[ir.Value, ...]]:
    node = producer(value, "Mul", "Div", "Pow")
    if node is None or value is stop or not (top or is_private(value)) or len(node.inputs) != 2:
        return 1.0, (value,)
    left, right = node.inputs
    if left is None or right is None:
        return 1.0, (value,)
    number = scalar(right)
    if node.op_type == "Pow":
        return (1.0, (left,) * int(number)) if number in (2.0, 3.0) and keeps_rank(left, right) else (1.0, (value,))
    if number is not None and keeps_rank(left, right) and constant(left) is None:
        if node.op_type == "Div" and number == 0:
            return 1.0, (value,)
        inner, factors = _collect(left, stop, top=False)
        return (inner * number if node.op_type == "Mul" else inner / number), factors
    if node.op_type == "Div":
        return 1.0, (value,)
    number = scalar(left)
    if number is not None and keeps_rank(right, left):
        inner, factors = _collect(right, stop, top=False)
        return inner * number, factors
    first, second = _collect(left, stop, top=False), _collect(right, stop, top=False)
    return first[0] * second[0], first[1] + second[1]
