"""A scale and offset between convolutions becomes a depthwise convolution on x86 CPUs."""

import pytest

from converters.passes.affine_as_conv import affine_as_conv
from tests.converters.passes.graphs import ARM, CPU, NPU, apply, model, ops, weight

PADDED = "y = Conv<pads = [1, 1, 1, 1]>(b, v)"


def graph(nodes, channels=16, **constants):
    text = f"g (float[1, 3, 6, 6] x) => (float[n, c, u, w] y) {{ c = Conv(x, u) r = Relu(c) {nodes} }}"
    return model(text, u=weight(channels, 3, 1, 1), v=weight(4, channels, 3, 3, seed=1), **constants)


@pytest.mark.parametrize("nodes", ["m = Mul(r, s) b = Add(m, o)", "b = Add(o, r)", "b = Mul(r, o)"])
def test_affine_between_convolutions_becomes_a_depthwise_convolution(nodes):
    """One Conv with a group per channel computes both."""
    scale = {"s": weight(1)} if "s" in nodes else {}
    rewritten = graph(f"{nodes} {PADDED}", o=weight(1, 16, 1, 1), **scale)
    apply(affine_as_conv, rewritten, changes=1)
    assert ops(rewritten) == {"Conv": 3, "Relu": 1}


@pytest.mark.parametrize("profile", [ARM, NPU])
def test_affine_on_other_processors_stays(profile):
    """The blocked layout is a matter of x86 CPUs."""
    apply(affine_as_conv, graph(f"b = Add(r, o) {PADDED}", o=weight(1)), profile, changes=0)


def test_affine_on_channels_that_fill_no_block_is_declined():
    """12 channels would leave the blocked layout anyway."""
    result = apply(affine_as_conv, graph(f"b = Add(r, o) {PADDED}", channels=12, o=weight(1)), CPU, changes=0)
    assert "12 channels" in result.declined[0]


def test_affine_behind_no_convolution_is_declined():
    """An image's own normalisation is not in the blocked layout."""
    plain = model(
        "g (float[1, 16, 6, 6] x) => (float[n, c, u, w] y) { b = Add(x, o) y = Conv<pads = [1, 1, 1, 1]>(b, v) }",
        v=weight(4, 16, 3, 3),
        o=weight(1),
    )
    assert "no convolution" in apply(affine_as_conv, plain, changes=0).declined[0]
