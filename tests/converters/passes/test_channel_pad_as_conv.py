"""A Pad that adds channels of zeros between convolutions becomes a 1x1 Conv of ones and zeros."""

import numpy as np
import onnx_ir as ir
import pytest

from converters.passes.channel_pad_as_conv import channel_pad_as_conv
from tests.converters.passes.graphs import ARM, CPU, NPU, apply, model, ops, weight


def net(
    pads: tuple[int, ...] = (0, 0, 0, 0, 0, 16, 0, 0),
    channels: int = 16,
    before: str = "c = Conv(x, w)  m = MaxPool<kernel_shape = [2, 2]>(c)",
    value: float = 0,
    mode: str = "constant",
) -> ir.Model:
    return model(
        f'g (float[1,{channels},6,6] x) => (float[N,C,H,W] y) {{ {before}  y = Pad<mode = "{mode}">(m, pads, v) }}',
        w=weight(channels, channels, 1, 1),
        pads=np.array(pads),
        v=np.array(value, np.float32),
    )


@pytest.mark.parametrize("pads", [(0, 0, 0, 0, 0, 16, 0, 0), (0, 32, 0, 0, 0, 0, 0, 0), (0, 16, 0, 0, 0, 32, 0, 0)])
def test_channels_of_zeros_come_out_of_a_conv(pads):
    """In front, behind, or both: the old channels keep their numbers and the new ones are 0."""
    graph = net(pads)
    apply(channel_pad_as_conv, graph, CPU, changes=1)
    assert ops(graph) == {"Conv": 2, "MaxPool": 1}


def test_pad_behind_residual_sums_is_rewritten():
    """However long the chain of sums: all of it comes from convolutions."""
    sums = " ".join(f"s{i + 1} = Add(s{i}, c{i})  c{i + 1} = Conv(s{i + 1}, w)" for i in range(6))
    apply(channel_pad_as_conv, net(before=f"s0 = Conv(x, w)  c0 = Conv(s0, w)  {sums}  m = Relu(s6)"), CPU, changes=1)


@pytest.mark.parametrize("profile", [ARM, NPU], ids=["arm", "npu"])
def test_other_processors_keep_the_pad(profile):
    """They have no blocked layout, or pad for nothing."""
    apply(channel_pad_as_conv, net(), profile, changes=0)


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (net((0, 0, 0, 0, 0, 8, 0, 0)), "no whole blocks"),
        (net((0, 0, 0, 0, 0, 4, 0, 0), channels=12), "no whole blocks"),
        (net((0, 0, 0, 0, 0, 512, 0, 0)), "too many"),
        (net(before="m = MaxPool<kernel_shape = [2, 2]>(x)"), "no convolution"),
        (net(before="c = Conv(x, w)  r = Add(x, c)  m = Relu(r)"), "no convolution"),
    ],
    ids=["24 channels", "12 channels", "528 channels", "an input", "an input added"],
)
def test_pad_that_would_not_gain_stays_and_is_told(graph, reason):
    """Values that do not come in blocks, or would not leave in blocks."""
    (told,) = apply(channel_pad_as_conv, graph, CPU, changes=0).declined
    assert reason in told


@pytest.mark.parametrize(
    "graph",
    [
        net((0, 0, 1, 0, 0, 16, 0, 0)),
        net((0, 0, 1, 1, 0, 0, 1, 1)),
        net((0, 0, 0, 0, 0, -16, 0, 0), channels=32),
        net(value=1.0),
        net(mode="edge"),
    ],
    ids=["rows too", "rows and columns", "channels taken away", "ones", "edges repeated"],
)
def test_other_pads_stay(graph):
    """Only zeros, and only channels."""
    assert apply(channel_pad_as_conv, graph, CPU, changes=0).declined == ()
