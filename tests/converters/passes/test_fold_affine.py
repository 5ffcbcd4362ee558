"""Multiplications and additions of constants go into the weights beside them, where that is the same function."""

import numpy as np
import pytest

from converters.passes.fold_affine import fold_affine
from tests.converters.passes.graphs import apply, model, ops, weight

AFTER = {
    "scalar Mul": ("y = Mul(h, k)", {"k": weight()}),
    "scalar Div": ("y = Div(h, k)", {"k": weight(1)}),
    "channel Add": ("y = Add(k, h)", {"k": weight(1, 4, 1, 1)}),
    "channel Sub": ("y = Sub(h, k)", {"k": weight(4, 1, 1)}),
    "Neg": ("y = Neg(h)", {}),
    "Mul, Add": ("m = Mul(k, h) y = Add(m, b)", {"k": weight(1, 4, 1, 1), "b": weight(1, seed=3)}),
    "BatchNormalization": (
        "y = BatchNormalization<epsilon = 0.01>(h, k, b, m, v)",
        {"k": weight(4), "b": weight(4, seed=1), "m": weight(4, seed=2), "v": weight(4, seed=4)},
    ),
}
CONVS = {
    "Conv": ("h = Conv<pads = [1, 1, 1, 1]>(x, w)", {"w": weight(4, 6, 3, 3)}),
    "Conv with bias": ("h = Conv(x, w, z)", {"w": weight(4, 6, 3, 3), "z": weight(4, seed=5)}),
    "grouped Conv": ("h = Conv<group = 2>(x, w, z)", {"w": weight(4, 3, 3, 3), "z": weight(4, seed=5)}),
    "ConvTranspose": ("h = ConvTranspose(x, w)", {"w": weight(6, 4, 2, 2)}),
    "grouped ConvTranspose": ("h = ConvTranspose<group = 2>(x, w)", {"w": weight(6, 2, 2, 2)}),
}


@pytest.mark.parametrize(("linear", "weights"), CONVS.values(), ids=CONVS)
@pytest.mark.parametrize(("nodes", "constants"), AFTER.values(), ids=AFTER)
def test_affine_after_a_convolution_goes_into_its_weights(linear, weights, nodes, constants):
    """Scale, offset and batch norm behind each kind of convolution vanish."""
    graph = model(f"g (float[2, 6, 5, 5] x) => (float[n, c, u, v] y) {{ {linear} {nodes} }}", **weights, **constants)
    apply(fold_affine, graph, changes=len(ops(graph)) - 1)
    assert sum(ops(graph).values()) == 1


GEMMS = {
    "Gemm": ("h = Gemm(x, w, z)", {"w": weight(6, 4), "z": weight(4, seed=5)}),
    "Gemm transB": ("h = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, w, z)", {"w": weight(4, 6), "z": weight(1, 4)}),
    "Gemm without bias": ("h = Gemm<beta = 0.5>(x, w)", {"w": weight(6, 4)}),
}


@pytest.mark.parametrize(("linear", "weights"), GEMMS.values(), ids=GEMMS)
@pytest.mark.parametrize("nodes", ["m = Mul(h, k) y = Add(m, k)", "m = Div(h, k) y = Sub(m, k)"])
def test_affine_after_gemm_goes_into_its_weights(linear, weights, nodes):
    """alpha, beta and transB are taken into account."""
    graph = model(f"g (float[3, 6] x) => (float[3, 4] y) {{ {linear} {nodes} }}", **weights, k=weight(4))
    apply(fold_affine, graph, changes=2)
    assert ops(graph) == {"Gemm": 1}


def test_scale_after_matmul_and_its_bias_goes_into_both():
    """(x W + b) k is x (W k) + b k; the addition itself stays, a MatMul has no bias."""
    graph = model(
        "g (float[2, 3, 6] x) => (float[2, 3, 4] y) { h = MatMul(x, w) a = Add(h, b) y = Mul(a, k) }",
        w=weight(6, 4),
        b=weight(4, seed=1),
        k=weight(4, seed=2),
    )
    apply(fold_affine, graph, changes=1)
    assert ops(graph) == {"MatMul": 1, "Add": 1}


@pytest.mark.parametrize(
    ("linear", "shape"),
    [
        ("y = Conv<pads = [1, 1, 1, 1], group = 2>(h, w)", (4, 3, 3, 3)),
        ("y = Conv(h, w)", (4, 6, 3, 3)),
        ("y = ConvTranspose<group = 2>(h, w)", (6, 2, 3, 3)),
    ],
)
@pytest.mark.parametrize("operand", [weight(), weight(1, 6, 1, 1), weight(1, 6, 1, 1, seed=1)])
def test_scale_before_a_convolution_goes_into_its_weights(linear, shape, operand):
    """A factor in front moves through any padding: what is padded is 0."""
    graph = model(
        f"g (float[2, 6, 5, 5] x) => (float[n, c, u, v] y) {{ h = Mul(x, k) {linear} }}", w=weight(*shape), k=operand
    )
    apply(fold_affine, graph, changes=1)
    assert sum(ops(graph).values()) == 1


def test_offset_before_a_convolution_without_padding_goes_into_its_bias():
    """Every output position sees every weight, so the offset adds the same everywhere; groups keep apart."""
    graph = model(
        "g (float[2, 6, 5, 5] x) => (float[n, c, u, v] y) { m = Mul(x, k) h = Add(m, b) y = Conv<group = 2>(h, w) }",
        w=weight(4, 3, 3, 3),
        k=weight(1, 6, 1, 1),
        b=weight(1, 6, 1, 1, seed=1),
    )
    apply(fold_affine, graph, changes=2)
    assert ops(graph) == {"Conv": 1}


def test_offset_before_a_padded_convolution_stays_and_its_scale_moves_on():
    """A padded border would not see the offset: declined by name; the factor in front of it still folds."""
    graph = model(
        "g (float[2, 6, 5, 5] x) => (float[n, c, u, v] y) { m = Mul(x, k) h = Add(m, b)"
        " y = Conv<pads = [1, 1, 1, 1]>(h, w) }",
        w=weight(4, 6, 3, 3),
        k=weight(),
        b=weight(1, seed=1),
    )
    result = apply(fold_affine, graph, changes=1)
    assert ops(graph) == {"Add": 1, "Conv": 1}
    assert not result.declined or "pads its input" in result.declined[0]


NEAR = {
    "value used twice": ("h = Conv(x, w) m = Mul(h, k) y = Add(m, h)", {"k": weight()}, "used elsewhere"),
    "full-size constant": ("h = Conv(x, w) y = Mul(h, k)", {"k": weight(1, 4, 3, 3)}, "one number per channel"),
    "scale per column": ("h = Conv(x, w) y = Mul(h, k)", {"k": weight(3)}, "one number per channel"),
    "division by zero": ("h = Conv(x, w) y = Mul(h, k)", {"k": np.float32(np.inf)}, "one number per channel"),
    "constant on the left": ("h = Conv(x, w) y = Div(k, h)", {"k": weight()}, ""),
}


@pytest.mark.parametrize(("nodes", "constants", "reason"), NEAR.values(), ids=NEAR)
def test_affine_that_is_no_channel_scale_is_declined(nodes, constants, reason):
    """What would change the result stays, and the reason says why."""
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    graph = model(f"g (float[2, 6, 5, 5] x) => (float[n, c, u, v] y) {{ {nodes} }}", w=weight(4, 6, 3, 3), **arrays)
    result = apply(fold_affine, graph, changes=0)
    assert bool(result.declined) == bool(reason)
    assert all(reason in text for text in result.declined)


def test_shared_weight_is_declined():
    """Two convolutions with one weight would need two."""
    graph = model(
        "g (float[2, 6, 5, 5] x) => (float[n, c, u, v] y) { h = Conv(x, w) m = Mul(h, k) i = Conv(x, w)"
        " y = Add(m, i) }",
        w=weight(4, 6, 3, 3),
        k=weight(),
    )
    assert "shares its weight" in apply(fold_affine, graph, changes=0).declined[0]


def test_scale_of_a_graph_output_stays_when_the_unscaled_value_is_an_output_too():
    """A value that leaves the graph keeps its numbers."""
    graph = model(
        "g (float[2, 6, 5, 5] x) => (float[2, 4, 3, 3] h, float[2, 4, 3, 3] y) { h = Conv(x, w) y = Mul(h, k) }",
        w=weight(4, 6, 3, 3),
        k=weight(),
    )
    apply(fold_affine, graph, changes=0)


def test_batch_norm_inside_an_if_branch_is_folded():
    """Subgraphs are optimised too, with the weights in the main graph."""
    graph = model(
        """g (bool c, float[1, 6, 5, 5] x) => (float[1, 4, 3, 3] y) {
        y = If(c) <then_branch = t () => (float[1, 4, 3, 3] p) { h = Conv(x, w) p = BatchNormalization(h, k, k, m, v) },
                   else_branch = e () => (float[1, 4, 3, 3] q) { q = Conv(x, u) }> }""",
        w=weight(4, 6, 3, 3),
        u=weight(4, 6, 3, 3, seed=1),
        k=weight(4),
        m=weight(4, seed=1),
        v=weight(4, seed=2),
    )
    apply(fold_affine, graph, changes=1)
    assert ops(graph) == {"If": 1, "Conv": 2}
