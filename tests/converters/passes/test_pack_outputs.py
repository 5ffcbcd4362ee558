"""Neighbouring places as channels: a Conv with few outputs fills whole blocks and gives the same numbers."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from converters.passes.infer_shapes import infer_shapes
from converters.passes.pack_outputs import pack_outputs
from tests.converters.passes.graphs import ARM, CPU, NPU, apply, model, ops, weight

AVX2 = replace(CPU, isa=("avx2",))


def net(
    channels: int = 1,
    kernel: tuple[int, int] = (5, 5),
    size: tuple[str, str] = ("40", "44"),
    inputs: int = 8,
    attributes: str = "pads = [2, 2, 2, 2]",
    behind: str = "y = Relu(c)",
    group: int = 1,
) -> ir.Model:
    """One Conv with a bias on x [1, inputs, *size], and what comes behind it."""
    return model(
        f"g (float[1,{inputs},{size[0]},{size[1]}] x) => (float[N,M,H,W] y)"
        f" {{ c = Conv<{attributes}{', ' if attributes else ''}group = {group}>(x, w, b)  {behind} }}",
        w=weight(channels, inputs // group, *kernel) / (4 * inputs * kernel[0] * kernel[1]),
        b=weight(channels, seed=1),
    )


def packed_conv(graph: ir.Model) -> ir.Node:
    return next(node for node in graph.graph if node.op_type == "Conv")


@pytest.mark.parametrize(
    ("channels", "kernel", "attributes"),
    [
        (1, (5, 5), "pads = [2, 2, 2, 2]"),
        (3, (5, 5), "pads = [2, 2, 2, 2]"),
        (8, (3, 39), "pads = [1, 19, 1, 19]"),
        (1, (5, 5), "strides = [2, 3], pads = [1, 0, 2, 1]"),
        (2, (7, 3), 'auto_pad = "VALID"'),
        (5, (3, 3), "strides = [1, 2]"),
    ],
)
def test_conv_with_few_outputs_gives_the_same_numbers_from_whole_blocks(channels, kernel, attributes):
    """Kernels, strides and pads of any kind: at least 15 of 16 lanes have an output, and no number moves."""
    graph = net(channels, kernel, size=("96", "80"), attributes=attributes)
    apply(pack_outputs, graph, CPU, changes=1)
    outputs = packed_conv(graph).inputs[1].const_value.shape[0]
    assert outputs % channels == 0
    assert 15 <= outputs <= 32


def test_sizes_that_places_do_not_divide_are_cut_to_the_old_size():
    """41 x 43 outputs: the last places of the packed Conv lie outside and go."""
    graph = net(size=("41", "43"))
    apply(pack_outputs, graph, CPU, changes=1)
    assert ops(graph)["Slice"] == 1


def test_long_row_is_packed_along_its_width_alone():
    """A 1-D convolution written as one row: packing rows would compute places that do not exist."""
    graph = net(kernel=(1, 256), size=("1", "9000"), inputs=1, attributes="strides = [1, 2]")
    apply(pack_outputs, graph, CPU, changes=1)
    assert tuple(packed_conv(graph).inputs[1].const_value.shape) == (16, 1, 1, 286)


def test_activation_stays_beside_its_conv():
    """ONNX Runtime fuses it there, so the shuffle comes behind it."""
    graph = net(behind="y = LeakyRelu<alpha = 0.3>(c)")
    apply(pack_outputs, graph, CPU, changes=1)
    assert [node.op_type for node in graph.graph][:2] == ["Conv", "LeakyRelu"]


def test_output_that_is_read_twice_is_shuffled_at_once():
    """Both readers see the values in their old places."""
    graph = net(behind="r = Relu(c)  s = Sigmoid(c)  y = Add(r, s)")
    apply(pack_outputs, graph, CPU, changes=1)
    assert ops(graph)["Relu"] == ops(graph)["Sigmoid"] == 1


def test_free_batch_stays_free():
    """Only height and width must be known."""
    graph = net(behind="y = Relu(c)")
    graph.graph.inputs[0].shape = ir.Shape(["N", 8, 40, 44])
    infer_shapes(graph, CPU)
    apply(pack_outputs, graph, CPU, changes=1)


def test_avx2_packs_fewer_places():
    """Its blocks hold eight channels: a Conv of eight outputs has nothing to fill there."""
    assert pack_outputs(net(8, (3, 39), attributes="pads = [1, 19, 1, 19]"), AVX2).changes == 0
    assert pack_outputs(net(8, (3, 39), attributes="pads = [1, 19, 1, 19]"), CPU).changes == 1


@pytest.mark.parametrize("profile", [ARM, NPU], ids=["arm", "npu"])
def test_other_processors_keep_their_convs(profile):
    """The layout, and what was measured, are those of x86-64 CPUs."""
    assert pack_outputs(net(), profile).changes == 0


@pytest.mark.parametrize(
    "graph",
    [
        net(channels=16),
        net(channels=8, kernel=(9, 9), attributes="pads = [4, 4, 4, 4]", group=8),
        net(attributes="dilations = [2, 2]"),
        net(attributes='auto_pad = "SAME_UPPER"'),
        net(size=("8", "8")),
        net(channels=8, kernel=(1, 1), inputs=15, attributes=""),
        net(channels=12),
    ],
    ids=["16 outputs", "depthwise", "dilated", "automatic padding", "small", "a kernel of one", "12 of 16 lanes full"],
)
def test_conv_that_would_not_gain_stays(graph):
    """Whole blocks, groups, dilations, little work, or a kernel that would grow more than the blocks fill."""
    apply(pack_outputs, graph, CPU, changes=0)


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (net(inputs=33), "no multiple of it"),
        (net(size=("H", "W")), "not known"),
    ],
    ids=["33 inputs", "free size"],
)
def test_conv_that_cannot_be_packed_tells_why(graph, reason):
    """Inputs that are not read in blocks, or a size that is only known at run time."""
    (told,) = pack_outputs(graph, CPU).declined
    assert reason in told


def test_bias_from_the_outside_keeps_the_conv():
    """A bias that is an input cannot be repeated at conversion."""
    graph = model(
        "g (float[1,8,40,44] x, float[1] b) => (float[N,M,H,W] y) { y = Conv<pads = [2, 2, 2, 2]>(x, w, b) }",
        w=weight(1, 8, 5, 5) / 800,
    )
    apply(pack_outputs, graph, CPU, changes=0)


def test_conv_without_bias_is_packed_without_one():
    """No third input appears."""
    graph = model(
        "g (float[1,8,40,44] x) => (float[N,M,H,W] y) { y = Conv<pads = [2, 2, 2, 2]>(x, w) }",
        w=weight(1, 8, 5, 5) / 800,
    )
    apply(pack_outputs, graph, CPU, changes=1)
    assert len(packed_conv(graph).inputs) == 2
    assert packed_conv(graph).inputs[1].const_value.dtype == ir.DataType.FLOAT
    assert np.count_nonzero(packed_conv(graph).inputs[1].const_value.numpy()) == 16 * 8 * 25
