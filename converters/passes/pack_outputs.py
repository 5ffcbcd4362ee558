"""A Conv with few output channels computes neighbouring places as further channels, on x86 CPUs.

ONNX Runtime computes 8 or 16 output channels at once there (see blocked_layout): a Conv with one output channel throws
away 15 of 16 numbers. The same weights, shifted by 0, 1, 2, ... places in a larger kernel with a larger stride, give
the outputs of neighbouring places as channels; a shuffle puts them where they belong. The products are the same, and
those of the added zeros. Measured in docs/adr/0050-convolutions-in-whole-blocks.md.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from converters.passes.blocked_layout import BLOCK, block_of, has_blocked_layout, is_plain_conv
from converters.passes.matching import (
    Array,
    attribute_ints,
    constant,
    is_op,
    label,
    nodes_of,
)
from converters.passes.places import Places, picture_size, put_in_place
from converters.passes.result import PassResult
from converters.passes.rewriting import add_initializer, add_node
from edgert.profile import DeviceProfile

MIN_PRODUCTS = 200_000
"""A smaller Conv takes some 20 microseconds: the shuffle would cost what it gains."""

MIN_GAIN = 1.5
"""By how much the arithmetic must shrink to pay for the shuffle."""

MAX_PLACES = 16
"""Neighbours packed in one: more of them only enlarge the kernel."""


@dataclass(frozen=True)
class _Conv:
    """A two-dimensional Conv and its numbers; pairs are (height, width)."""

    node: ir.Node
    weight: Array
    source: tuple[int, int]
    output: tuple[int, int]
    strides: tuple[int, int]
    begin: tuple[int, int]

    @property
    def channels(self) -> int:
        return int(self.weight.shape[0])


def pack_outputs(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Give a Conv with few output channels a kernel that computes up to 16 neighbouring places as further channels.

    Only for an x86 CPU, float32, one group, no dilation, known height and width, and where at least a third of the
    arithmetic goes. An infinity or NaN in the input reaches the places packed with those that it reached before.
    """
    if not has_blocked_layout(profile):
        return PassResult(0)
    changes, declined = 0, list[str]()
    for node in nodes_of(model):
        if node.graph is None or not is_op(node, "Conv"):
            continue
        reason = _rewrite(model, node, block_of(profile))
        changes += reason is None
        declined += [f"{label(node)}: {reason}"] if reason else []
    return PassResult(changes, tuple(declined))


def _rewrite(model: ir.Model, node: ir.Node, block: int) -> str | None:
    """Rewrite one Conv; "" where there is nothing to gain, a reason where something is in the way."""
    weight = constant(node.inputs[1])
    if weight is None or weight.ndim != 4 or weight.dtype != np.float32 or weight.shape[0] >= BLOCK:
        return ""
    inputs = int(weight.shape[1])
    if not is_plain_conv(node) or (_bias(node) is not None and constant(_bias(node)) is None):
        return ""
    if inputs >= BLOCK and inputs % BLOCK:
        return f"{inputs} input channels: more than a block and no multiple of it"
    conv = _read(node, weight)
    if conv is None:
        return "its height and width are not known"
    if math.prod(weight.shape) * math.prod(conv.output) < MIN_PRODUCTS:
        return ""
    places = min(_places(conv.channels), key=lambda pair: _cost(conv, pair, block))
    if _cost(conv, (1, 1), block) < MIN_GAIN * _cost(conv, places, block):
        return ""
    _write(model, conv, *places)
    return None


def _bias(node: ir.Node) -> ir.Value | None:
    return node.inputs[2] if len(node.inputs) > 2 else None


def _read(node: ir.Node, weight: Array) -> _Conv | None:
    source, output = picture_size(node.inputs[0]), picture_size(node.outputs[0])
    if source is None or output is None or 0 in output:
        return None
    strides, pads = attribute_ints(node, "strides") or (1, 1), attribute_ints(node, "pads") or (0, 0, 0, 0)
    return _Conv(node, weight, source, output, (strides[0], strides[1]), (pads[0], pads[1]))


def _places(channels: int) -> Iterator[tuple[int, int]]:
    """Yield (rows, columns) of neighbours to pack, the plain form first."""
    for rows in range(1, MAX_PLACES + 1):
        for columns in range(1, MAX_PLACES // rows + 1):
            if channels * rows * columns <= 2 * BLOCK:
                yield rows, columns


def _cost(conv: _Conv, places: tuple[int, int], block: int) -> int:
    """Return the products that are computed, those of empty channels and added zeros among them."""
    filled = math.ceil(conv.channels * math.prod(places) / block) * block
    steps = math.prod(math.ceil(size / many) for size, many in zip(conv.output, places, strict=True))
    return int(filled * conv.weight.shape[1] * math.prod(_kernel(conv, places)) * steps)


def _kernel(conv: _Conv, places: tuple[int, int]) -> tuple[int, ...]:
    sizes = zip(conv.weight.shape[2:], places, conv.strides, strict=True)
    return tuple(size + (many - 1) * stride for size, many, stride in sizes)


def _write(model: ir.Model, conv: _Conv, rows: int, columns: int) -> None:
    node, name, places = conv.node, str(conv.node.outputs[0].name), Places(conv.channels, rows, columns, conv.output)
    kernel = _kernel(conv, (rows, columns))
    strides = (rows * conv.strides[0], columns * conv.strides[1])
    end = [
        max(0, (count - 1) * stride + size - source - before)
        for count, stride, size, source, before in zip(
            places.steps, strides, kernel, conv.source, conv.begin, strict=True
        )
    ]
    inputs = [node.inputs[0], add_initializer(model, f"{name}_packed", _weight(conv, (rows, columns)))]
    bias = constant(_bias(node))
    if bias is not None:
        inputs.append(add_initializer(model, f"{name}_packed_bias", np.repeat(bias, rows * columns)))
    packed = add_node(
        model, node, "Conv", inputs, {"kernel_shape": kernel, "strides": strides, "pads": [*conv.begin, *end]}
    )
    packed.type = node.outputs[0].type
    put_in_place(model, node, packed, places)


def _weight(conv: _Conv, places: tuple[int, int]) -> Array:
    """Return [channels * rows * columns, inputs, larger kernel]: the kernel once for each place, shifted."""
    channels, inputs, height, width = conv.weight.shape
    packed = np.zeros((channels, *places, inputs, *_kernel(conv, places)), np.float32)
    for row in range(places[0]):
        for column in range(places[1]):
            top, left = row * conv.strides[0], column * conv.strides[1]
            packed[:, row, column, :, top : top + height, left : left + width] = conv.weight
    return packed.reshape(-1, *packed.shape[3:])
