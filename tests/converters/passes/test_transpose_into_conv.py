"""A picture with its channels last is read as it lies; the first Conv gives the same numbers."""

import onnx_ir as ir
import pytest

from converters.passes.infer_shapes import infer_shapes
from converters.passes.transpose_into_conv import transpose_into_conv
from tests.converters.passes.graphs import ARM, CPU, NPU, apply, model, ops, weight


def net(
    channels: int = 3,
    size: tuple[str, str] = ("12", "14"),
    attributes: str = "strides = [2, 2], pads = [0, 0, 1, 1]",
    perm: str = "[0, 3, 1, 2]",
    outputs: str = "float[1,4,H,W] y",
    behind: str = "y = Conv<{attributes}>(t, w, b)",
) -> ir.Model:
    return model(
        f"g (float[1,{size[0]},{size[1]},{channels}] x) => ({outputs})"
        f" {{ t = Transpose<perm = {perm}>(x)  {behind.format(attributes=attributes)} }}",
        w=weight(4, channels, 3, 3),
        b=weight(4, seed=1),
    )


@pytest.mark.parametrize(
    "attributes",
    ["strides = [2, 2], pads = [0, 0, 1, 1]", "pads = [1, 1, 1, 1]", "strides = [3, 1]", "pads = [0, 2, 1, 0]"],
)
def test_first_conv_reads_channels_last(attributes):
    """Any stride and padding: the Transpose goes and the numbers stay."""
    graph = net(attributes=attributes)
    apply(transpose_into_conv, graph, CPU, changes=1)
    assert ops(graph) == {"Reshape": 1, "Conv": 1}


def test_free_batch_stays_free():
    """The rows are made of height, width and channels alone."""
    graph = net()
    graph.graph.inputs[0].shape = ir.Shape(["N", 12, 14, 3])
    infer_shapes(graph, CPU)
    apply(transpose_into_conv, graph, CPU, changes=1)


@pytest.mark.parametrize("profile", [ARM, NPU], ids=["arm", "npu"])
def test_other_processors_keep_the_transpose(profile):
    """A kernel of one channel is not what an accelerator wants, and on arm64 it was not measured."""
    apply(transpose_into_conv, net(), profile, changes=0)


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (net(channels=16), "16 channels"),
        (net(size=("H", "W")), "not known"),
        (net(attributes="dilations = [1, 2]"), "without dilation"),
        (net(attributes='auto_pad = "SAME_UPPER"'), "without dilation"),
        (net(outputs="float[1,4,H,W] y, float[1,3,12,14] t"), "used elsewhere"),
    ],
    ids=["16 channels", "free size", "dilated", "automatic padding", "read twice"],
)
def test_transpose_that_must_stay_is_told(graph, reason):
    """The reason names what is in the way."""
    (told,) = apply(transpose_into_conv, graph, CPU, changes=0).declined
    assert reason in told


def test_other_transposes_are_none_of_its_business():
    """Height and width exchanged is another picture."""
    assert apply(transpose_into_conv, net(channels=12, size=("12", "3"), perm="[0, 1, 3, 2]"), CPU).declined == ()
