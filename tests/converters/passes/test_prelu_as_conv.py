"""PRelu between convolutions becomes operators that onnxruntime computes in blocks; its numbers stay."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from converters.passes.prelu_as_conv import prelu_as_conv
from edgert.profile import load_profile
from tests.converters.passes.graphs import ARM, CPU, NPU, apply, model, ops, weight

GPU = load_profile("intel-core-ultra-s2-igpu")


def net(
    channels: int = 16, slope: tuple[int, ...] = (16, 1, 1), before: str = "Conv(x, w)", steepness: float = 1
) -> ir.Model:
    """x [1,16,4,4] through a Conv and a PRelu."""
    return model(
        f"g (float[1,16,4,4] x) => (float[1,{channels},4,4] y) {{ c = {before}  y = PRelu(c, s) }}",
        w=weight(channels, 16, 1, 1),
        s=np.float32(steepness) * weight(*slope, seed=1),
    )


@pytest.mark.parametrize("slope", [(16, 1, 1), (1, 16, 1, 1), (1, 1, 1), (1,)])
def test_prelu_behind_a_conv_becomes_a_relu_and_depthwise_convs(slope):
    """One slope or one for each channel: the results are the same, and no PRelu is left."""
    graph = net(slope=slope)
    apply(prelu_as_conv, graph, CPU, changes=1)
    assert ops(graph) == {"Conv": 3, "Relu": 1, "Add": 1}


def test_prelu_with_slopes_above_one_and_below_zero_keeps_its_numbers():
    """The rewritten sum holds for a line that is steeper below 0, flat, or turned around."""
    graph = model(
        "g (float[1,16,4,4] x) => (float[1,16,4,4] y) { c = Conv(x, w)  y = PRelu(c, s) }",
        w=weight(16, 16, 1, 1),
        s=np.linspace(-7, 7, 16, dtype=np.float32).reshape(16, 1, 1),
    )
    apply(prelu_as_conv, graph, CPU, changes=1)


@pytest.mark.parametrize(
    "profile", [ARM, NPU, GPU, replace(GPU, processor="cpu")], ids=["arm", "npu", "gpu", "gpu's cpu"]
)
def test_prelu_stays_for_other_processors(profile):
    """The layout, and what was measured, are those of x86-64 CPUs; a GPU and its CPU read one file."""
    graph = net()
    apply(prelu_as_conv, graph, profile, changes=0)
    assert ops(graph)["PRelu"] == 1


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (net(channels=24, slope=(24, 1, 1)), "not whole blocks"),
        (net(slope=(16, 4, 4)), "not one number for each channel"),
        (net(slope=(4, 4)), "not one number for each channel"),
        (net(before="Sigmoid(x)"), "not computed in blocks"),
        (net(steepness=20), "would cost digits"),
    ],
    ids=["24 channels", "a slope for each pixel", "a slope for each place", "behind a Sigmoid", "steep"],
)
def test_prelu_that_would_not_gain_stays_and_is_told(graph, reason):
    """Where the blocked layout does not take the Conv or the values do not come in it, the why is told."""
    result = apply(prelu_as_conv, graph, CPU, changes=0)
    assert reason in result.declined[0]
