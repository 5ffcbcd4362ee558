"""What does not depend on the inputs is computed once, what is repeated is computed once, the rest stays."""

import numpy as np
import onnx_ir as ir

from converters.passes.fold_constants import MAX_ELEMENTS, fold_constants
from tests.converters.passes.graphs import CPU, apply, model, ops, proto, weight


def test_shape_arithmetic_of_a_static_input_is_folded():
    """Shape, Gather, Concat and the Reshape target become one weight."""
    graph = model(
        """g (float[2, 3, 4] x) => (float[a, b] y) {
        s = Shape(x) f = Gather(s, zero) u = Unsqueeze(f, axis) c = Concat<axis = 0>(u, minus) y = Reshape(x, c) }""",
        zero=np.array(0),
        axis=np.array([0]),
        minus=np.array([-1]),
    )
    apply(fold_constants, graph)
    assert ops(graph) == {"Reshape": 1}


def test_repeated_nodes_and_equal_weights_become_one():
    """Two equal chains are computed once."""
    graph = model(
        "g (float[2] x) => (float[2] y) { a = Mul(x, k) b = Mul(x, l) c = Exp(a) d = Exp(b) y = Add(c, d) }",
        k=weight(1),
        l=weight(1),
    )
    apply(fold_constants, graph)
    assert ops(graph) == {"Mul": 1, "Exp": 1, "Add": 1}
    assert len(graph.graph.initializers) == 1


def test_branch_of_a_constant_condition_is_inlined_and_one_of_an_input_stays():
    """An If is decided only when its condition is."""
    branches = (
        """<then_branch = t () => (float[2] p) { p = Exp(x) }, else_branch = e () => (float[2] q) { q = Neg(x) }>"""
    )
    decided = model(f"g (float[2] x) => (float[2] y) {{ y = If(k){branches} }}", k=np.array(False))
    apply(fold_constants, decided)
    assert ops(decided) == {"Neg": 1}
    open_question = model(f"g (bool k, float[2] x) => (float[2] y) {{ y = If(k){branches} }}")
    apply(fold_constants, open_question, changes=0)


def test_random_numbers_are_drawn_at_run_time():
    """Nodes that draw random numbers neither fold nor merge, and say so."""
    parsed = proto(
        "g (float[2] x) => (float[2] y, float[2] z) { a = RandomUniformLike(k) b = RandomUniformLike(k)"
        " c = Bernoulli(k) y = Add(a, x) d = Add(b, c) z = Add(d, x) }",
        k=weight(2),
    )
    graph = ir.from_proto(parsed)
    result = fold_constants(graph, None)  # type: ignore[arg-type]
    assert result.changes == 0
    assert len(result.declined) == 3
    assert ops(graph) == {"RandomUniformLike": 2, "Bernoulli": 1, "Add": 3}


def test_folding_never_makes_the_file_much_larger():
    """A result above the limit stays an expression."""
    side = int(MAX_ELEMENTS**0.5) + 1
    graph = model(
        "g (float[1] x) => (float[a, b] y) { e = Expand(k, shape) y = Mul(x, e) }",
        k=weight(1, 1),
        shape=np.array([side, side]),
    )
    apply(fold_constants, graph, changes=0)


def test_names_and_order_of_outputs_survive_when_two_are_equal():
    """Two outputs of one value are still two outputs."""
    graph = model("g (float[2] x) => (float[2] b, float[2] a, float[2] c) { a = Exp(x) b = Exp(x) c = Identity(x) }")
    apply(fold_constants, graph)
    assert [value.name for value in graph.graph.outputs] == ["b", "a", "c"]


def test_input_that_is_an_output_keeps_its_name():
    """A passed-through input is an output under its own name; a repeated node beside it becomes one all the same."""
    graph = model(
        "g (float[2] x) => (float[2] y, float[2] x) { a = Mul(x, k) b = Mul(x, k) y = Add(a, b) }", k=weight(2)
    )
    fold_constants(graph, CPU)
    assert [value.name for value in graph.graph.inputs] == ["x"]
    assert [value.name for value in graph.graph.outputs] == ["y", "x"]
    assert ops(graph) == {"Mul": 1, "Add": 1}
