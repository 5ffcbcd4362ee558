"""A ConvTranspose that only enlarges, with a kernel as large as its stride, becomes a 1x1 Conv, on x86 CPUs.

Each number makes a patch of its own, so the patch can come out as channels: ONNX Runtime computes that in its blocked
layout (it has no ConvTranspose there, nor one of integers). Two of them in a row, as at the end of text detectors, stay
channels throughout, and one shuffle of the small result puts all places right.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from converters.passes.blocked_layout import BLOCK, has_blocked_layout, is_plain_conv
from converters.passes.matching import attribute_ints, constant, is_op, label, nodes_of, only_consumer
from converters.passes.places import Places, fused_activation, picture_size, put_in_place, same_activation
from converters.passes.result import PassResult
from converters.passes.rewriting import add_initializer, add_node
from edgert.profile import DeviceProfile

MAX_CHANNELS = 2 * BLOCK
"""A shuffle of more channels than this costs what the Conv gains."""

MAX_PATCH = 4
"""The second Conv multiplies with zeros for all places of a patch but one: for larger patches with too many."""


@dataclass(frozen=True)
class _Enlarging:
    """A ConvTranspose with its weight [inputs, channels, rows, columns] and bias [channels]."""

    node: ir.Node
    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]


def conv_transpose_as_conv(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Write one ConvTranspose, or two with an activation between, as 1x1 Convs and one shuffle.

    Only for an x86 CPU, float32, kernel equal to stride, no padding, one group, known height and width, at most 32
    channels to shuffle, and where nothing else reads the value between the two.
    """
    if not has_blocked_layout(profile):
        return PassResult(0)
    changes, declined = 0, list[str]()
    for node in nodes_of(model):
        first = _read(node) if node.graph is not None else None
        if first is None:
            continue
        second = _second(first)
        reason = _refusal(first, second)
        if reason:
            declined.append(f"{label(node)}: {reason}")
            continue
        _write(model, first, second)
        changes += 1 if second is None else 2
    return PassResult(changes, tuple(declined))


def _read(node: ir.Node | None) -> _Enlarging | None:
    """Return a ConvTranspose whose patches do not touch; None for any other node."""
    if node is None or not is_op(node, "ConvTranspose") or not is_plain_conv(node):
        return None
    weight, bias = constant(node.inputs[1]), constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if weight is None or weight.ndim != 4 or weight.dtype != np.float32 or (bias is None and len(node.inputs) > 2):
        return None
    others = (*attribute_ints(node, "pads"), *attribute_ints(node, "output_padding"))
    if (
        (attribute_ints(node, "strides") or (1, 1)) != weight.shape[2:]
        or any(others)
        or "output_shape" in node.attributes
    ):
        return None
    numbers = weight.astype(np.float32)
    return _Enlarging(node, numbers, np.zeros(weight.shape[1], np.float32) if bias is None else bias.astype(np.float32))


def _second(first: _Enlarging) -> _Enlarging | None:
    """Return the ConvTranspose of the same kind that alone reads the first one's output, past an activation."""
    activation = fused_activation(first.node.outputs[0])
    follower = only_consumer((activation or first.node).outputs[0])
    return _read(follower) if follower is not None and follower.graph is first.node.graph else None


def _refusal(first: _Enlarging, second: _Enlarging | None) -> str:
    """Return why the pair, or the one, stays; "" where it is rewritten."""
    if picture_size(first.node.inputs[0]) is None:
        return "its height and width are not known"
    patch = int(np.prod(first.weight.shape[2:]))
    channels = patch * (first.weight.shape[1] if second is None else int(np.prod(second.weight.shape[1:])))
    if channels > MAX_CHANNELS or (second is not None and patch > MAX_PATCH):
        return f"{channels} channels are too many to shuffle"
    return ""


def _write(model: ir.Model, first: _Enlarging, second: _Enlarging | None) -> None:
    inputs, channels, rows, columns = first.weight.shape
    weight = first.weight.transpose(1, 2, 3, 0).reshape(-1, inputs)
    value = _pointwise(model, first.node, first.node.inputs[0], weight, np.repeat(first.bias, rows * columns))
    last, size = first.node, picture_size(first.node.inputs[0])
    assert size is not None
    if second is not None:
        activation = fused_activation(first.node.outputs[0])
        if activation is not None:
            value = same_activation(model, activation, value)
        last, weight = second.node, _patch_by_patch(first, second)
        bias = np.repeat(second.bias, len(weight) // len(second.bias))
        value = _pointwise(model, last, value, weight, bias)
        _, channels, more_rows, more_columns = second.weight.shape
        rows, columns = rows * more_rows, columns * more_columns
    put_in_place(model, last, value, Places(channels, rows, columns, (size[0] * rows, size[1] * columns)))


def _patch_by_patch(first: _Enlarging, second: _Enlarging) -> npt.NDArray[np.float32]:
    """Return [channels * places, middle * patch] that applies the second one's weight to each place of the patch."""
    rows, columns = first.weight.shape[2:]
    blocks = np.einsum("mcij,pr,qs->cpiqjmrs", second.weight, np.eye(rows), np.eye(columns))
    middle, channels = second.weight.shape[:2]
    outputs = channels * second.weight[0, 0].size * rows * columns
    return np.asarray(blocks.reshape(outputs, middle * rows * columns), np.float32)


def _pointwise(
    model: ir.Model,
    node: ir.Node,
    value: ir.Value | None,
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
) -> ir.Value:
    name = node.outputs[0].name
    parts = [add_initializer(model, f"{name}_patch", weight[:, :, None, None])]
    parts.append(add_initializer(model, f"{name}_patch_bias", bias))
    result = add_node(model, node, "Conv", [value, *parts], {"kernel_shape": (1, 1)})
    result.type = node.outputs[0].type
    return result
