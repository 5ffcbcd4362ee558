"""A PRelu between convolutions in operators that onnxruntime computes in its blocked layout.

onnxruntime 1.31 keeps Conv, Relu, Add and pooling on the CPU in blocks of channels (NCHWc) and has no PRelu there: each
one costs two changes of layout and a slow kernel. It takes the Relu and the Add as part of the convolutions.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from converters.passes.blocked_layout import BLOCK, has_blocked_layout
from converters.passes.matching import constant, is_op, label, nodes_of, producer
from converters.passes.result import PassResult
from converters.passes.rewriting import add_initializer, add_node, replace_output
from edgert.profile import DeviceProfile

Slopes = npt.NDArray[np.float32]

STEEPEST = 8
"""Up to this slope the sum is right to a few units in the last place: for x < 0 it adds x and slope * x - x."""

BLOCKED = ("Conv", "Add", "Relu", "MaxPool", "AveragePool", "Concat", "BatchNormalization")


def prelu_as_conv(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Write PRelu(x) as x + (1 - slope) * Relu(-x), both products as depthwise Conv of 1x1: at run time two nodes.

    Only where the CPU is the profile's processor, of x86-64, and x [N,C,H,W] has C in whole blocks and comes from an
    operator of that layout.
    """
    if not has_blocked_layout(profile):
        return PassResult(0)
    changes, declined = 0, []
    for node in nodes_of(model):
        if not is_op(node, "PRelu"):
            continue
        reason = _rewrite(model, node)
        changes += not reason
        if reason:
            declined.append(f"{label(node)}: {reason}")
    return PassResult(changes, tuple(declined))


def _rewrite(model: ir.Model, node: ir.Node) -> str:
    """Rewrite one node; return why not where it stays."""
    source, slope = node.inputs[0], constant(node.inputs[1])
    if source is None or slope is None or slope.dtype != np.float32:
        return "its slope is not a float32 constant"
    channels = source.shape[1] if source.shape is not None and len(source.shape) == 4 else None
    if not isinstance(channels, int) or channels % BLOCK:
        return "its channels are not known, or not whole blocks"
    if slope.size not in (1, channels) or slope.size != max(slope.shape[-3:-2] or (1,)):
        return "its slope is not one number for each channel"
    if producer(source, *BLOCKED) is None:
        return "what makes its input is not computed in blocks"
    slopes: Slopes = np.broadcast_to(slope.astype(np.float32).reshape(-1), (channels,)).reshape(channels, 1, 1, 1)
    if float(np.abs(slopes).max()) > STEEPEST:
        return f"a slope beyond {STEEPEST} would cost digits"
    replace_output(node, _written(model, node, source, slopes))
    return ""


def _written(model: ir.Model, node: ir.Node, source: ir.Value, slopes: Slopes) -> ir.Value:
    channels, name = len(slopes), str(node.outputs[0].name)
    negate = add_initializer(model, f"{name}_negate", np.full_like(slopes, -1))
    rest = add_initializer(model, f"{name}_rest", np.float32(1) - slopes)
    depthwise: dict[str, int | Sequence[int]] = {"group": channels, "kernel_shape": [1, 1]}
    minus = add_node(model, node, "Conv", [source, negate], depthwise, like=source)
    below = add_node(model, node, "Relu", [minus], like=source)
    lifted = add_node(model, node, "Conv", [below, rest], depthwise, like=source)
    return add_node(model, node, "Add", [lifted, source], like=source)
