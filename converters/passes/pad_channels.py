"""Channels between two convolutions are filled up with zeros to whole blocks, on x86 CPUs.

ONNX Runtime computes whole blocks of channels in any case (see blocked_layout), but leaves its layout behind a Conv
with 12 or 22 outputs and enters it again later. With zero filters and zero weights for the channels that are missing,
the values stay in blocks; what the second Conv adds for them is 0.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from converters.passes.blocked_layout import BLOCK, has_blocked_layout
from converters.passes.matching import Array, attribute_int, constant, is_op, label, nodes_of, only_consumer
from converters.passes.places import picture_size
from converters.passes.result import PassResult
from converters.passes.rewriting import add_initializer, drop_unused_initializers
from edgert.profile import DeviceProfile

_ZERO_STAYS_ZERO = ("Relu", "LeakyRelu", "HardSwish", "Tanh")


@dataclass(frozen=True)
class _Pair:
    """Two convolutions and the nodes from the first to before the second, whose outputs have the channels."""

    nodes: tuple[ir.Node, ...]
    second: ir.Node
    channels: int

    @property
    def padded(self) -> int:
        """The next number of channels in whole blocks."""
        return -(-self.channels // BLOCK) * BLOCK


def pad_channels(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Give a Conv that only another Conv reads, past activations that keep 0, whole blocks of output channels.

    Only for an x86 CPU, float32, one group, and where the second Conv's work grows by at most a half or is tiny. An
    infinity or NaN in the first Conv's input stays one: it comes out of the true channels too.
    """
    if not has_blocked_layout(profile):
        return PassResult(0)
    changes, declined = 0, list[str]()
    for node in nodes_of(model):
        pair = _pair(node) if is_op(node, "Conv") else None
        if pair is None or pair.channels % BLOCK == 0:
            continue
        if 2 * pair.padded > 3 * pair.channels and picture_size(node.outputs[0]) != (1, 1):
            declined.append(f"{label(node)}: {pair.channels} channels would become {pair.padded}")
            continue
        _fill(model, pair)
        changes += 1
    return PassResult(changes, tuple(declined))


def _pair(node: ir.Node) -> _Pair | None:
    weight, nodes = _weight(node), [node]
    follower = only_consumer(node.outputs[0])
    while follower is not None and is_op(follower, *_ZERO_STAYS_ZERO):
        nodes.append(follower)
        follower = only_consumer(follower.outputs[0])
    if weight is None or follower is None or not is_op(follower, "Conv") or _weight(follower) is None:
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    is_input = follower.inputs[0] is nodes[-1].outputs[0]
    return _Pair(tuple(nodes), follower, len(weight)) if is_input and (bias is None or _is_float(bias)) else None


def _weight(node: ir.Node) -> Array | None:
    """Return the weight [M, C, h, w] of a Conv with one group."""
    weight = constant(node.inputs[1])
    is_plain = weight is not None and weight.ndim == 4 and weight.dtype == np.float32
    return weight if is_plain and attribute_int(node, "group", 1) == 1 else None


def _is_float(value: ir.Value) -> bool:
    array = constant(value)
    return array is not None and array.dtype == np.float32


def _fill(model: ir.Model, pair: _Pair) -> None:
    missing = pair.padded - pair.channels
    first = pair.nodes[0]
    _grow(model, first, 1, 0, missing)
    if len(first.inputs) > 2 and first.inputs[2] is not None:
        _grow(model, first, 2, 0, missing)
    _grow(model, pair.second, 1, 1, missing)
    for node in pair.nodes:
        value = node.outputs[0]
        if value.shape is not None:
            value.shape = ir.Shape([pair.padded if axis == 1 else dim for axis, dim in enumerate(value.shape)])


def _grow(model: ir.Model, node: ir.Node, place: int, axis: int, missing: int) -> None:
    """Replace an input, a constant, by one with zeros behind it along an axis."""
    old = node.inputs[place]
    array = constant(old)
    assert old is not None and array is not None
    widths = [(0, missing if index == axis else 0) for index in range(array.ndim)]
    node.replace_input_with(place, add_initializer(model, f"{old.name}_filled", np.pad(array, widths)))
    drop_unused_initializers([old])
