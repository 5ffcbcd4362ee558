"""Write a quantization plan into a graph as QuantizeLinear and DequantizeLinear nodes.

Activations get Q and DQ, one pair per tensor; constants are stored as integers with a DQ. Every choice was
made by `plan`; this file only edits.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converters.passes.rewriting import drop_unused_initializers
from converters.quantize.affine import Affine, quantize, quantize_weights
from converters.quantize.plan import Plan, constant_array, node_key, output_axis
from edgert.errors import BadInput

_TYPES = {
    "uint8": ir.DataType.UINT8,
    "int8": ir.DataType.INT8,
    "uint16": ir.DataType.UINT16,
    "int16": ir.DataType.INT16,
    "int32": ir.DataType.INT32,
}
PER_AXIS_OPSET = 13
WIDE_OPSET = 21
_UNCHANGED_SINCE = 20


def apply_qdq(model: ir.Model, plan: Plan) -> ir.Model:
    """Return a new model with the plan's Q/DQ nodes; input and output names and types stay.

    The opset becomes 21 when the plan has 16-bit types: raise it to 20 or more before, see the error
    otherwise.
    """
    result = model.clone()
    _raise_opset(result, plan)
    writer = _Writer(result.graph, plan)
    writer.remove_absorbed()
    writer.replace_saturating()
    writer.write_activations()
    writer.write_conversions()
    writer.write_constants()
    drop_unused_initializers(tuple(result.graph.initializers.values()))  # such as the bounds of an absorbed Clip
    return result


def _raise_opset(model: ir.Model, plan: Plan) -> None:
    opset = model.opset_imports.get("", 0)
    needed = WIDE_OPSET if plan.needs_opset_21 else PER_AXIS_OPSET
    if opset >= needed:
        return
    grouped = any(node.op_type == "GroupNormalization" for node in model.graph)
    if needed != WIDE_OPSET or opset < _UNCHANGED_SINCE or grouped:
        raise BadInput(
            f"{plan.variant} needs opset {needed}, and the graph has opset {opset}",
            f"raise the graph to opset {needed} before it is quantized",
        )
    # From 20 to 21 only GroupNormalization changed its meaning; all other changes of 21 add types.
    model.opset_imports[""] = WIDE_OPSET
    model.graph.opset_imports[""] = WIDE_OPSET
    model.ir_version = max(model.ir_version, 10)


@dataclass
class _Writer:
    graph: ir.Graph
    plan: Plan
    parameters: dict[tuple[str, bytes, bytes], tuple[ir.Value, ir.Value]] = field(default_factory=dict)
    stored: dict[tuple[str, str, bytes, bytes, int | None], ir.Value] = field(default_factory=dict)
    nodes: dict[str, ir.Node] = field(init=False)

    def __post_init__(self) -> None:
        # Keys are output names, and outputs are renamed below: look the nodes up before that.
        self.nodes = {node_key(node): node for node in self.graph}
        self.quantized = {self.nodes[key] for key in self.plan.quantized}

    def remove_absorbed(self) -> None:
        for key, node in self.nodes.items():
            if key not in self.plan.absorbed:
                continue
            source, output = node.inputs[0], node.outputs[0]
            assert source is not None
            name = output.name
            output.name = f"{name}_absorbed"
            ir.convenience.replace_all_uses_with(output, source, replace_graph_outputs=True)
            self.graph.remove(node, safe=True)
            source.name = name

    def replace_saturating(self) -> None:
        """Put a LeakyRelu that does nothing where saturation does the work: its integer kernel is a table look-up."""
        for name in self.plan.saturating:
            node = self.nodes[name]
            same = ir.node("LeakyRelu", [node.inputs[0]], {"alpha": 1.0}, name=node.name)
            _describe(same.outputs[0], "", ir.DataType.FLOAT, node.outputs[0].shape)
            ir.convenience.replace_nodes_and_values(self.graph, node, [node], [same], node.outputs, same.outputs)
            same.outputs[0].name = name
            self.nodes[name] = same
            self.quantized.add(same)

    def write_activations(self) -> None:
        values = [*self.graph.inputs, *(value for node in self.graph for value in node.outputs)]
        for value in values:
            affine = self.plan.activations.get(str(value.name))
            if affine is not None:
                self._write_pair(value, affine)

    def _write_pair(self, value: ir.Value, affine: Affine) -> None:
        """Put Q and DQ behind `value`; a float producer's float readers keep reading it directly."""
        name, producer = str(value.name), value.producer()
        produced = producer is not None and producer in self.quantized
        users = [use for use in value.uses() if produced or use.node in self.quantized]
        nodes, real = self._pair(value, name, affine)
        if producer is None:
            self.graph.insert_before(self.graph[0], nodes)
        else:
            self.graph.insert_after(producer, nodes)
        for user, index in users:
            user.replace_input_with(index, real)
        if produced and value.is_graph_output():
            value.name, real.name = f"{name}_float", name
            outputs = self.graph.outputs
            for index, output in enumerate(outputs):
                if output is value:
                    outputs[index] = real

    def _pair(self, value: ir.Value, name: str, affine: Affine) -> tuple[list[ir.Node], ir.Value]:
        scale, zero_point = self._parameters(name, affine)
        stored = self.plan.saturating.get(name)
        quantized_with = self._parameters(f"{name}_saturating", stored) if stored else (scale, zero_point)
        first = ir.node("QuantizeLinear", [value, *quantized_with], name=f"{name}_QuantizeLinear")
        _describe(first.outputs[0], f"{name}_quantized", _TYPES[affine.dtype], value.shape)
        second = ir.node("DequantizeLinear", [first.outputs[0], scale, zero_point], name=f"{name}_DequantizeLinear")
        _describe(second.outputs[0], f"{name}_dequantized", ir.DataType.FLOAT, value.shape)
        return [first, second], second.outputs[0]

    def write_conversions(self) -> None:
        """Put Q and DQ of another width before the nodes that need it; equal readers share them."""
        shared: dict[tuple[str, str, bytes, bytes], ir.Value] = {}
        for (key, index), affine in self.plan.converted.items():
            source = self.nodes[key].inputs[index]
            assert source is not None
            identity = (str(source.name), affine.dtype, affine.scale.tobytes(), affine.zero_point.tobytes())
            if identity not in shared:
                nodes, shared[identity] = self._pair(source, f"{source.name}_{affine.dtype}_{len(shared)}", affine)
                producer = source.producer()
                assert producer is not None
                self.graph.insert_after(producer, nodes)
            self.nodes[key].replace_input_with(index, shared[identity])

    def write_constants(self) -> None:
        for (key, index), affine in self.plan.constants.items():
            node = self.nodes[key]
            value = node.inputs[index]
            assert value is not None
            node.replace_input_with(index, self._stored(value, affine, node))
            self._drop_if_unused(value)

    def _stored(self, value: ir.Value, affine: Affine, node: ir.Node) -> ir.Value:
        """Return the dequantized form of a constant, shared by all nodes that store it the same way."""
        name = str(value.name)
        identity = (name, affine.dtype, affine.scale.tobytes(), affine.zero_point.tobytes(), affine.axis)
        if identity in self.stored:
            return self.stored[identity]
        array = constant_array(value)
        assert array is not None
        unique = name if not any(known[0] == name for known in self.stored) else f"{name}_{len(self.stored)}"
        integers = self._initializer(f"{unique}_quantized", _integers(np.asarray(array, np.float32), affine, node))
        scale, zero_point = self._parameters(unique, affine)
        attributes = {} if affine.axis is None else {"axis": affine.axis}
        real = ir.node("DequantizeLinear", [integers, scale, zero_point], attributes, name=f"{unique}_DequantizeLinear")
        _describe(real.outputs[0], f"{unique}_dequantized", ir.DataType.FLOAT, value.shape)
        self.graph.insert_before(self._first_user(value, node), real)
        self.stored[identity] = real.outputs[0]
        return real.outputs[0]

    def _first_user(self, value: ir.Value, node: ir.Node) -> ir.Node:
        """Return the first node in the graph that reads `value`, so that what is put before it serves all of them."""
        users = value.consumers()
        if len(users) < 2:
            return node
        return next((candidate for candidate in self.graph if candidate in users), node)

    def _drop_if_unused(self, value: ir.Value) -> None:
        producer = value.producer()
        if value.uses() or value.is_graph_output():
            return
        if producer is not None:
            self.graph.remove(producer, safe=True)
        else:
            self.graph.initializers.pop(str(value.name), None)

    def _parameters(self, name: str, affine: Affine) -> tuple[ir.Value, ir.Value]:
        """Return the scale and zero_point initializers, shared by equal encodings."""
        identity = (affine.dtype, affine.scale.tobytes(), affine.zero_point.tobytes())
        if identity not in self.parameters:
            self.parameters[identity] = (
                self._initializer(f"{name}_scale", affine.scale),
                self._initializer(f"{name}_zero_point", affine.zero_point),
            )
        return self.parameters[identity]

    def _initializer(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.dtype, value.shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
        self.graph.register_initializer(value)
        return value


def _integers(array: NDArray[np.float32], affine: Affine, node: ir.Node) -> NDArray[np.generic]:
    axis = output_axis(node)
    if axis is None or affine.dtype == "int32" or array.ndim < 2:
        return quantize(array, affine)
    return quantize_weights(array, affine, axis % array.ndim)


def _describe(value: ir.Value, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> None:
    value.name, value.dtype, value.shape = name, dtype, shape
