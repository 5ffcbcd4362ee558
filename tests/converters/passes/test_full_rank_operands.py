"""One number beside a value that ends in a dimension of 1 is written with as many dimensions as the value."""

import numpy as np
import pytest

from converters.passes.full_rank_operands import full_rank_operands
from tests.converters.passes.graphs import ARM, CPU, NPU, apply, model

COLUMN = "g (float[2,5,1] x) => (float[2,5,1] y) { y = %s(x, c) }"


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_number_beside_a_column_gets_its_rank(op, shape):
    """The numbers are the same; the constant has three dimensions."""
    graph = model(COLUMN % op, c=np.full(shape, 1.5, np.float32))
    apply(full_rank_operands, graph, CPU, changes=1)
    assert graph.graph.node(0).inputs[1].const_value.shape == (1, 1, 1)


def test_number_on_the_left_and_read_twice_is_written_anew_for_the_column_alone():
    """Its other reader keeps the constant that it had."""
    graph = model(
        "g (float[2,1] x, float[2,3] z) => (float[2,1] y, float[2,3] u) { y = Mul(c, x)  u = Mul(z, c) }",
        c=np.full((1,), 1.5, np.float32),
    )
    apply(full_rank_operands, graph, ARM, changes=1)
    assert [len(value.const_value.shape) for value in graph.graph.initializers.values()] == [1, 2]


@pytest.mark.parametrize(
    "graph",
    [
        model("g (float[2,5] x) => (float[2,5] y) { y = Mul(x, c) }", c=np.full((1,), 1.5, np.float32)),
        model("g (float[2,1] x) => (float[2,3] y) { y = Mul(x, c) }", c=np.full((3,), 1.5, np.float32)),
        model("g (float[2,1] x) => (float[2,1] y) { y = Mul(x, c) }", c=np.full((1, 1), 1.5, np.float32)),
        model("g (float[1] x) => (float[1,1] y) { y = Mul(x, c) }", c=np.full((1, 1), 1.5, np.float32)),
    ],
    ids=["rows of five", "three numbers", "full rank", "more than full rank"],
)
def test_operand_that_costs_nothing_stays(graph):
    """Nothing is written that changes nothing."""
    apply(full_rank_operands, graph, CPU, changes=0)


def test_accelerators_keep_their_constants():
    """The slow broadcast is that of ONNX Runtime's CPU kernels."""
    apply(full_rank_operands, model(COLUMN % "Mul", c=np.full((1,), 1.5, np.float32)), NPU, changes=0)
