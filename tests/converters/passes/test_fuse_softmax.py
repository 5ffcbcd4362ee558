"""A spelled-out softmax becomes Softmax over the same axis."""

import numpy as np
import pytest

from converters.passes.fuse_softmax import fuse_softmax
from converters.passes.remove_no_ops import remove_no_ops
from tests.converters.passes.graphs import CPU, NPU, apply, model, ops

LARGEST = "m = ReduceMax<axes = [2]>(x) d = Sub(x, m) e = Exp(d)"
NUMBERS = {
    "last": np.array([2]),
    "middle": np.array([1]),
    "first": np.array([0]),
    "full": np.array([2, 4, 1]),
    "lowest": np.array(-np.inf, np.float32),
    "one": np.array(1, np.float32),
}
SPELLINGS = {
    "keepdims": f"{LARGEST} t = ReduceSum(e, last) y = Div(e, t)",
    "negative axis": f"{LARGEST} t = ReduceSum(e, last) y = Div(e, t)".replace("[2]", "[-1]"),
    "no maximum": "e = Exp(x) t = ReduceSum(e, last) y = Div(e, t)",
    "reciprocal": f"{LARGEST} t = ReduceSum(e, last) i = Reciprocal(t) y = Mul(i, e)",
    "Reshape": "a = ReduceMax<axes = [2], keepdims = 0>(x) m = Reshape(a, full) d = Sub(x, m) e = Exp(d)"
    " s = ReduceSum<keepdims = 0>(e, last) t = Reshape(s, full) y = Div(e, t)",
    "Unsqueeze": "a = ReduceMax<axes = [2], keepdims = 0>(x) m = Unsqueeze(a, last) d = Sub(x, m) e = Exp(d)"
    " s = ReduceSum<keepdims = 0>(e, last) t = Unsqueeze(s, last) y = Div(e, t)",
}
GUARDED = (
    "a = ReduceMax<axes = [2], keepdims = 0>(x) g = Max(lowest, a) m = Reshape(g, full) d = Sub(x, m) e = Exp(d)"
    " s = ReduceSum<keepdims = 0>(e, last) t = Reshape(s, full) y = Div(e, t)"
)


def graph(nodes, opset=17, shape="2, 4, 8", outputs="y"):
    used = {name: value for name, value in NUMBERS.items() if name in nodes}
    outs = ", ".join(f"float[{shape}] {name}" for name in outputs.split())
    return model(f"g (float[{shape}] x) => ({outs}) {{ {nodes} }}", opset, **used)


def axis(fused):
    return next(node for node in fused.graph if node.op_type == "Softmax").attributes["axis"].as_int()


@pytest.mark.parametrize("nodes", SPELLINGS.values(), ids=SPELLINGS)
def test_softmax_in_each_spelling_is_fused(nodes):
    """One node is left, over the axis of the sum."""
    fused = graph(nodes)
    apply(fuse_softmax, fused, changes=1)
    assert ops(fused) == {"Softmax": 1}
    assert axis(fused) == 2


def test_softmax_with_a_guarded_maximum_is_fused_after_the_guard_went():
    """JAX writes Max(-inf, maximum), which is the maximum."""
    fused = graph(GUARDED)
    apply(remove_no_ops, fused, changes=1)
    apply(fuse_softmax, fused, changes=1)
    assert ops(fused) == {"Softmax": 1}


def test_softmax_of_a_dynamic_batch_is_fused():
    """With keepdims no shape has to be known."""
    fused = graph(SPELLINGS["keepdims"], shape="n, m, 8")
    apply(fuse_softmax, fused, changes=1)
    assert ops(fused) == {"Softmax": 1}


@pytest.mark.parametrize("middle", ["middle", "first"])
def test_softmax_over_another_axis_is_fused_for_an_npu_only(middle):
    """ONNX Runtime's Softmax on the CPU is several times slower there."""
    number = int(NUMBERS[middle][0])
    nodes = SPELLINGS["keepdims"].replace("[2]", f"[{number}]").replace("last", middle)
    declined = apply(fuse_softmax, graph(nodes), CPU, changes=0).declined
    assert f"axis {number}" in declined[0]
    fused = graph(nodes)
    apply(fuse_softmax, fused, NPU, changes=1)
    assert ops(fused) == {"Softmax": 1}
    assert axis(fused) == number


def test_softmax_over_the_first_axis_that_broadcasting_restores_is_fused():
    """A missing first dimension counts as 1."""
    nodes = "e = Exp(x) t = ReduceSum<keepdims = 0>(e, first) y = Div(e, t)"
    fused = graph(nodes, shape="4, 4")
    apply(fuse_softmax, fused, NPU, changes=1)
    assert axis(fused) == 0


def test_softmax_over_an_inner_axis_below_opset_13_is_declined_by_name():
    """There, Softmax goes over all dimensions from its axis on."""
    nodes = SPELLINGS["keepdims"].replace("[2]", "[1]").replace("ReduceSum(e, last)", "ReduceSum<axes = [1]>(e)")
    result = apply(fuse_softmax, graph(nodes, opset=12), NPU, changes=0)
    assert "opset 13" in result.declined[0]


def test_subtraction_of_something_else_stays_in_front_of_softmax():
    """The exponential's input is what Softmax takes, whatever was subtracted."""
    nodes = SPELLINGS["keepdims"].replace("ReduceMax<axes = [2]>", "ReduceMax<axes = [1]>")
    fused = graph(nodes)
    apply(fuse_softmax, fused, changes=1)
    assert ops(fused) == {"ReduceMax": 1, "Sub": 1, "Softmax": 1}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ReduceSum(e, last)", "ReduceSum(d, last)"),
        ("ReduceSum(e, last)", "ReduceMean<axes = [2]>(e)"),
        ("ReduceSum(e, last)", "ReduceSum(e)"),
        ("y = Div(e, t)", "y = Div(t, e)"),
        ("y = Div(e, t)", "p = Add(t, one) y = Div(e, p)"),
        ("y = Div(e, t)", "p = Div(e, t) y = Mul(p, e)"),
        ("y = Div(e, t)", "p = Div(e, t) y = Mul(p, t)"),
    ],
    ids=["other sum", "mean", "all axes", "upside down", "sum plus 1", "exp used thrice", "sum used twice"],
)
def test_near_softmax_is_left_alone(old, new):
    """Almost a softmax is not one."""
    apply(fuse_softmax, graph(SPELLINGS["keepdims"].replace(old, new)), changes=0)


def test_sum_that_broadcasts_along_another_axis_is_left_alone():
    """In a square, a sum without its axis divides along the other one."""
    nodes = "e = Exp(x) t = ReduceSum<keepdims = 0>(e, middle) y = Div(e, t)"
    apply(fuse_softmax, graph(nodes, shape="4, 4"), NPU, changes=0)


def test_exponential_that_is_an_output_is_left_alone():
    """It would have to be computed all the same."""
    apply(fuse_softmax, graph(SPELLINGS["keepdims"], outputs="y e"), changes=0)


def test_softmax_inside_an_if_branch_is_fused():
    """Subgraphs are searched too."""
    inner = SPELLINGS["keepdims"].replace("y =", "p =")
    fused = model(
        f"""g (bool c, float[2, 4, 8] x) => (float[2, 4, 8] y) {{
        y = If(c) <then_branch = t () => (float[2, 4, 8] p) {{ {inner} }},
                   else_branch = f () => (float[2, 4, 8] q) {{ q = Neg(x) }}> }}""",
        last=NUMBERS["last"],
    )
    apply(fuse_softmax, fused, changes=1)
    assert ops(fused) == {"If": 1, "Softmax": 1, "Neg": 1}
