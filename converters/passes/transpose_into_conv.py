"""A picture with its channels last goes into its first Conv as it is, on x86 CPUs.

TensorFlow's pictures are [N, H, W, C]: an exporter puts a Transpose in front of the first Conv. The same numbers in the
same order are one channel of rows that are W * C long; a kernel as much wider, with as much larger a stride, meets the
same numbers there. It computes the same products, and the Transpose goes.
"""

import numpy as np
import onnx_ir as ir

from converters.passes.blocked_layout import BLOCK, has_blocked_layout, is_plain_conv
from converters.passes.matching import (
    attribute_ints,
    constant,
    is_op,
    is_private,
    label,
    nodes_of,
    producer,
)
from converters.passes.result import PassResult
from converters.passes.rewriting import add_initializer, add_node, replace_output
from edgert.profile import DeviceProfile

TO_CHANNELS_FIRST = (0, 3, 1, 2)


def transpose_into_conv(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Let a Conv read [N, H, W, C] as [N, 1, H, W * C], with its weight [M, C, h, w] as [M, 1, h, w * C].

    Only for an x86 CPU, float32, one group, no dilation, fewer channels than a block and known H, W and C: with more
    channels the Conv itself is faster in blocks of them.
    """
    if not has_blocked_layout(profile):
        return PassResult(0)
    changes, declined = 0, list[str]()
    for node in nodes_of(model):
        transpose = producer(node.inputs[0], "Transpose") if is_op(node, "Conv") else None
        if transpose is None or attribute_ints(transpose, "perm") != TO_CHANNELS_FIRST:
            continue
        reason = _rewrite(model, node, transpose)
        changes += not reason
        declined += [f"{label(node)}: {reason}"] if reason else []
    return PassResult(changes, tuple(declined))


def _rewrite(model: ir.Model, node: ir.Node, transpose: ir.Node) -> str:
    """Rewrite one Conv; return why not where it stays."""
    source, weight = transpose.inputs[0], constant(node.inputs[1])
    shape = None if source is None or source.shape is None else tuple(source.shape)[1:]
    if weight is None or weight.dtype != np.float32 or not is_plain_conv(node):
        return "its weight is not a float32 constant of one group without dilation"
    if source is None or shape is None or not all(isinstance(size, int) for size in shape):
        return "the height, width or channels of its input are not known"
    height, width, channels = (int(size) for size in shape)  # type: ignore[arg-type]
    if channels == 1 or channels >= BLOCK or not is_private(transpose.outputs[0]):
        return f"its input has {channels} channels, or is used elsewhere too"
    rows = add_initializer(model, f"{node.inputs[0].name}_rows", np.array([-1, 1, height, width * channels]))  # type: ignore[union-attr]
    flat = add_node(model, node, "Reshape", [source, rows])
    flat.type = source.type
    kernel = np.ascontiguousarray(weight.transpose(0, 2, 3, 1)).reshape(len(weight), 1, weight.shape[2], -1)
    inputs = [flat, add_initializer(model, f"{node.inputs[1].name}_rows", kernel), *node.inputs[2:]]  # type: ignore[union-attr]
    strides, pads = attribute_ints(node, "strides") or (1, 1), attribute_ints(node, "pads") or (0, 0, 0, 0)
    attributes = {
        "kernel_shape": kernel.shape[2:],
        "strides": (strides[0], strides[1] * channels),
        "pads": (pads[0], pads[1] * channels, pads[2], pads[3] * channels),
    }
    replace_output(node, add_node(model, node, "Conv", inputs, attributes, like=node.outputs[0]))
    return ""
