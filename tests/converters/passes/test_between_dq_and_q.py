"""Every node of a quantized graph gets its DQ and Q, and no number changes by it."""

import numpy as np
import onnx_ir as ir
import pytest

from converters.passes.between_dq_and_q import between_dq_and_q
from converters.passes.check import check_model
from tests.converters.passes import quantized_graphs
from tests.converters.passes.graphs import CPU, interface, model, ops

SCALES = {
    "s": np.array(0.1, np.float32),
    "z": np.array(-128, np.int8),
    "mid": np.array(0, np.int8),
    "zero": np.array(0, np.float32),
    "two": np.array(2, np.float32),
    "shape": np.array([6], np.int64),
}
HEAD = "q = QuantizeLinear(x, s, mid)  d = DequantizeLinear(q, s, mid)"


def changed(graph: ir.Model, changes: int) -> ir.Model:
    """Run the pass, and check that the results are equal to the bit and that a second run finds nothing."""
    inputs, names = quantized_graphs.feeds(graph), interface(graph)
    expected = quantized_graphs.run(graph, inputs)
    assert between_dq_and_q(graph, CPU).changes == changes
    check_model(graph)
    assert interface(graph) == names
    for before, after in zip(expected, quantized_graphs.run(graph, inputs), strict=True):
        np.testing.assert_array_equal(after, before)
        assert after.dtype == before.dtype
    assert between_dq_and_q(graph, CPU).changes == 0
    return graph


def neighbours(graph: ir.Model, op_type: str) -> tuple[str, set[str]]:
    """Return the operator that feeds the only node of this type, and those that read it."""
    (node,) = (each for each in graph.graph if each.op_type == op_type)
    source = node.inputs[0]
    assert source is not None
    maker = source.producer()
    return (maker.op_type if maker else ""), {user.op_type for user in node.outputs[0].consumers()}


@pytest.mark.parametrize(
    "body",
    [
        "m = Transpose<perm = [1, 0]>(q)  e = DequantizeLinear(m, s, mid)  y = Neg(e)",
        "m = Transpose<perm = [1, 0]>(d)  y = Neg(m)",
        "n = Neg(d)  m = Transpose<perm = [1, 0]>(n)  p = QuantizeLinear(m, s, mid)  y = DequantizeLinear(p, s, mid)",
    ],
    ids=["among the integers", "before a node", "behind a node"],
)
def test_transpose_gets_what_it_lacks(body):
    """Wherever an exporter left it, it stands between a DQ and a Q."""
    graph = changed(model(f"g (float[2,3] x) => (float[3,2] y) {{ {HEAD} {body} }}", **SCALES), 1)
    assert neighbours(graph, "Transpose") == ("DequantizeLinear", {"QuantizeLinear"})


def test_reshape_that_makes_an_integer_output_keeps_its_name_and_type():
    """The graph's output is still int8, still called y, and still made behind the Reshape."""
    graph = model("g (float[2,3] x) => (int8[6] y) { q = QuantizeLinear(x, s, mid)  y = Reshape(q, shape) }", **SCALES)
    changed(graph, 1)
    assert neighbours(graph, "Reshape") == ("DequantizeLinear", {"QuantizeLinear"})


@pytest.mark.parametrize(
    ("cut", "point", "left"),
    [("Relu(n)", "z", 0), ("Relu(n)", "mid", 1), ("Clip(n, zero)", "z", 0), ("Clip(n, zero, two)", "z", 1)],
)
def test_relu_goes_where_its_q_cuts_alike_and_else_gets_a_pair(cut, point, left):
    """A Q from 0 upwards is a Relu; one that also has numbers below 0, or goes beyond a Clip's end, is not."""
    graph = model(
        f"g (float[2,3] x) => (float[2,3] y) {{ {HEAD} n = Neg(d)  r = {cut}"
        f"  p = QuantizeLinear(r, s, {point})  y = DequantizeLinear(p, s, {point}) }}",
        **SCALES,
    )
    counted = ops(changed(graph, 1))
    assert counted["Relu"] + counted["Clip"] == left
    if left:
        assert neighbours(graph, cut.split("(")[0]) == ("DequantizeLinear", {"QuantizeLinear"})


def test_float_graph_stays_as_it_is():
    """Where there is no Q and no DQ the pass has no business."""
    graph = model("g (float[2,3] x) => (float[3,2] y) { r = Relu(x)  y = Transpose<perm = [1, 0]>(r) }")
    assert between_dq_and_q(graph, CPU).changes == 0
    assert ops(graph) == {"Relu": 1, "Transpose": 1}
