"""Quantized graphs for the tests of passes: a small net with Q and DQ as exporters write them, and what is in it."""

from collections import Counter

import numpy as np
import onnx_ir as ir

from tests.converters.passes.graphs import model
from tests.converters.passes.graphs import run as run


def net(activation: type = np.int8, weight: type = np.int8, interface: str = "float") -> ir.Model:
    """Conv, Relu6, a Transpose among the integers, MatMul, Add of a constant; `x` [1,3,6,6] -> `y` [1,4,4,4].

    Weights are per channel and symmetric, biases int32. `interface`: "float", or the activations' own type.
    """
    random = np.random.default_rng(0)
    low = -128 if np.dtype(activation).kind == "i" and np.dtype(activation).itemsize == 1 else 0
    centre = 0 if np.dtype(weight).kind == "i" else 128
    kind = {np.int8: "int8", np.uint8: "uint8", np.int16: "int16"}[activation] if interface != "float" else "float"
    numbers = {
        "kernel": (random.integers(-127, 128, (4, 3, 3, 3)) + centre).astype(weight),
        "kernel_s": random.uniform(0.01, 0.03, 4).astype(np.float32),
        "kernel_z": np.full(4, centre, weight),
        "bias": random.integers(-500, 500, 4).astype(np.int32),
        "bias_z": np.zeros(4, np.int32),
        "right": (random.integers(-127, 128, (4, 4)) + centre).astype(weight),
        "right_s": np.float32(0.02),
        "right_z": np.array(centre, weight),
        "addend": (random.integers(0, 200, 4) + low).astype(activation),
        "x_s": np.float32(0.02),
        "x_z": np.array(low + 128, activation),
        "six_s": np.float32(6 / 255),
        "six_z": np.array(low, activation),
        "y_s": np.float32(0.5),
        "y_z": np.array(low + 100, activation),
        "zero": np.float32(0),
        "six": np.float32(6),
    }
    numbers["bias_s"] = (numbers["x_s"] * numbers["kernel_s"]).astype(np.float32)
    numbers = {name: np.asarray(array) for name, array in numbers.items()}
    head = "xq = QuantizeLinear(x, x_s, x_z)" if kind == "float" else "xq = Identity(x)"
    tail = "y = DequantizeLinear(yq, y_s, y_z)" if kind == "float" else "y = QuantizeLinear(sum, y_s, y_z)"
    last = "yq = QuantizeLinear(sum, y_s, y_z)" if kind == "float" else ""
    return model(
        f"g ({kind}[1,3,6,6] x) => ({kind}[1,4,4,4] y) {{"
        f"{head} xd = DequantizeLinear(xq, x_s, x_z)"
        "  k = DequantizeLinear<axis = 0>(kernel, kernel_s, kernel_z)"
        "  b = DequantizeLinear<axis = 0>(bias, bias_s, bias_z)"
        "  c = Conv(xd, k, b)  cut = Clip(c, zero, six)"
        "  q = QuantizeLinear(cut, six_s, six_z)"
        "  moved = Transpose<perm = [0, 2, 3, 1]>(q)"
        "  d = DequantizeLinear(moved, six_s, six_z)"
        "  r = DequantizeLinear(right, right_s, right_z)  a = DequantizeLinear(addend, x_s, x_z)"
        "  product = MatMul(d, r)  pq = QuantizeLinear(product, y_s, y_z)  pd = DequantizeLinear(pq, y_s, y_z)"
        f"  sum = Add(pd, a)  {last} {tail}"
        "}",
        opset=21,
        ir_version=10,
        **numbers,
    )


def steps(graph: ir.Model) -> Counter[tuple[object, ...]]:
    """Count what the graph's Q and DQ say: operator, type, bytes of scale and zero point, axis."""
    found: Counter[tuple[object, ...]] = Counter()
    for node in graph.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = (value.const_value.numpy() for value in node.inputs[1:3] if value and value.const_value)
            found[
                node.op_type, str(zero.dtype), scale.tobytes(), zero.tobytes(), node.attributes.get_int("axis", 1)
            ] += 1
    return found


def feeds(graph: ir.Model) -> dict[str, np.ndarray]:
    """Random inputs over the whole range of their type, floats around 0."""
    random = np.random.default_rng(1)
    (value,) = graph.graph.inputs
    shape = [int(dim) for dim in value.shape or ()]
    if value.dtype == ir.DataType.FLOAT:
        return {str(value.name): random.normal(size=shape).astype(np.float32)}
    assert value.dtype is not None
    limits = np.iinfo(value.dtype.numpy())
    return {str(value.name): random.integers(limits.min, limits.max + 1, shape).astype(value.dtype.numpy())}
