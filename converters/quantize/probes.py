"""The graph that calibrates itself: outputs that reduce every float tensor to its extremes, its sum and a sample.

Only these leave the graph, so what a run costs in memory does not depend on how many tensors there are. What
is made of them is left to `calibrate`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

SAMPLED = 8192
"""About so many values of a tensor are taken from one run, at most twice as many: all where it has fewer than that."""

TURN = "edgert_turn"
"""The input, int64 [1], that says where in each tensor the sample starts."""

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})
_REDUCTIONS = {"minimum": "ReduceMin", "maximum": "ReduceMax", "total": "ReduceSum"}
_WHOLE = 2**62


@dataclass(frozen=True)
class Probe:
    """What is asked of one tensor, and the names of the outputs that tell it.

    `axis`: the channels' axis where they are told apart, else None: then the reductions are scalars. `elements` is None
    where the size varies; the output `size` then tells it. The sum finds NaN, which onnxruntime's ReduceMin and
    ReduceMax skip where it is not the first value.
    """

    index: int
    name: str
    itemsize: int
    axis: int | None
    elements: int | None

    def output(self, what: str) -> str:
        """Return the name of the output for "minimum", "maximum", "total", "values" or "size"."""
        return f"edgert_{what}_{self.index}"

    @property
    def fetched_bytes(self) -> int:
        """The bytes of the sample that leaves the graph, at most."""
        return min(2 * SAMPLED if self.elements is None else self.elements, 2 * SAMPLED) * self.itemsize


def probes(model: ir.Model) -> list[Probe]:
    """Return a probe for every float input and node output of the main graph, without constants, in their order."""
    axes = _channel_axes(model.graph)
    found: list[Probe] = []
    for value in float_values(model):
        dims = None if value.shape is None else [dim if isinstance(dim, int) else None for dim in value.shape]
        known = None if dims is None or None in dims else math.prod(dim for dim in dims if dim is not None)
        assert value.name and value.dtype
        found.append(Probe(len(found), value.name, math.ceil(value.dtype.itemsize), axes.get(value.name), known))
    return found


def float_values(model: ir.Model) -> list[ir.Value]:
    """Return the float inputs and node outputs of the main graph, without constants."""
    graph = model.graph
    values = [value for value in graph.inputs if not value.is_initializer()]
    values += [value for node in graph if node.op_type != "Constant" for value in node.outputs]
    return [value for value in values if value.name and value.dtype in FLOATS]


def _channel_axes(graph: ir.Graph) -> dict[str, int]:
    """Return name -> channel axis of the data input of each convolution and of each product with constant weights."""
    axes: dict[str, int] = {}
    for node in graph:
        data = node.inputs[0] if node.inputs else None
        if node.domain not in ("", "ai.onnx") or data is None or data.shape is None or not data.name:
            continue
        rank = len(data.shape)
        if node.op_type in ("Conv", "ConvTranspose"):
            axes.setdefault(data.name, 1)
        elif node.op_type in ("MatMul", "Gemm") and rank > 1 and _takes_rows(node):
            axes.setdefault(data.name, rank - 1)
    return axes


def _takes_rows(node: ir.Node) -> bool:
    """Return whether a product's weights are constant and its data has the channels last."""
    weights = node.inputs[1]
    return weights is not None and weights.const_value is not None and not node.attributes.get_int("transA", 0)


def with_probes(model: ir.Model, wanted: Sequence[Probe], sized: Sequence[Probe] = ()) -> ir.Model:
    """Return a copy whose only outputs are those of the probes; `TURN` is one more input.

    Of `sized`, further tensors whose size varies, only the size is told.

    onnxruntime runs first what the last node needs. Probes are therefore appended from the last tensor to the first:
    each runs as soon as its tensor is made, and the tensor's memory is free again; a test in test_probes.py watches it.
    """
    copy = model.clone()
    builder = _Builder(copy)
    groups = [builder.group(probe) for probe in wanted] + [[builder.size(probe)] for probe in sized]
    for nodes in reversed(groups):
        copy.graph.extend(nodes)
    copy.graph.outputs[:] = builder.outputs or copy.graph.outputs[:]  # a model without floats still has to run
    return copy


class _Builder:
    """Makes the nodes of the probes for one graph."""

    def __init__(self, model: ir.Model) -> None:
        graph = model.graph
        self._opset = graph.opset_imports[""]
        self._graph = graph
        values = [*graph.inputs, *(output for node in graph for output in node.outputs)]
        self._values = {value.name: value for value in values}
        self._turn = ir.Value(name=TURN, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([1]))
        graph.inputs.append(self._turn)
        self._flat, self._end, self._first = (
            self._constant(name, number) for name, number in (("flat", -1), ("end", _WHOLE), ("first", 0))
        )
        self.outputs: list[ir.Value] = []

    def group(self, probe: Probe) -> list[ir.Node]:
        """Return the nodes of one probe, and keep its outputs."""
        value, nodes = self._values[probe.name], []
        if value.dtype == ir.DataType.FLOAT16:
            nodes.append(_node("Cast", [value], ir.DataType.FLOAT, attributes={"to": ir.DataType.FLOAT}))
            value = _typed_like(nodes[-1].outputs[0], value)
        for what, op_type in _REDUCTIONS.items():
            nodes.append(self._reduction(op_type, value, probe))
            self._expose(nodes[-1], probe.output(what))
        assert value.dtype is not None
        nodes += self._sample(probe, value, value.dtype)
        return nodes

    def size(self, probe: Probe) -> ir.Node:
        """Return the node that tells the size of a tensor, and keep its output."""
        node = _node("Size", [self._values[probe.name]], ir.DataType.INT64)
        self._expose(node, probe.output("size"))
        return node

    def _expose(self, node: ir.Node, name: str) -> None:
        node.outputs[0].name = name
        self.outputs.append(node.outputs[0])

    def _constant(self, name: str, *numbers: int) -> ir.Value:
        tensor = ir.tensor(np.array(numbers, np.int64), name=f"edgert_{name}")
        value = ir.Value(
            name=tensor.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape([len(numbers)]), const_value=tensor
        )
        self._graph.register_initializer(value)
        return value

    def _reduction(self, op_type: str, value: ir.Value, probe: Probe) -> ir.Node:
        assert value.dtype is not None
        if probe.axis is None or value.shape is None:
            return _node(op_type, [value], value.dtype, attributes={"keepdims": 0})
        axes = [axis for axis in range(len(value.shape)) if axis != probe.axis]
        if self._opset >= (13 if op_type == "ReduceSum" else 18):
            given = self._constant(f"axes_{op_type}_{probe.index}", *axes)
            return _node(op_type, [value, given], value.dtype, attributes={"keepdims": 0})
        return _node(op_type, [value], value.dtype, attributes={"keepdims": 0, "axes": axes})

    def _sample(self, probe: Probe, value: ir.Value, dtype: ir.DataType) -> list[ir.Node]:
        """Return the nodes that take every so-many-th value, from a start that differs from run to run."""
        nodes = [_node("Reshape", [value, self._flat], dtype)]
        if probe.elements is None:
            nodes += self._varying_step(probe)
            step = nodes[-1].outputs[0]
        elif sampling_step(probe.elements) > 1:
            step = self._constant(f"step_{probe.index}", sampling_step(probe.elements))
        else:
            self._expose(nodes[-1], probe.output("values"))
            return nodes
        nodes.append(_node("Mod", [self._turn, step], ir.DataType.INT64))
        inputs = [nodes[0].outputs[0], nodes[-1].outputs[0], self._end, self._first, step]
        nodes.append(_node("Slice", inputs, dtype))
        self._expose(nodes[-1], probe.output("values"))
        return nodes

    def _varying_step(self, probe: Probe) -> list[ir.Node]:
        """Return nodes that make the `sampling_step`, int64 [1], of the size at run time."""
        whole, size = ir.DataType.INT64, self.size(probe)
        half = _node("Div", [size.outputs[0], self._constant(f"twice_{probe.index}", 2 * SAMPLED)], whole)
        even = _node("Add", [half.outputs[0], half.outputs[0]], whole)
        odd = _node("Add", [even.outputs[0], self._constant(f"one_{probe.index}", 1)], whole)
        return [size, half, even, odd]


def _node(
    op_type: str, inputs: Sequence[ir.Value], dtype: ir.DataType, *, attributes: dict[str, object] | None = None
) -> ir.Node:
    node = ir.node(op_type, list(inputs), dict(attributes or {}))  # type: ignore[arg-type]
    node.outputs[0].type = ir.TensorType(dtype)
    return node


def _typed_like(made: ir.Value, value: ir.Value) -> ir.Value:
    made.shape = value.shape
    return made


def sampling_step(elements: int) -> int:
    """Return the step that leaves SAMPLED to 2 * SAMPLED of `elements` values.

    It is odd, for most channels and rows come in powers of two: such a step meets all of them alike, in any layout.
    What one run does not meet another does, as its start is another one.
    """
    return 2 * (elements // (2 * SAMPLED)) + 1
