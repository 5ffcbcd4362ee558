"""A spelled-out layer norm becomes LayerNormalization with the same epsilon."""

import numpy as np
import pytest

from converters.passes.fuse_layer_norm import fuse_layer_norm
from tests.converters.passes.graphs import apply, model, ops, weight

MEAN = "m = ReduceMean<axes = [-1]>(x) d = Sub(x, m)"
VARIANCE = "v = ReduceMean<axes = [-1]>(s) e = Add(v, eps) r = Sqrt(e)"
SPELLINGS = {
    "pow, div": f"{MEAN} s = Pow(d, two) {VARIANCE} n = Div(d, r) w = Mul(n, scale) y = Add(w, bias)",
    "mul, reciprocal": f"{MEAN} s = Mul(d, d) {VARIANCE} i = Reciprocal(r) n = Mul(i, d)"
    " w = Mul(scale, n) y = Add(bias, w)",
    "centred twice": f"{MEAN} c = Sub(x, m) s = Pow(c, two) {VARIANCE} n = Div(d, r) w = Mul(n, scale)"
    " y = Add(w, bias)",
    "positive axis": f"{MEAN} s = Pow(d, two) {VARIANCE} n = Div(d, r) w = Mul(n, scale) y = Add(w, bias)".replace(
        "[-1]", "[2]"
    ),
    "no bias": f"{MEAN} s = Pow(d, two) {VARIANCE} n = Div(d, r) y = Mul(n, scale)",
}


def graph(nodes, opset=17, eps=1e-3, scale=None):
    numbers = {"two": np.array(np.float32(2)), "eps": np.array(np.float32(eps)), "bias": weight(8, seed=1)}
    numbers["scale"] = weight(8) if scale is None else scale
    used = {name: value for name, value in numbers.items() if name in nodes}
    return model(f"g (float[2, 3, 8] x) => (float[2, 3, 8] y) {{ {nodes} }}", opset, **used)


@pytest.mark.parametrize("nodes", SPELLINGS.values(), ids=SPELLINGS)
def test_layer_norm_in_each_spelling_is_fused_with_its_epsilon(nodes):
    """One node is left, and its epsilon is the model's."""
    fused = graph(nodes)
    apply(fuse_layer_norm, fused, changes=1)
    assert ops(fused) == {"LayerNormalization": 1}
    assert next(iter(fused.graph)).attributes["epsilon"].as_float() == pytest.approx(1e-3)


def test_layer_norm_below_opset_17_is_declined_by_name():
    """The operator does not exist there."""
    result = apply(fuse_layer_norm, graph(SPELLINGS["pow, div"], opset=13), changes=0)
    assert "opset 17" in result.declined[0]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("v = ReduceMean<axes = [-1]>", "v = ReduceMean<axes = [1]>"),
        ("Pow(d, two)", "Pow(d, eps)"),
        ("n = Div(d, r)", "n = Div(x, r)"),
        ("y = Add(w, bias)", "k = Add(w, bias) y = Add(k, r)"),
    ],
    ids=["other axis", "other power", "not centred", "deviation used twice"],
)
def test_near_layer_norm_is_left_alone(old, new):
    """Almost a layer norm is not one."""
    apply(fuse_layer_norm, graph(SPELLINGS["pow, div"].replace(old, new), eps=1.0), changes=0)


def test_layer_norm_with_a_scale_over_another_dimension_is_left_alone():
    """The operator scales over the normalised dimension only."""
    apply(fuse_layer_norm, graph(SPELLINGS["no bias"], scale=weight(3, 1)), changes=0)


def test_layer_norm_inside_an_if_branch_is_fused():
    """Subgraphs are searched too."""
    inner = SPELLINGS["pow, div"].replace("y =", "p =")
    fused = model(
        f"""g (bool c, float[2, 3, 8] x) => (float[2, 3, 8] y) {{
        y = If(c) <then_branch = t () => (float[2, 3, 8] p) {{ {inner} }},
                   else_branch = f () => (float[2, 3, 8] q) {{ q = Neg(x) }}> }}""",
        two=np.array(np.float32(2)),
        eps=np.array(np.float32(1e-5)),
        scale=weight(8),
        bias=weight(8, seed=1),
    )
    apply(fuse_layer_norm, fused, changes=1)
    assert ops(fused) == {"If": 1, "LayerNormalization": 1, "Neg": 1}
