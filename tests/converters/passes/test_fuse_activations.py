"""Spelled-out activation functions become operators, in every spelling and only then."""

import numpy as np
import pytest

from converters.passes.fuse_activations import fuse_activations
from tests.converters.passes.graphs import ARM, CPU, NPU, apply, model, ops

HARD_SWISH = {
    "x * clip / 6": "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)",
    "clip * x / 6": "a = Add(three, x) c = Clip(a, zero, six) m = Mul(c, x) y = Div(m, six)",
    "x * (clip / 6)": "a = Add(x, three) c = Clip(a, zero, six) d = Div(c, six) y = Mul(x, d)",
    "(x / 6) * clip": "a = Add(x, three) c = Clip(a, zero, six) d = Div(x, six) y = Mul(d, c)",
    "x * clip * sixth": "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Mul(sixth, m)",
    "min of relu": "a = Add(x, three) r = Relu(a) c = Min(r, six) m = Mul(x, c) y = Div(m, six)",
    "min of max": "a = Add(x, three) r = Max(zero, a) c = Min(six, r) m = Mul(x, c) y = Div(m, six)",
    "sub of -3": "a = Sub(x, minus) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)",
}
NUMBERS = {
    "zero": np.float32(0),
    "three": np.float32(3),
    "minus": np.float32(-3),
    "six": np.float32(6),
    "sixth": np.float32(1 / 6),
    "one": np.float32(1),
    "half": np.float32(0.5),
    "five": np.float32(5),
}


def graph(nodes, opset=17, **more):
    used = {name: np.array(value) for name, value in {**NUMBERS, **more}.items() if name in nodes}
    return model(f"g (float[2, 5] x) => (float[2, 5] y) {{ {nodes} }}", opset, **used)


@pytest.mark.parametrize("nodes", HARD_SWISH.values(), ids=HARD_SWISH)
@pytest.mark.parametrize(("profile", "expected"), [(CPU, ["HardSigmoid", "Mul"]), (NPU, ["HardSwish"])])
def test_hard_swish_in_each_spelling_becomes_what_the_processor_knows(nodes, profile, expected):
    """The CPU gets HardSigmoid and Mul, which ONNX Runtime fuses; the NPU gets HardSwish."""
    fused = graph(nodes)
    apply(fuse_activations, fused, profile, changes=1)
    assert sorted(ops(fused)) == expected


def test_hard_swish_in_opset_11_attribute_form_is_fused():
    """Clip before opset 11 has its limits as attributes."""
    fused = graph("a = Add(x, three) c = Clip<min = 0.0, max = 6.0>(a) m = Mul(x, c) y = Div(m, six)", opset=10)
    apply(fuse_activations, fused, CPU, changes=1)
    assert ops(fused) == {"HardSigmoid": 1, "Mul": 1}


def test_hard_swish_with_a_learned_scale_keeps_the_scale_as_one_factor():
    """PP-LCNetV3 multiplies each hard-swish by a number: one Mul stays for it."""
    nodes = "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) d = Div(m, six) y = Mul(scale, d)"
    fused = graph(nodes, scale=np.array([0.37], np.float32))
    apply(fuse_activations, fused, changes=1)
    assert ops(fused) == {"HardSigmoid": 1, "Mul": 2}


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Add(x, three) c = Clip(a, one, six) m = Mul(x, c) y = Div(m, six)",
        "a = Add(x, three) c = Clip(a, zero, six) m = Mul(a, c) y = Div(m, five)",
        "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) d = Div(m, six) y = Add(d, c)",
    ],
    ids=["clip from 1", "another source", "clip used twice"],
)
def test_near_hard_swish_is_left_alone(nodes):
    """A pattern that is almost hard-swish, or whose inside is used elsewhere, stays."""
    fused = graph(nodes)
    apply(fuse_activations, fused, changes=0)


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Add(x, three) c = Clip(a, zero, six) y = Div(c, six)",
        "m = Mul(x, sixth) a = Add(m, half) y = Clip(a, zero, one)",
        "a = Add(x, three) r = Relu(a) c = Min(r, six) y = Mul(c, sixth)",
    ],
)
def test_hard_sigmoid_in_each_spelling_is_fused(nodes):
    """A clipped line between 0 and 1 is a HardSigmoid."""
    fused = graph(nodes)
    apply(fuse_activations, fused, ARM, changes=1)
    assert ops(fused) == {"HardSigmoid": 1}


def test_plain_clip_is_no_hard_sigmoid():
    """clip(x, 0, 1) stays a Clip, which every provider has."""
    fused = graph("y = Clip(x, zero, one)")
    apply(fuse_activations, fused, changes=0)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("n = Neg(x) e = Exp(n) p = Add(e, one) y = Div(one, p)", {"Sigmoid": 1}),
        ("n = Neg(x) e = Exp(n) p = Add(one, e) y = Reciprocal(p)", {"Sigmoid": 1}),
        ("n = Neg(x) e = Exp(n) p = Add(e, one) y = Div(x, p)", {"Sigmoid": 1, "Mul": 1}),
    ],
)
def test_sigmoid_and_silu_by_exp_are_fused(nodes, expected):
    """The logistic function spelled with Exp becomes Sigmoid."""
    fused = graph(nodes)
    apply(fuse_activations, fused, changes=1)
    assert ops(fused) == expected


ERF = {
    "half last": "d = Div(x, root) e = Erf(d) p = Add(e, one) m = Mul(x, p) y = Mul(m, half)",
    "half first": "h = Mul(half, x) s = Mul(x, inverse) e = Erf(s) p = Add(one, e) y = Mul(h, p)",
    "half inside": "d = Div(x, root) e = Erf(d) p = Add(e, one) h = Mul(p, half) y = Mul(x, h)",
}
CUBE = "q = Mul(x, x) c = Mul(q, x) k = Mul(c, cubic)"
TANH = {
    "cube": f"{CUBE} s = Add(x, k) t = Mul(s, pi) h = Tanh(t) p = Add(h, one) m = Mul(x, p) y = Mul(half, m)",
    "pow": "c = Pow(x, three) k = Mul(cubic, c) s = Add(k, x) t = Mul(pi, s) h = Tanh(t) p = Add(one, h)"
    " m = Mul(half, p) y = Mul(x, m)",
    "nested": "k = Mul(cubic, x) q = Mul(x, k) c = Mul(x, q) s = Add(x, c) t = Mul(pi, s) h = Tanh(t) p = Add(one, h)"
    " m = Mul(half, p) y = Mul(x, m)",
    "x out": "q = Mul(x, x) k = Mul(q, cubic) s = Add(k, one) r = Mul(x, s) t = Mul(r, pi) h = Tanh(t) p = Add(h, one)"
    " m = Mul(x, p) y = Mul(m, half)",
}
GELU = {
    "root": np.float32(2**0.5),
    "inverse": np.float32(0.5**0.5),
    "cubic": np.float32(0.044715),
    "pi": np.float32(0.7978845608),
}


@pytest.mark.parametrize("nodes", [*ERF.values(), *TANH.values()], ids=[*ERF, *TANH])
def test_gelu_in_each_spelling_becomes_gelu_from_opset_20(nodes):
    """Both GELU formulas, in each order of factors, are one operator."""
    fused = graph(nodes, opset=20, **GELU)
    apply(fuse_activations, fused, NPU, changes=1)
    assert ops(fused) == {"Gelu": 1}
    kind = next(iter(fused.graph)).attributes["approximate"].as_string()
    assert kind == ("tanh" if nodes in TANH.values() else "none")


def test_gelu_below_opset_20_is_declined_by_name():
    """There is no Gelu before opset 20: the reason names the node and both numbers."""
    result = apply(fuse_activations, graph(ERF["half last"], opset=17, **GELU), changes=0)
    assert "Mul" in result.declined[0]
    assert "opset 20" in result.declined[0]


def test_near_gelu_with_another_cube_factor_is_left_alone():
    """A tanh formula with other numbers is another function."""
    apply(fuse_activations, graph(TANH["cube"], opset=20, **{**GELU, "cubic": np.float32(0.05)}), changes=0)


@pytest.mark.parametrize("nodes", ["y = Max(x, zero)", "y = Max(zero, x)"])
def test_maximum_with_zero_becomes_relu(nodes):
    """Providers fuse Relu. QNN's HTP emulator 2.7.0 returns 0 for a 16-bit Max of [1, 256] whose zero has scale 0.1."""
    fused = graph(nodes)
    apply(fuse_activations, fused, NPU, changes=1)
    assert ops(fused) == {"Relu": 1}


@pytest.mark.parametrize("nodes", ["y = Max(x, one)", "y = Min(x, zero)", "y = Max(x, zero, one)"])
def test_maximum_that_is_no_relu_is_left_alone(nodes):
    """Another number, the other side, or a third operand."""
    apply(fuse_activations, graph(nodes), changes=0)


def test_hard_swish_inside_an_if_branch_is_fused():
    """Patterns inside subgraphs are found, also when they use a value and a weight of the outer graph."""
    fused = model(
        """g (bool c, float[2, 5] x) => (float[2, 5] y) {
        y = If(c) <then_branch = t () => (float[2, 5] p) { a = Add(x, three) b = Clip(a, zero, six)
                       m = Mul(x, b) p = Div(m, six) },
                   else_branch = e () => (float[2, 5] q) { q = Identity(x) }> }""",
        **{name: np.array(NUMBERS[name]) for name in ("zero", "three", "six")},
    )
    apply(fuse_activations, fused, changes=1)
    assert ops(fused) == {"If": 1, "HardSigmoid": 1, "Mul": 1, "Identity": 1}
