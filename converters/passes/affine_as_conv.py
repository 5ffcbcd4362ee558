"""A scale and offset that must stay between two convolutions becomes a depthwise 1x1 convolution, on x86 CPUs.

ONNX Runtime keeps values between convolutions in a blocked layout (NCHWc). A Mul or Add of a constant does not know
that layout: it costs a ReorderOutput before and a ReorderInput after itself. A depthwise Conv knows it. PP-LCNetV3 has
such an offset in front of each padded depthwise convolution, where `fold_affine` cannot move it through the padding.
See docs/adr/0010-affine-as-depthwise-convolution.md.
"""

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from converters.passes.blocked_layout import BLOCK, has_blocked_layout, is_blocked
from converters.passes.linear import channel_vector
from converters.passes.matching import (
    attribute_int,
    constant,
    is_op,
    is_private,
    label,
    nodes_of,
    only_consumer,
    producer,
    split_constant,
)
from converters.passes.result import PassResult
from converters.passes.rewriting import add_initializer, add_node, replace_output
from edgert.profile import DeviceProfile


def affine_as_conv(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Replace Mul, Add, or Mul then Add of constants between convolutions by a depthwise 1x1 Conv of the same numbers.

    Only for an x86 CPU, float32, four dimensions, a multiple of 16 channels, and values that nothing else uses.
    """
    if not has_blocked_layout(profile):
        return PassResult(0)
    changes, declined = 0, list[str]()
    for node in nodes_of(model):
        if node.graph is None or not is_op(node, "Mul", "Add"):
            continue
        channels = _channels_of_next_conv(node)
        if channels is None:
            continue
        reason = _rewrite(model, node, channels)
        changes += reason is None
        declined += [] if reason is None else [f"{label(node)}: {reason}"]
    return PassResult(changes, tuple(declined))


def _channels_of_next_conv(node: ir.Node) -> int | None:
    """Return the input channels of the two-dimensional convolution that alone reads the node's output."""
    follower = only_consumer(node.outputs[0])
    weight = constant(follower.inputs[1]) if follower is not None and is_op(follower, "Conv") else None
    if follower is None or weight is None or weight.ndim != 4 or weight.dtype != np.float32:
        return None
    if split_constant(node) is None or follower.inputs[0] is not node.outputs[0]:
        return None
    return int(weight.shape[1]) * attribute_int(follower, "group", 1)


def _rewrite(model: ir.Model, node: ir.Node, channels: int) -> str | None:
    if channels % BLOCK:
        return f"{channels} channels are no multiple of {BLOCK}"
    own = _operand(node, channels)
    if own is None:
        return "its constant is not one number per channel"
    source, vector = own
    factor, offset = (vector, np.zeros_like(vector)) if node.op_type == "Mul" else (np.ones_like(vector), vector)
    inner = producer(source, "Mul") if node.op_type == "Add" and is_private(source) else None
    before = None if inner is None else _operand(inner, channels)
    if before is not None:
        source, factor = before
    if not is_blocked(source):
        return "no convolution comes before it"
    weight = add_initializer(model, f"{node.outputs[0].name}_weight", factor.reshape(-1, 1, 1, 1))
    bias = add_initializer(model, f"{node.outputs[0].name}_bias", offset)
    attributes: dict[str, int | tuple[int, ...]] = {"group": channels, "kernel_shape": (1, 1)}
    replace_output(node, add_node(model, node, "Conv", [source, weight, bias], attributes, like=node.outputs[0]))
    return None


def _operand(node: ir.Node, channels: int) -> tuple[ir.Value, npt.NDArray[np.float32]] | None:
    """Split a node into its variable and its constant, one float32 number per channel."""
    parts = split_constant(node)
    operand = constant(parts[1]) if parts else None
    if parts is None or operand is None or operand.dtype != np.float32:
        return None
    vector = channel_vector(operand, 4, 1, channels)
    return None if vector is None else (parts[0], vector.astype(np.float32))
