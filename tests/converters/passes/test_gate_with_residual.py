"""x + x * gate is written with one pass over x."""

import pytest

from converters.passes.gate_with_residual import gate_with_residual
from tests.converters.passes.graphs import ARM, CPU, NPU, apply, model, ops

BEFORE = "p = GlobalAveragePool(x)  s = Sigmoid(p)  "


def net(body: str, size: str = "8,8", outputs: str = "float[N,4,H,W] y"):
    return model(f"g (float[2,4,{size}] x) => ({outputs}) {{ {BEFORE}{body} }}")


@pytest.mark.parametrize("add", ["Add(x, m)", "Add(m, x)"])
@pytest.mark.parametrize("mul", ["Mul(x, s)", "Mul(s, x)"])
@pytest.mark.parametrize("profile", [CPU, ARM], ids=["x86", "arm"])
def test_residual_goes_into_the_gate(add, mul, profile):
    """In any order: the addition has the size of the gate."""
    graph = net(f"m = {mul}  y = {add}")
    apply(gate_with_residual, graph, profile, changes=1)
    added = next(node for node in graph.graph if node.op_type == "Add")
    assert added.outputs[0].shape == (2, 4, 1, 1)
    assert ops(graph)["Mul"] == 1


@pytest.mark.parametrize(
    "graph",
    [
        net("m = Mul(x, s)  y = Add(m, s)"),
        net("m = Mul(x, s)  y = Add(x, m)", outputs="float[2,4,8,8] y, float[2,4,8,8] m"),
        net("t = Sigmoid(x)  m = Mul(x, t)  y = Add(x, m)"),
        net("m = Mul(x, s)  y = Add(x, m)", size="3,5"),
        net("m = Mul(x, s)  y = Add(x, m)", size="H,W"),
        net("m = Mul(x, x)  y = Add(x, m)"),
    ],
    ids=["another value", "product is read", "gate of full size", "gate not small", "free size", "square"],
)
def test_sum_that_would_not_gain_stays(graph):
    """The product must be of the value that is added, read by the sum alone, and the gate much smaller."""
    apply(gate_with_residual, graph, CPU, changes=0)


def test_accelerators_keep_the_sum():
    """Measured on CPUs only."""
    apply(gate_with_residual, net("m = Mul(x, s)  y = Add(x, m)"), NPU, changes=0)
