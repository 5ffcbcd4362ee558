"""A one-hot vector times a matrix becomes a look-up with the same numbers, outside of the table too."""

import numpy as np
import onnx_ir as ir
import pytest

from converters.passes.check import check_model
from converters.passes.infer_shapes import infer_shapes
from converters.passes.one_hot_as_gather import one_hot_as_gather
from tests.converters.passes.graphs import ARM, CPU, NPU, model, ops, run, weight

NUMBERS = {"x": np.array([[3, 0, 6, 7, -1, -9, 100, 3]], np.int32)}


def net(
    behind: str = "y = Identity(m)",
    integer: str = "int32",
    numbers: np.ndarray | None = None,
    equal: str = "Equal(u, n)",
    table: np.ndarray | None = None,
    opset: int = 20,
    **weights: np.ndarray,
) -> ir.Model:
    """x [1,8], one of seven rows of three numbers for each."""
    dtype = {"int32": np.int32, "int64": np.int64, "float": np.float32}[integer]
    return model(
        f"g ({integer}[1,8] x) => (float[1,8,M] y)"
        f" {{ u = Unsqueeze(x, a)  e = {equal}  o = Cast<to = 1>(e)  m = MatMul(o, w)  {behind} }}",
        opset=opset,
        a=np.array([2]),
        n=(np.arange(7) if numbers is None else numbers).astype(dtype),
        w=weight(7, 3) if table is None else table,
        **weights,
    )


def applied(graph: ir.Model, feeds: dict[str, np.ndarray], changes: int = 1) -> tuple[str, ...]:
    """Run the pass; the numbers are the same, a second run finds nothing."""
    before = run(graph, feeds)[0]
    result = one_hot_as_gather(graph, CPU)
    check_model(graph)
    assert result.changes == changes
    np.testing.assert_array_equal(run(graph, feeds)[0], before)
    assert one_hot_as_gather(graph, CPU).changes == 0
    return result.declined


@pytest.mark.parametrize("integer", ["int32", "int64"])
@pytest.mark.parametrize("equal", ["Equal(u, n)", "Equal(n, u)"])
def test_one_hot_product_is_looked_up(integer, equal):
    """Numbers of the table give their row, all others zeros, as the product gives them."""
    graph = net(integer=integer, equal=equal)
    applied(graph, {"x": NUMBERS["x"].astype(integer)})
    assert ops(graph)["Gather"] == 1
    assert not {"Equal", "Cast", "MatMul"} & set(ops(graph))


def test_numbers_that_are_written_with_all_dimensions_are_read():
    """[1, 1, 7] counts like [7]."""
    applied(net(numbers=np.arange(7).reshape(1, 1, 7)), NUMBERS)


def test_bias_and_activation_move_into_the_table():
    """What follows row by row is computed for the rows of the table, not for each number."""
    graph = net("b = Add(c, m)  s = Mul(b, k)  y = Gelu(s)", c=weight(1, 1, 3), k=np.float32(0.5))
    applied(graph, NUMBERS)
    assert graph.graph.node(-1).op_type == "Gather"
    assert infer_shapes(graph, CPU).declined == ()


def test_what_mixes_rows_or_differs_by_place_stays_behind_the_look_up():
    """A Softmax over places and a constant for each place are not the same for equal rows."""
    graph = net("p = Add(m, c)  y = Softmax<axis = 1>(p)", c=weight(8, 1))
    applied(graph, NUMBERS)
    assert [node.op_type for node in graph.graph][-3:] == ["Gather", "Add", "Softmax"]


@pytest.mark.parametrize(
    "graph",
    [
        net(numbers=np.array([0, 1, 2, 3, 4, 6, 5])),
        net(numbers=np.arange(1, 8)),
        net("q = ReduceSum(o)  y = Add(m, q)"),
        net(equal="Greater(u, n)"),
    ],
    ids=["another order", "from one", "read twice", "no equality"],
)
def test_other_products_stay(graph):
    """Only a vector with a single 1 at the number's own place, for this product alone."""
    assert applied(graph, NUMBERS, changes=0) == ()


def test_float_numbers_stay():
    """Between two whole numbers there is no row."""
    applied(net(integer="float"), {"x": NUMBERS["x"].astype(np.float32)}, changes=0)


def test_table_with_an_infinity_stays_and_is_told():
    """0 times infinity is NaN in every row of the product: a look-up would hide it."""
    table = weight(7, 3)
    table[2, 1] = np.inf
    (told,) = applied(net(table=table), NUMBERS, changes=0)
    assert "finite" in told


def test_only_cpus_look_up():
    """An accelerator multiplies at no cost, and may refuse the integers."""
    assert one_hot_as_gather(net(), NPU).changes == 0
    assert one_hot_as_gather(net(), ARM).changes == 1
