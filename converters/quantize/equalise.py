"""Equalisation: channels of unequal size are scaled until one encoding serves them all, and the model stays the same.

A tensor has one scale for all its channels; where one channel reaches 170 and the others 5, the others keep 5 bits of
8. Dividing the channels by s and multiplying the weights that read them by s changes nothing but how much each
is rounded. Sources: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019);
Xiao et al., "SmoothQuant" (ICML 2023). Here s comes from a model of the error of both sides. Where it may be done is
found by `scaling_regions`; whether the result is better is measured by whoever calls this.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converters.passes.linear import Linear, channel_vector, read_linear, scale_input, scale_output, write_linear
from converters.passes.matching import constant, is_private, producer
from converters.passes.rewriting import add_initializer, add_node, drop_dead, drop_unused_initializers
from converters.quantize.calibrate import Statistics
from converters.quantize.scaling_regions import Declined, Gate, Region, find_region

Vector = NDArray[np.float64]

MOST_SPREAD = 64.0
"""No channel is enlarged more than this much against another: calibration saw too little of the small ones."""

WORTH = 0.9
"""What the error after scaling may at most be, in parts of the error before."""

WORTH_A_NODE = 0.5
"""The same where a node has to be added for it."""

_SMALL = 1 << 16
_LEVELS = 255.0
_WEIGHT_LEVELS = 254.0
_BALANCES = 2.0 ** np.arange(-6, 7)
_STRENGTHS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Equalised:
    """The scaled copy, the divisor of each channel of each tensor that is scaled, and what was declined and why.

    The names of the tensors stay; ranges and histograms of those in `scaled` have to be observed again.
    """

    model: ir.Model
    scaled: dict[str, NDArray[np.float32]]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Channels:
    """Bounds (low <= 0 <= high) and mean square of each channel of one tensor."""

    low: Vector
    high: Vector
    square: Vector

    @property
    def width(self) -> float:
        return float(self.high.max() - self.low.min())

    def divided(self, scales: Vector) -> "_Channels":
        return _Channels(self.low / scales, self.high / scales, self.square / scales**2)


def equalise(model: ir.Model, statistics: Statistics, *, insert: bool = False) -> Equalised:
    """Return a copy of the model that gives the same outputs, up to rounding, with channels of more equal size.

    `statistics` are those of `model`. Only tensors are scaled for which the error is estimated to fall to WORTH.
    `insert` puts a Mul by constants between a layer norm that cannot be scaled, as a residual sum reads it too, and the
    matrix products that read it: the outlier channels of transformers are there.
    """
    copy = model.clone()
    _give_each_its_own(copy)
    scaled: dict[str, NDArray[np.float32]] = {}
    notes: list[str] = []
    for value in list(_candidates(copy, statistics)):
        if value.name in scaled:
            continue
        try:
            scaled.update(_scale_around(copy, value, statistics))
        except Declined as reason:
            inserted = _scale_behind(copy, value, statistics) if insert else {}
            scaled.update(inserted)
            notes += [] if inserted else [f"'{value.name}' is not scaled: {reason}"]
    return Equalised(copy, scaled, tuple(notes))


def _scale_around(model: ir.Model, value: ir.Value, statistics: Statistics) -> dict[str, NDArray[np.float32]]:
    """Scale the region of `value` where that is worth it, and return the divisors by name. Raises Declined."""
    region = find_region(value)
    scales = choose_scales(region, statistics)
    if scales is None:
        raise Declined("its channels are alike enough")
    scale_region(model, region, scales)
    return {str(tensor.name): scales.astype(np.float32) for tensor in region.tensors}


def _scale_behind(model: ir.Model, value: ir.Value, statistics: Statistics) -> dict[str, NDArray[np.float32]]:
    """Put a Mul between a layer norm and its matrix products where that is worth it; return the new tensor's divisors.

    Not behind other nodes: behind a Gelu, whose few large values are rare, the weights lose more than the
    activations gain (MiniLM-L6: 1 - cosine 0.075, against 0.021 without).
    """
    region = _in_front_of_products(value)
    scales = None if region is None else choose_scales(region, statistics, WORTH_A_NODE)
    if region is None or scales is None:
        return {}
    factor = add_initializer(model, f"{value.name}_factor", (1.0 / scales).astype(np.float32))
    made = add_node(model, _first(region.readers), "Mul", [value, factor], like=value)
    scale_region(model, region, scales)
    for node in region.readers:
        node.replace_input_with(0, made)
    return {str(made.name): scales.astype(np.float32)}


def _in_front_of_products(value: ir.Value) -> Region | None:
    """Return the tensor alone with the Gemm and MatMul nodes that read it; None where it is no layer norm's."""
    size = value.shape[-1] if value.shape is not None and len(value.shape) > 1 else None
    if producer(value, "LayerNormalization") is None or not isinstance(size, int):
        return None
    linears = [read_linear(node) for node in value.consumers() if node.op_type in ("MatMul", "Gemm")]
    readers = [one.node for one in linears if isinstance(one, Linear) and one.node.inputs[0] is value]
    assert value.shape is not None
    return Region(size, {value: len(value.shape) - 1}, readers=readers) if readers else None


def _first(nodes: Sequence[ir.Node]) -> ir.Node:
    """Return the node that comes first in the graph."""
    graph = nodes[0].graph
    assert graph is not None
    return next(node for node in graph if node in nodes)


def _give_each_its_own(model: ir.Model) -> None:
    """Copy small weights that several convolutions share, so that each can be scaled by itself."""
    for node in tuple(model.graph):
        value = node.inputs[1] if node.op_type in ("Conv", "ConvTranspose") else None
        array = constant(value)
        if value is not None and array is not None and not is_private(value) and array.size <= _SMALL:
            node.replace_input_with(1, add_initializer(model, f"{value.name}_own", array))
            drop_unused_initializers([value])


def _candidates(model: ir.Model, statistics: Statistics) -> Iterator[ir.Value]:
    for node in tuple(model.graph):
        yield from (value for value in node.outputs if value.name in statistics.channels)


def choose_scales(region: Region, statistics: Statistics, worth: float = WORTH) -> Vector | None:
    """Return the divisor of each channel, at most 1.0, that is estimated to add the least error; None for no gain."""
    seen = {value: _channels(value, statistics) for value in region.tensors if value.name in statistics.channels}
    seen.update({gate.source: _before_gate(seen.get(gate.product.outputs[0]), gate, region) for gate in region.gates})
    parts = [channels for channels in seen.values() if channels.width > 0.0]
    if not parts:
        return None
    readers = [(read, seen[node.inputs[0]]) for node in region.readers if isinstance(read := read_linear(node), Linear)]  # type: ignore[index]
    before = _error(region, seen, readers, np.ones(region.channels))
    found = min(
        ((_error(region, seen, readers, scales), number, scales) for number, scales in enumerate(_trials(parts))),
        key=lambda trial: trial[:2],
    )
    return found[2] if found[0] < worth * before else None


def _channels(value: ir.Value, statistics: Statistics) -> _Channels:
    seen = statistics.channels[str(value.name)]
    low, high = np.minimum(seen.minimum, 0.0).astype(np.float64), np.maximum(seen.maximum, 0.0).astype(np.float64)
    return _Channels(low, high, seen.mean.astype(np.float64) ** 2 + ((high - low) / 6.0) ** 2)


def _before_gate(product: _Channels | None, gate: Gate, region: Region) -> _Channels:
    """Return the bounds of the x of x * HardSigmoid(x): below -offset / slope nothing counts."""
    edge = np.full(region.channels, gate.offset / gate.slope)
    high = edge if product is None else np.maximum(product.high, edge)
    return _Channels(-edge, high, high**2 / 36.0)


def _trials(parts: list[_Channels]) -> Iterator[Vector]:
    """Yield scales: full equalisation for all ratios of the lower to the upper bound, then less of it."""
    lows = np.max([-part.low / part.width for part in parts], axis=0)
    highs = np.max([part.high / part.width for part in parts], axis=0)
    for balance in _BALANCES if lows.any() and highs.any() else (1.0,):
        size = np.maximum(highs, lows / balance)
        size = np.where(size > 0.0, size, size.max()) / size.max()
        for strength in _STRENGTHS:
            yield np.maximum(size**strength, 1.0 / MOST_SPREAD)


def _error(
    region: Region, seen: dict[ir.Value, _Channels], readers: list[tuple[Linear, _Channels]], scales: Vector
) -> float:
    """Estimate noise over signal of what the readers give, from rounding activations and weights."""
    inner = sum((seen[gate.source].divided(scales).width) ** 2 for gate in region.gates)
    total = 0.0
    for linear, channels in readers:
        after = channels.divided(scales)
        weights = _by_output(linear, scale_input(linear, scales))
        power = (weights**2).sum(-1)
        steps = (np.abs(weights).max((1, 2)) / (_WEIGHT_LEVELS / 2.0)) ** 2
        square = _of_input(linear, after.square)
        of_activations = (after.width**2 + inner) / _LEVELS**2 * power.sum()
        of_weights = (steps[:, None] * square).sum() * weights.shape[2]
        total += float((of_activations + of_weights) / max((power * square).sum(), 1e-30))
    return total


def _by_output(linear: Linear, weight: Vector) -> Vector:
    """Return a weight as [outputs, inputs, kernel]; of a grouped ConvTranspose the outputs of one group."""
    ordered = np.moveaxis(weight, (linear.output_axis, linear.input_axis), (0, 1))
    return ordered.reshape(*ordered.shape[:2], -1)


def _of_input(linear: Linear, vector: Vector) -> Vector:
    """Lay out a number per input channel beside `_by_output`: [outputs or 1, inputs]."""
    if linear.group == 1 or linear.node.op_type == "ConvTranspose":
        return vector[None, :]
    outputs = linear.weight.shape[0]
    return np.repeat(vector.reshape(linear.group, -1), outputs // linear.group, axis=0)


def scale_region(model: ir.Model, region: Region, scales: Vector) -> None:
    """Divide the channels of all tensors of the region by `scales`; float weights grow by at most MOST_SPREAD."""
    for gate in region.gates:
        _open_gate(model, gate, scales)
    for node in region.offsets:
        _scale_constant(model, node, region, 1.0 / scales)
    for node in region.sources:
        if node.op_type == "LayerNormalization":
            _scale_layer_norm(model, node, 1.0 / scales)
        else:
            linear = read_linear(node)
            assert isinstance(linear, Linear)
            write_linear(model, linear, *scale_output(linear, 1.0 / scales))
    for node in region.readers:
        linear = read_linear(node)
        assert isinstance(linear, Linear)
        write_linear(model, linear, scale_input(linear, scales), linear.bias)


def _open_gate(model: ir.Model, gate: Gate, scales: Vector) -> None:
    """Write HardSigmoid as a depthwise convolution between bounds, and cut what it closes off in front of it.

    Both bounds vanish in the encodings of integers; the lower one keeps their steps for what passes the gate.
    """
    node, source = gate.sigmoid, gate.source
    slopes = (gate.slope * scales).reshape(-1, 1, 1, 1)
    lowest = -gate.offset / float(slopes.min())
    name = str(source.name)
    bound = add_initializer(model, f"{name}_lowest", np.array(lowest, np.float32))
    passed = add_node(model, node, "Clip", [source, bound], like=source)
    node.replace_input_with(0, passed)
    for index, operand in enumerate(gate.product.inputs):
        if operand is source:
            gate.product.replace_input_with(index, passed)
    weight = add_initializer(model, f"{name}_slope", slopes.astype(np.float32))
    bias = add_initializer(model, f"{name}_offset", np.full(scales.size, gate.offset, np.float32))
    attributes: dict[str, int | tuple[int, ...]] = {"group": scales.size, "kernel_shape": (1, 1)}
    line = add_node(model, node, "Conv", [passed, weight, bias], attributes, like=source)
    ends = [add_initializer(model, f"{name}_{end}", np.array(end, np.float32)) for end in (0.0, 1.0)]
    opened = add_node(model, node, "Clip", [line, *ends], like=source)
    node.outputs[0].replace_all_uses_with(opened)
    drop_dead(node)


def _scale_constant(model: ir.Model, node: ir.Node, region: Region, factor: Vector) -> None:
    value = node.outputs[0]
    axis, dims = region.tensors[value], len(value.shape or ())
    for index, operand in enumerate(node.inputs):
        array = constant(operand)
        if operand is None or array is None:
            continue
        vector = channel_vector(array, dims, axis, region.channels)
        assert vector is not None
        shape = [1] * dims
        shape[axis] = region.channels
        made = add_initializer(model, f"{operand.name}_scaled", (vector * factor).reshape(shape).astype(array.dtype))
        node.replace_input_with(index, made)
        drop_unused_initializers([operand])


def _scale_layer_norm(model: ir.Model, node: ir.Node, factor: Vector) -> None:
    for index, operand in enumerate(node.inputs):
        array = constant(operand)
        if index == 0 or operand is None or array is None:
            continue
        values = np.asarray(array, np.float64) * factor
        made = add_initializer(model, f"{operand.name}_scaled", values.astype(array.dtype))
        node.replace_input_with(index, made)
        drop_unused_initializers([operand])
