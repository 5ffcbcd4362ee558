"""A spelled-out layer norm becomes LayerNormalization with the same epsilon."""

import numpy as np
import pytest

from converters.passes.fuse_layer_norm import fuse_layer_norm
from converters.passes.remove_no_ops import remove_no_ops
from tests.converters.passes.graphs import CPU, NPU, apply, model, ops, weight

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
JAX = (
    "t = ReduceSum<keepdims = 0>(x, axis) m = Mul(t, part) s = Mul(x, x) u = ReduceSum<keepdims = 0>(s, axis)"
    " a = Mul(u, part) b = Mul(m, m) v = Sub(a, b) z = Max(zero, v) k = Reshape(z, full) e = Add(k, eps) r = Sqrt(e)"
    " i = Reciprocal(r) f = Mul(i, scale) c = Reshape(m, full) d = Sub(x, c) w = Mul(d, f) y = Add(w, bias)"
)
"""What JAX makes of mean(x^2) - mean(x)^2: `axis` is summed, `part` is 1 / n, `full` brings the axis back."""
ONE_PASS = {
    "JAX": JAX,
    "clamped by Relu": JAX.replace("Max(zero, v)", "Relu(v)"),
    "not clamped": JAX.replace("z = Max(zero, v) k = Reshape(z, full)", "k = Reshape(v, full)"),
    "scale divided": JAX.replace("i = Reciprocal(r) f = Mul(i, scale)", "f = Div(scale, r)"),
    "scale last": JAX.replace("f = Mul(i, scale)", "").replace("w = Mul(d, f)", "n = Mul(d, i) w = Mul(n, scale)"),
    "Unsqueeze": JAX.replace("Reshape(z, full)", "Unsqueeze(z, axis)").replace(
        "Reshape(m, full)", "Unsqueeze(m, axis)"
    ),
    "ReduceMean": "m = ReduceMean<axes = [1]>(x) s = Pow(x, two) a = ReduceMean<axes = [1]>(s) b = Pow(m, two)"
    " v = Sub(a, b) e = Add(v, eps) r = Sqrt(e) d = Sub(x, m) n = Div(d, r) w = Mul(n, scale) y = Add(w, bias)",
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


def middle(nodes, channels=64, shape="2, {}, 8"):
    """A graph that is normalised over axis 1."""
    numbers = {"two": np.array(np.float32(2)), "eps": np.array(np.float32(1e-3)), "zero": np.array(np.float32(0))}
    numbers |= {"part": np.array(np.float32(1 / channels)), "axis": np.array([1]), "full": np.array([2, 1, 8])}
    numbers |= {"scale": weight(channels, 1), "bias": weight(channels, 1, seed=1)}
    used = {name: value for name, value in numbers.items() if name in nodes}
    shape = shape.format(channels)
    return model(f"g (float[{shape}] x) => (float[{shape}] y) {{ {nodes} }}", **used)


@pytest.mark.parametrize("nodes", ONE_PASS.values(), ids=ONE_PASS)
def test_layer_norm_of_mean_squares_over_a_middle_axis_is_fused_between_transposes(nodes):
    """Float16 overflows in the sum of squares, and integers lose the difference; the operator does neither."""
    fused = middle(nodes)
    apply(fuse_layer_norm, fused, changes=1)
    assert ops(fused) == {"Transpose": 2, "LayerNormalization": 1}


def test_layer_norm_over_the_channels_of_a_picture_is_fused():
    """The Transpose behind undoes the one before also where they differ."""
    nodes = ONE_PASS["ReduceMean"].replace("scale)", "high)").replace("bias)", "low)")
    fused = model(
        f"g (float[2, 64, 3, 5] x) => (float[2, 64, 3, 5] y) {{ {nodes} }}",
        two=np.array(np.float32(2)),
        eps=np.array(np.float32(1e-3)),
        high=weight(64, 1, 1),
        low=weight(64, 1, 1, seed=1),
    )
    apply(fuse_layer_norm, fused, changes=1)
    assert ops(fused) == {"Transpose": 2, "LayerNormalization": 1}


def test_layer_norm_over_a_middle_axis_of_a_dynamic_batch_is_fused():
    """With keepdims no other dimension has to be known."""
    fused = middle(ONE_PASS["ReduceMean"], shape="n, {}, m")
    apply(fuse_layer_norm, fused, changes=1)
    assert ops(fused) == {"Transpose": 2, "LayerNormalization": 1}


def test_layer_norm_over_the_last_axis_of_mean_squares_is_fused_alone():
    """It needs no Transpose; one row of it is what magika's classifier normalises."""
    fused = model(
        f"g (float[1, 8] x) => (float[1, 8] y) {{ {JAX} }}",
        part=np.array(np.float32(1 / 8)),
        axis=np.array([1]),
        full=np.array([1, 1]),
        zero=np.array(np.float32(0)),
        eps=np.array(np.float32(1e-6)),
        scale=weight(1, 8),
        bias=weight(1, 8, seed=1),
    )
    apply(fuse_layer_norm, fused, changes=1)
    assert ops(fused) == {"LayerNormalization": 1}


def test_layer_norm_over_a_short_middle_axis_is_declined_off_an_npu():
    """There, the two Transposes take longer than what they replace."""
    assert "cost too much" in apply(fuse_layer_norm, middle(JAX, channels=8), CPU, changes=0).declined[0]
    apply(fuse_layer_norm, middle(JAX, channels=8), NPU, changes=1)


def test_transpose_back_and_the_transpose_of_a_convolution_behind_it_cancel():
    """A convolution over the other axis, as in magika, costs one Transpose in all."""
    nodes = JAX.replace(
        "y = Add(w, bias)", "o = Add(w, bias) h = Unsqueeze(o, three) j = Transpose<perm = [0, 2, 1, 3]>(h)"
    )
    numbers = {"part": np.array(np.float32(1 / 64)), "axis": np.array([1]), "full": np.array([2, 1, 8])}
    numbers |= {"zero": np.array(np.float32(0)), "eps": np.array(np.float32(1e-3)), "three": np.array([3])}
    numbers |= {"scale": weight(64, 1), "bias": weight(64, 1, seed=1), "kernel": weight(5, 8, 3, 1)}
    text = f"g (float[2, 64, 8] x) => (float[2, 5, 62, 1] y) {{ {nodes} y = Conv(j, kernel) }}"
    fused = model(text, **numbers)
    apply(fuse_layer_norm, fused, changes=1)
    apply(remove_no_ops, fused, changes=1)
    assert ops(fused) == {"Transpose": 1, "LayerNormalization": 1, "Reshape": 1, "Conv": 1}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a = Mul(u, part)", "a = Mul(u, eps)"),
        ("b = Mul(m, m)", "b = Mul(m, t)"),
        ("v = Sub(a, b)", "v = Sub(b, a)"),
        ("v = Sub(a, b)", "v = Add(a, b)"),
        ("Max(zero, v)", "Max(part, v)"),
        ("d = Sub(x, c)", "d = Sub(c, x)"),
        ("s = Mul(x, x)", "h = Abs(x) s = Mul(h, x)"),
    ],
    ids=["not a mean", "not a square", "negative", "sum", "other clamp", "not centred", "other square"],
)
def test_near_layer_norm_of_mean_squares_is_left_alone(old, new):
    """Almost a layer norm is not one."""
    assert old in JAX
    apply(fuse_layer_norm, middle(JAX.replace(old, new)), changes=0)


@pytest.mark.parametrize("old", ["Reshape(z, full)", "Reshape(m, full)", "full"])
def test_statistics_reshaped_along_another_axis_are_left_alone(old):
    """In a square, the deviation, the mean or both can come back along the wrong axis."""
    numbers = {"full": np.array([1, 1, 64]), "wrong": np.array([1, 64, 1]), "part": np.array(np.float32(1 / 64))}
    numbers |= {"axis": np.array([1]), "eps": np.array(np.float32(1e-3)), "zero": np.array(np.float32(0))}
    numbers |= {"scale": weight(64, 1), "bias": weight(64, 1, seed=1)}
    nodes = JAX.replace(old, old.replace("full", "wrong"))
    used = {name: value for name, value in numbers.items() if name in nodes}
    graph = model(f"g (float[1, 64, 64] x) => (float[1, 64, 64] y) {{ {nodes} }}", **used)
    apply(fuse_layer_norm, graph, NPU, changes=0)
