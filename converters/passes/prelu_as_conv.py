"""A PRelu between convolutions in operators that onnxruntime computes in its blocked layout.

onnxruntime 1.31 keeps Conv, Relu, Add and pooling on the CPU in blocks of channels (NCHWc) and has no PRelu there: each
one costs two changes of layout and a slow kernel. Face mesh, 23 PRelu: 8.7 ms before, 2.2 ms after, two threads.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from converters.passes.matching import constant, is_op, label, nodes_of, producer
from converters.passes.result import PassResult
from converters.passes.rewriting import add_initializer, add_node, replace_output
from edgert.profile import DeviceProfile

BLOCK = 16
"""Channels in a block of AVX-512; a depthwise Conv of another number of channels is computed group by group."""

BLOCKED = ("Conv", "Add", "Relu", "MaxPool", "AveragePool", "Concat", "BatchNormalization")


def prelu_as_conv(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Write PRelu(x) as Relu(x) - slope * Relu(-x), both products as depthwise Conv of 1x1; the numbers are the same.

    Only where the CPU is the profile's processor, of x86-64, and x [N,C,H,W] has C in whole blocks and comes from an
    operator of that layout.
    """
    if profile.providers[0].name != "CPUExecutionProvider" or profile.arch != "x86_64":
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
    per_channel = np.broadcast_to(slope.astype(np.float32).reshape(-1), (channels,)).reshape(channels, 1, 1, 1)
    name = str(node.outputs[0].name)
    negate = add_initializer(model, f"{name}_negate", np.full((channels, 1, 1, 1), -1, np.float32))
    factor = add_initializer(model, f"{name}_factor", -per_channel)
    depthwise: dict[str, int | Sequence[int]] = {"group": channels, "kernel_shape": [1, 1]}
    positive = add_node(model, node, "Relu", [source], like=source)
    minus = add_node(model, node, "Conv", [source, negate], depthwise, like=source)
    below = add_node(model, node, "Relu", [minus], like=source)
    scaled = add_node(model, node, "Conv", [below, factor], depthwise, like=source)
    replace_output(node, add_node(model, node, "Add", [positive, scaled], like=source))
    return ""
