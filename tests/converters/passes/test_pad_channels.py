"""Channels of zeros between two convolutions: whole blocks, and the same numbers."""

import onnx_ir as ir
import pytest

from converters.passes.pad_channels import pad_channels
from tests.converters.passes.graphs import ARM, CPU, NPU, apply, model, ops, weight


def net(
    channels: int = 12,
    between: str = "r = HardSwish(c)",
    size: int = 6,
    second: str = "y = Conv<pads = [1, 1, 1, 1]>(r, v)",
    outputs: str = "float[1,N,H,W] y",
    group: int = 1,
) -> ir.Model:
    return model(
        f"g (float[1,4,{size},{size}] x) => ({outputs}) {{ c = Conv<group = {group}>(x, w, b)  {between}  {second} }}",
        w=weight(channels, 4 // group, 1, 1),
        b=weight(channels, seed=1),
        v=weight(5, channels, 3, 3) / 20,
    )


def shapes(graph: ir.Model) -> list[tuple[int, ...]]:
    """The shapes of the weights of all convolutions, in order."""
    return [tuple(node.inputs[1].const_value.shape) for node in graph.graph if node.op_type == "Conv"]


@pytest.mark.parametrize("between", ["r = HardSwish(c)", "r = Relu(c)", "h = Tanh(c)  r = LeakyRelu(h)"])
def test_channels_between_two_convs_fill_whole_blocks(between):
    """Twelve become sixteen, past activations that keep 0."""
    graph = net(between=between)
    apply(pad_channels, graph, CPU, changes=1)
    assert shapes(graph) == [(16, 4, 1, 1), (5, 16, 3, 3)]


def test_convs_side_by_side_and_without_bias_are_filled():
    """The first Conv's missing bias stays missing."""
    graph = model(
        "g (float[1,4,6,6] x) => (float[1,5,6,6] y) { c = Conv(x, w)  y = Conv(c, v) }",
        w=weight(22, 4, 1, 1),
        v=weight(5, 22, 1, 1) / 20,
    )
    apply(pad_channels, graph, CPU, changes=1)
    assert shapes(graph) == [(32, 4, 1, 1), (5, 32, 1, 1)]
    assert len(graph.graph.node(0).inputs) == 2


def test_few_channels_are_filled_where_the_picture_is_one_place():
    """The squeeze of a squeeze-and-excite block: its work is nothing, its changes of layout are not."""
    graph = net(channels=6, size=1)
    apply(pad_channels, graph, CPU, changes=1)
    (told,) = apply(pad_channels, net(channels=6), CPU, changes=0).declined
    assert "6 channels would become 16" in told


def test_weight_that_another_conv_reads_too_is_filled_for_this_one_alone():
    """The other reader keeps its twelve channels."""
    graph = model(
        """g (float[1,4,6,6] x, float[1,12,6,6] z) => (float[1,5,4,4] y, float[1,5,4,4] u)
        { c = Conv(x, w)  y = Conv(c, v)  u = Conv(z, v) }""",
        w=weight(12, 4, 1, 1),
        v=weight(5, 12, 3, 3) / 20,
    )
    apply(pad_channels, graph, CPU, changes=1)
    assert shapes(graph) == [(16, 4, 1, 1), (5, 16, 3, 3), (5, 12, 3, 3)]


@pytest.mark.parametrize("profile", [ARM, NPU], ids=["arm", "npu"])
def test_other_processors_keep_their_channels(profile):
    """The layout, and what was measured, are those of x86-64 CPUs."""
    apply(pad_channels, net(), profile, changes=0)


@pytest.mark.parametrize(
    "graph",
    [
        net(channels=16),
        net(between="r = Sigmoid(c)"),
        net(between="r = Relu(c)", outputs="float[1,N,H,W] y, float[1,12,6,6] r"),
        net(
            between="r = Relu(c)  s = Neg(r)",
            second="a = Conv<pads = [1, 1, 1, 1]>(r, v)  m = ReduceMax(s)  y = Add(a, m)",
        ),
        net(group=4),
        net(second="y = Relu(r)"),
    ],
    ids=["whole blocks", "0 does not stay 0", "an output", "read twice", "groups", "no second Conv"],
)
def test_channels_that_are_whole_or_seen_elsewhere_stay(graph):
    """Nobody else may see the channels of zeros, and they must stay zeros."""
    before = ops(graph)
    assert apply(pad_channels, graph, CPU, changes=0).declined == ()
    assert ops(graph) == before
