"""Where channels can be scaled without changing what a model computes: tensors that must share one scale per channel.

A linear node makes a tensor, linear nodes read it, and all between gives f(x / s) = f(x) / s for positive s. Then the
maker takes 1 / s and the readers s into their weights. Which scales are worth it is left to `equalise`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from converters.passes.linear import LINEAR, channel_vector, read_linear
from converters.passes.matching import attribute_float, attribute_int, attribute_ints, constant, is_op, label

CLIP_WITH_INPUTS = 11
_HOMOGENEOUS = frozenset(
    {
        *("Relu", "LeakyRelu", "PRelu", "Identity", "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"),
        *("Resize", "ReduceMean", "ReduceMax", "Pad"),
    }
)
"""Ops of one data input that neither mix channels, except those that `_keeps_channels` finds to, nor add anything."""

_LARGEST = 1e30
"""Larger weights could overflow when they are scaled."""

_RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


class Declined(Exception):
    """The channels of these tensors cannot be scaled; the text says which node prevents it, and why."""


@dataclass(frozen=True)
class Gate:
    """x * HardSigmoid(x): after scaling, the sigmoid has a slope for each channel."""

    sigmoid: ir.Node
    product: ir.Node

    @property
    def slope(self) -> float:
        """The slope, alpha."""
        return attribute_float(self.sigmoid, "alpha", 0.2)

    @property
    def offset(self) -> float:
        """The value at 0, beta."""
        return attribute_float(self.sigmoid, "beta", 0.5)

    @property
    def source(self) -> ir.Value:
        """The value that is gated."""
        assert self.sigmoid.inputs[0] is not None
        return self.sigmoid.inputs[0]


@dataclass
class Region:
    """Tensors with the axis of their channels, and the nodes at the edge, which take the scales in.

    `sources` are linear nodes and layer norms, whose outputs are scaled; `readers` linear nodes, which undo it;
    `offsets` additions of a constant; `gates` hard-swishes inside. All nodes are those of the graph given to
    `find_region`.
    """

    channels: int
    tensors: dict[ir.Value, int] = field(default_factory=dict)
    sources: list[ir.Node] = field(default_factory=list)
    readers: list[ir.Node] = field(default_factory=list)
    offsets: list[ir.Node] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)


def find_region(value: ir.Value) -> Region:
    """Return the region around `value`, which a linear node reads. Raises Declined."""
    axis = next((_data_axis(node) for node in value.consumers() if _data_axis(node) is not None), None)
    size = None if axis is None or value.shape is None else value.shape[axis]
    if axis is None or not isinstance(size, int):
        raise Declined("its channels are not known")
    growth = _Growth(Region(size))
    growth.add(value, axis)
    growth.run()
    return growth.region


class _Growth:
    """Follows the graph from tensor to tensor until every node at the edge takes the scales in."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self._waiting: list[ir.Value] = []
        self._products: set[ir.Node] = set()

    def add(self, value: ir.Value, axis: int) -> None:
        """Take a tensor in."""
        tensors = self.region.tensors
        if value in tensors:
            if tensors[value] != axis:
                raise Declined(f"'{value.name}' has its channels on two axes")
            return
        if value.is_graph_output() or value.is_graph_input() or value.producer() is None:
            raise Declined(f"'{value.name}' is an input or output of the model")
        if value.shape is None or len(value.shape) <= axis or value.shape[axis] != self.region.channels:
            raise Declined(f"the channels of '{value.name}' are others or unknown")
        tensors[value] = axis
        self._waiting.append(value)

    def run(self) -> None:
        """Visit the nodes around every tensor."""
        while self._waiting:
            value = self._waiting.pop()
            producer = value.producer()
            assert producer is not None
            for node in (producer, *value.consumers()):
                self._visitor(node, value)(node, value)
        for node in self._products:
            if sum(one in self.region.tensors for one in node.inputs) != 1:
                raise Declined(f"{label(node)} multiplies two of the tensors")

    def _visitor(self, node: ir.Node, value: ir.Value) -> Callable[[ir.Node, ir.Value], None]:
        if node.graph is not (value.producer() or node).graph:
            raise Declined(f"{label(node)} reads '{value.name}' in a subgraph")
        if is_op(node, *LINEAR):
            return self._linear
        if is_op(node, "HardSigmoid"):
            return self._gate
        if is_op(node, *_HOMOGENEOUS, *_RESHAPES, "Transpose"):
            return self._through
        if is_op(node, "Mul"):
            return self._product
        if is_op(node, "Add"):
            return self._sum
        if is_op(node, "LayerNormalization"):
            return self._layer_norm
        raise Declined(f"{label(node)} does not give the scaled result for a scaled input")

    def _linear(self, node: ir.Node, value: ir.Value) -> None:
        linear = read_linear(node)
        axis = self.region.tensors[value]
        if linear is None or isinstance(linear, str):
            raise Declined(linear or f"{label(node)}: its weight is not constant")
        if np.abs(linear.weight).max(initial=0.0) > _LARGEST:
            raise Declined(f"{label(node)} has weights beyond {_LARGEST:g}")
        if value in node.outputs:
            if axis != _output_axis(node) or linear.channels != self.region.channels:
                raise Declined(f"{label(node)} makes the channels on another axis")
            if node not in self.region.sources:
                self.region.sources.append(node)
        elif value is not node.inputs[0] or value in node.inputs[1:] or axis != _data_axis(node):
            raise Declined(f"{label(node)} reads '{value.name}' along another axis")
        elif node not in self.region.readers:
            self.region.readers.append(node)

    def _layer_norm(self, node: ir.Node, value: ir.Value) -> None:
        if value is not node.outputs[0]:
            raise Declined(f"{label(node)} normalises '{value.name}'")
        rank = len(value.shape or ())
        vectors = [constant(one) for one in node.inputs[1:]]
        own_axis = attribute_int(node, "axis", -1) % rank
        known = all(one is not None and one.shape == (self.region.channels,) for one in vectors)
        if not known or own_axis != rank - 1 or self.region.tensors[value] != rank - 1:
            raise Declined(f"{label(node)} has no constant scale for each channel")
        if node not in self.region.sources:
            self.region.sources.append(node)

    def _gate(self, node: ir.Node, value: ir.Value) -> None:
        reason = _gate_refusal(node, value, self.region)
        if reason is not None:
            raise Declined(f"{label(node)} {reason}")
        self.region.gates.append(Gate(node, node.outputs[0].consumers()[0]))

    def _through(self, node: ir.Node, value: ir.Value) -> None:
        source = node.inputs[0]
        assert source is not None
        if value is not source and value is not node.outputs[0]:
            raise Declined(f"{label(node)} does not give the scaled result for a scaled input")
        forward = value is source
        axis = _axis_through(node, self.region.tensors[value], forward=forward)
        if axis is None:
            raise Declined(f"{label(node)} mixes or moves the channels")
        self.add(node.outputs[0] if forward else source, axis)

    def _product(self, node: ir.Node, value: ir.Value) -> None:
        one, other = node.inputs
        assert one is not None and other is not None
        self._products.add(node)
        axis = self.region.tensors[value]
        if value is not node.outputs[0]:
            self._add_like(node, node.outputs[0], value, axis)
            return
        operands = [operand for operand in (one, other) if constant(operand) is None]
        if len(operands) == 2:
            operands = _gated(one, other) or [v for v in operands if v.shape is not None and v.shape == value.shape]
        if len(operands) != 1:
            raise Declined(f"{label(node)} multiplies two tensors of one shape")
        self._add_like(node, operands[0], value, axis)

    def _sum(self, node: ir.Node, value: ir.Value) -> None:
        axis = self.region.tensors[value]
        dims = len(value.shape or ())
        for operand in (*node.inputs, node.outputs[0]):
            assert operand is not None
            array = constant(operand)
            if array is None:
                self._add_like(node, operand, value, axis)
            elif channel_vector(array, dims, axis, self.region.channels) is None:
                raise Declined(f"{label(node)} adds a constant that is not one number per channel")
            elif node not in self.region.offsets:
                self.region.offsets.append(node)

    def _add_like(self, node: ir.Node, operand: ir.Value, value: ir.Value, axis: int) -> None:
        if operand.shape is None or value.shape is None or len(operand.shape) != len(value.shape):
            raise Declined(f"{label(node)} joins tensors of unequal rank")
        self.add(operand, axis)


def _gated(one: ir.Value, other: ir.Value) -> list[ir.Value]:
    """Return the x of x * HardSigmoid(x)."""
    pairs = ((one, other), (other, one))
    return [x for x, gate in pairs if is_op(gate.producer(), "HardSigmoid") and gate.producer().inputs[0] is x]  # type: ignore[union-attr]


def _gate_refusal(node: ir.Node, value: ir.Value, region: Region) -> str | None:
    """Return why the tensor cannot be scaled in front of this HardSigmoid."""
    if value is not node.inputs[0]:
        return f"bounds '{value.name}'"
    readers = node.outputs[0].consumers()
    product = readers[0] if len(readers) == 1 else None
    if not is_op(product, "Mul") or node.outputs[0].is_graph_output() or set(value.consumers()) != {node, product}:
        return f"is no gate of '{value.name}' alone"
    if len(value.shape or ()) != 4 or region.tensors[value] != 1:
        return "gates a tensor that is no picture"
    opset = node.graph.opset_imports.get("", 0) if node.graph is not None else 0
    if attribute_float(node, "alpha", 0.2) <= 0.0 or opset < CLIP_WITH_INPUTS:
        return "cannot be written for each channel"
    return None


def _output_axis(node: ir.Node) -> int:
    return 1 if node.op_type in ("Conv", "ConvTranspose", "Gemm") else len(node.outputs[0].shape or ()) - 1


def _data_axis(node: ir.Node) -> int | None:
    """Return the axis of the channels in the data of a linear node, None for any other node."""
    if not is_op(node, *LINEAR) or node.inputs[0] is None or node.inputs[0].shape is None:
        return None
    return 1 if node.op_type in ("Conv", "ConvTranspose", "Gemm") else len(node.inputs[0].shape) - 1


def _axis_through(node: ir.Node, axis: int, *, forward: bool) -> int | None:
    """Return where the channels are on the other side of a node, None where they are not."""
    if node.op_type == "Transpose":
        order = attribute_ints(node, "perm") or tuple(reversed(range(len(node.inputs[0].shape or ()))))  # type: ignore[union-attr]
        return order.index(axis) if forward else order[axis]
    before, after = (node.inputs[0], node.outputs[0]) if forward else (node.outputs[0], node.inputs[0])
    if node.op_type in _RESHAPES:
        return _axis_of_reshape(before, after, axis)
    return axis if _keeps_channels(node, before, after, axis) else None


def _axis_of_reshape(before: ir.Value | None, after: ir.Value | None, axis: int) -> int | None:
    """Return the axis with as many entries, and as many in front of it, in a tensor of the same elements."""
    shapes = [None if v is None or v.shape is None else v.shape.dims for v in (before, after)]
    if any(shape is None or not all(isinstance(dim, int) for dim in shape) for shape in shapes):
        return None
    old, new = (np.array(shape, np.int64) for shape in shapes)
    outer = math.prod(old[:axis])
    places = [i for i in range(len(new)) if new[i] == old[axis] and math.prod(new[:i]) == outer]
    return places[0] if len(places) == 1 else None


def _keeps_channels(node: ir.Node, before: ir.Value | None, after: ir.Value | None, axis: int) -> bool:
    same = all(v is not None and v.shape is not None and len(v.shape) > axis for v in (before, after))
    if not same or before.shape[axis] != after.shape[axis]:  # type: ignore[union-attr, index]
        return False
    if node.op_type == "Pad":
        fill = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1)
        return fill is not None and not np.any(fill) and "value" not in node.attributes
    if node.op_type == "PRelu":
        return constant(node.inputs[1]) is not None
    if node.op_type == "Resize":
        return node.attributes.get_string("coordinate_transformation_mode", "") != "tf_crop_and_resize"
    if node.op_type in ("ReduceMean", "ReduceMax"):
        return len(before.shape) == len(after.shape)  # type: ignore[union-attr, arg-type]
    return len(node.outputs) == 1
