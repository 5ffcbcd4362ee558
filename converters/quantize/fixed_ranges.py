"""Ranges that come from the mathematics of an op instead of the data: what it can give, and what its readers need.

Which tensor gets which of them is left to `plan`.
"""

import numpy as np
import onnx_ir as ir

from converters.quantize.affine import LIMITS, Affine, make_affine

FIXED_RANGE = {
    "Sigmoid": (0.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
}
"""Ops whose mathematics gives the range. The QNN provider accepts no other 16-bit scale for Sigmoid and Tanh."""


def fixed_affine(op_type: str, dtype: str) -> Affine:
    """Return the encoding of a fixed range: a power of two as scale, 0 exact, the upper end one step short."""
    low, high = LIMITS[dtype]
    levels = high - low + 1
    minimum, maximum = FIXED_RANGE[op_type]
    return make_affine(dtype, (maximum - minimum) / levels, low if minimum == 0.0 else low + levels // 2)


def needed_by_readers(value: ir.Value) -> tuple[float, float]:
    """Return the bounds beyond which the readers of `value` do not change their answer, infinite where they do."""
    readers = value.consumers()
    gates = [node for node in readers if node.op_type == "HardSigmoid"]
    if len(gates) != 1 or (slope := gates[0].attributes.get_float("alpha", 0.2)) <= 0.0:
        return -np.inf, np.inf
    beta = gates[0].attributes.get_float("beta", 0.5)
    low, high = -beta / slope, (1.0 - beta) / slope
    others = [node for node in readers if node is not gates[0]]
    if not others:
        return low, high
    gate = gates[0].outputs[0]
    products = all(node.op_type == "Mul" and set(node.inputs) == {value, gate} for node in others)
    return (low, np.inf) if products and not gate.is_graph_output() else (-np.inf, np.inf)


def hard_sigmoid_affines(node: ir.Node, dtype: str) -> tuple[Affine, Affine]:
    """Return how the input of max(0, min(1, alpha x + beta)) is quantized, and how the integers are read as its value.

    With n steps between 0 and 1 the integers are round(n (alpha x + beta)), which an encoding of scale 1 / (n alpha)
    and zero_point n beta gives, and they saturate at both ends. n is the one near 255 for which n beta is nearest to an
    integer; they are read with half a step more than n, so that the upper end is wrong by 0.2 % at most.
    """
    alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
    low, high = LIMITS[dtype]
    full = high - low
    steps = min(range(full - 5, full + 1), key=lambda n: (round(abs(n * beta - round(n * beta)), 6), -n))
    inner = make_affine(dtype, 1.0 / (steps * alpha), int(np.clip(low + round(steps * beta), low, high)))
    return inner, make_affine(dtype, 1.0 / (steps + (full - steps) / 2), low)
