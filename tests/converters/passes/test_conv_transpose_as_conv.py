"""A ConvTranspose whose patches do not touch becomes a 1x1 Conv and a shuffle, two of them become two and one."""

import onnx_ir as ir
import pytest

from converters.passes.conv_transpose_as_conv import conv_transpose_as_conv
from converters.passes.infer_shapes import infer_shapes
from tests.converters.passes.graphs import ARM, CPU, NPU, apply, model, ops, weight

ONE = "strides = [2, 3]"
TWO = "strides = [2, 2]"


def net(
    body: str = f"y = ConvTranspose<{ONE}>(x, v, b)",
    size: str = "5,6",
    channels: int = 3,
    outputs: str = "float[1,M,H,W] y",
    more: str = "",
) -> ir.Model:
    """x [1,4,*size]; v makes patches of 2x3, w patches of 2x2, u of w's patches again 2x2."""
    return model(
        f"g (float[1,4,{size}] x{more}) => ({outputs}) {{ {body} }}",
        v=weight(4, channels, 2, 3),
        b=weight(channels, seed=1),
        w=weight(4, 6, 2, 2),
        c=weight(6, seed=1),
        u=weight(6, 2, 2, 2),
    )


PAIR = f"t = ConvTranspose<{TWO}>(x, w, c)  r = Relu(t)  e = ConvTranspose<{TWO}>(r, u)  y = Sigmoid(e)"


def test_one_becomes_a_pointwise_conv_with_its_places_as_channels():
    """Rows and columns of a patch that is not square lie where they did."""
    graph = net()
    apply(conv_transpose_as_conv, graph, CPU, changes=1)
    assert graph.graph.node(0).op_type == "Conv"
    assert "ConvTranspose" not in ops(graph)


def test_two_in_a_row_share_one_shuffle_behind_both_activations():
    """Nothing is shuffled between them, and ONNX Runtime finds each activation beside its Conv."""
    graph = net(PAIR)
    apply(conv_transpose_as_conv, graph, CPU, changes=2)
    assert [node.op_type for node in graph.graph][:4] == ["Conv", "Relu", "Conv", "Sigmoid"]
    assert ops(graph)["Transpose"] == 2


def test_two_without_an_activation_between_are_a_pair_too():
    """And without a bias."""
    graph = net(f"t = ConvTranspose<{TWO}>(x, w)  y = ConvTranspose<{TWO}>(t, u)")
    apply(conv_transpose_as_conv, graph, CPU, changes=2)
    assert ops(graph)["Conv"] == 2


def test_free_batch_stays_free():
    """Only height and width must be known."""
    graph = net(PAIR)
    graph.graph.inputs[0].shape = ir.Shape(["N", 4, 5, 6])
    infer_shapes(graph, CPU)
    apply(conv_transpose_as_conv, graph, CPU, changes=2)


def test_value_between_the_two_that_is_read_elsewhere_is_put_in_place():
    """Each of them is rewritten on its own then."""
    graph = net(PAIR, outputs="float[1,M,H,W] y, float[1,6,10,12] r")
    apply(conv_transpose_as_conv, graph, CPU, changes=2)
    assert ops(graph)["Transpose"] == 4


@pytest.mark.parametrize("profile", [ARM, NPU], ids=["arm", "npu"])
def test_other_processors_keep_it(profile):
    """The layout, and what was measured, are those of x86-64 CPUs."""
    apply(conv_transpose_as_conv, net(), profile, changes=0)


@pytest.mark.parametrize(
    ("graph", "reason"),
    [(net(size="H,W"), "not known"), (net(channels=6), "36 channels are too many")],
    ids=["free size", "many channels"],
)
def test_one_that_must_stay_is_told(graph, reason):
    """The reason names what is in the way."""
    (told,) = apply(conv_transpose_as_conv, graph, CPU, changes=0).declined
    assert reason in told


@pytest.mark.parametrize(
    "body",
    [
        "y = ConvTranspose<strides = [1, 1]>(x, v, b)",
        "y = ConvTranspose<strides = [3, 3]>(x, v, b)",
        f"y = ConvTranspose<{ONE}, pads = [1, 0, 0, 0]>(x, v, b)",
        f"y = ConvTranspose<{ONE}, output_padding = [1, 0]>(x, v, b)",
        f"y = ConvTranspose<{ONE}, output_shape = [10, 18]>(x, v, b)",
        f"y = ConvTranspose<{ONE}, dilations = [2, 1]>(x, v, b)",
        f'y = ConvTranspose<{ONE}, auto_pad = "SAME_UPPER">(x, v, b)',
        f"y = ConvTranspose<{ONE}, group = 2>(x, v)",
    ],
    ids=["overlap", "gaps", "pads", "output padding", "output shape", "dilated", "automatic padding", "groups"],
)
def test_patches_that_touch_or_are_cut_stay(body):
    """Only a kernel that is its own stride makes patches of its own."""
    assert apply(conv_transpose_as_conv, net(body), CPU, changes=0).declined == ()


def test_bias_from_the_outside_keeps_it():
    """A bias that is an input cannot be repeated at conversion."""
    graph = net(f"y = ConvTranspose<{ONE}>(x, v, d)", more=", float[3] d")
    apply(conv_transpose_as_conv, graph, CPU, changes=0)
