"""Channels of zeros that a Pad adds between convolutions come out of a 1x1 Conv instead, on x86 CPUs.

A residual block that doubles its channels pads its shortcut with channels of zeros. ONNX Runtime's blocked layout has
no Pad: it costs a change of layout before it, and the Add behind it is no part of the convolution any more. A 1x1 Conv
with the identity as its weight gives the same numbers in the layout.
"""

import numpy as np
import onnx_ir as ir

from converters.passes.blocked_layout import BLOCK, has_blocked_layout, is_blocked
from converters.passes.matching import constant, is_op, label, nodes_of, scalar
from converters.passes.result import PassResult
from converters.passes.rewriting import add_initializer, add_node, replace_output
from edgert.profile import DeviceProfile

MAX_CHANNELS = 512
"""A 1x1 Conv multiplies each of its inputs with each of its outputs: with more of them it is no longer cheap."""


def channel_pad_as_conv(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Write a Pad of a convolution's output by channels of zeros as a 1x1 Conv with the identity as its weight.

    Only for an x86 CPU, float32, four dimensions and whole blocks of channels before and after.
    """
    if not has_blocked_layout(profile):
        return PassResult(0)
    changes, declined = 0, list[str]()
    for node in nodes_of(model):
        pads = _channels_added(node) if is_op(node, "Pad") else None
        if pads is None:
            continue
        reason = _rewrite(model, node, *pads)
        changes += not reason
        declined += [f"{label(node)}: {reason}"] if reason else []
    return PassResult(changes, tuple(declined))


def _channels_added(node: ir.Node) -> tuple[int, int] | None:
    """Return how many channels of zeros a Pad adds before and after those of its input; None for any other Pad."""
    pads, mode = constant(node.inputs[1]), node.attributes.get("mode")
    if pads is None or (mode is not None and mode.as_string() != "constant") or len(node.inputs) > 3:
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None and scalar(node.inputs[2]) != 0:
        return None
    before, after = int(pads[1]), int(pads[5]) if pads.size == 8 else 0
    only_channels = pads.size == 8 and np.count_nonzero(pads) == (before != 0) + (after != 0)
    return (before, after) if only_channels and min(before, after) >= 0 and before + after else None


def _rewrite(model: ir.Model, node: ir.Node, before: int, after: int) -> str:
    """Rewrite one Pad; return why not where it stays."""
    source = node.inputs[0]
    channels = source.shape[1] if source is not None and source.shape is not None else None
    if source is None or not isinstance(channels, int) or source.dtype != ir.DataType.FLOAT:
        return "its channels are not known, or not float32"
    total = before + channels + after
    if channels % BLOCK or total % BLOCK or total > MAX_CHANNELS:
        return f"{channels} or {total} channels are no whole blocks, or too many"
    if not is_blocked(source):
        return "no convolution comes before it"
    weight = np.zeros((total, channels, 1, 1), np.float32)
    weight[before : before + channels, :, 0, 0] = np.eye(channels, dtype=np.float32)
    identity = add_initializer(model, f"{node.outputs[0].name}_identity", weight)
    conv = add_node(model, node, "Conv", [source, identity], {"kernel_shape": (1, 1)}, like=node.outputs[0])
    replace_output(node, conv)
    return ""
