"""Convert a model to float16, keeping in float32 what float16 cannot hold.

Every graph and subgraph keeps its own inputs and outputs in float32; nodes in between compute in float16
unless a value they read or write comes near overflow, a small constant would vanish, or the operator takes
no float16. What stays in float32 is returned with the reason. onnxruntime's `convert_float_to_float16` is
not used: it cannot see the size of activations, and works on a protobuf, which ends at 2 GB.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir

from converters.quantize.observers import TensorRange
from converters.quantize.plan import constant_array

LARGEST = 65504.0
SMALLEST = 2.0**-24

_KEPT_OPS = {
    "NonMaxSuppression": "its scores are compared finely",
    "TopK": "its values are compared finely",
    "RoiAlign": "its coordinates need more than 11 bits",
    "Range": "its sums need more than 11 bits",
    "CumSum": "its sums need more than 11 bits",
    "Upsample": "it is deprecated, and providers have it only in float32",
    "EyeLike": "its attribute sets its type",
    "RandomNormal": "its attribute sets its type",
    "RandomUniform": "its attribute sets its type",
    "RandomNormalLike": "its attribute sets its type",
    "RandomUniformLike": "its attribute sets its type",
}
SMALLEST_NORMAL = 2.0**-14

_NEAR_ZERO = frozenset({"Log", "Sqrt", "Div", "Reciprocal", "Pow"})
"""Ops that turn a small number rounded to 0 into infinity or NaN, or hand it to one that does."""

_SINGULAR = {"Log": 0, "Reciprocal": 0, "Div": 1}
"""Ops that are infinite at 0, and which input that is about."""


def to_fp16(
    model: ir.Model, ranges: Mapping[str, TensorRange], *, margin: float = 4.0
) -> tuple[ir.Model, tuple[str, ...]]:
    """Return a float16 copy with float32 inputs and outputs, and a sentence for each node kept in float32.

    A value whose calibrated `absmax` exceeds 65504 / `margin` stays in float32 with the nodes around it.
    Values without a range (in subgraphs) are taken as safe. Types must have been inferred.
    """
    copy = model.clone()
    kept = _Judge(copy.opset_imports, ranges, LARGEST / margin).judge(copy.graph)
    halves = _halves(copy.graph, kept)
    _Writer(halves, kept).write(copy.graph)
    return copy, tuple(
        f"{node.op_type} '{node.name or node.outputs[0].name}': {why}" for node, why in kept.items() if why
    )


@dataclass
class _Judge:
    opsets: Mapping[str, int]
    ranges: Mapping[str, TensorRange]
    limit: float
    delicate: set[ir.Value] = field(default_factory=set)

    def judge(self, graph: ir.Graph) -> dict[ir.Node, str]:
        """Return the nodes kept in float32 with the reason; "" for a control flow node, whose body is converted."""
        kept: dict[ir.Node, str] = {}
        self.delicate = self._find_delicate(graph)
        fading: set[ir.Value] = set()
        for node in ir.traversal.RecursiveGraphIterator(graph):
            if not any(_is_float(value) for value in (*node.inputs, *node.outputs)):
                continue
            if any(True for _ in _subgraphs(node)):
                kept[node] = ""
                continue
            reason = self._reason(node)
            if reason is None and node.op_type in _NEAR_ZERO and any(value in fading for value in node.inputs):
                reason = "it reads a small number that float16 rounds to 0"
            if reason is not None:
                kept[node] = reason
                if "rounds to 0" in reason:
                    fading.update(node.outputs)
        return kept

    def _find_delicate(self, graph: ir.Graph) -> set[ir.Value]:
        """Return the values that end in a logarithm or divisor and come below what float16 holds well.

        Going up from there: positive values too small for float16, and past a square everything that leads
        to it. That is a spectrogram whose decibels are read: float16 has a noise floor of 66 dB, and they
        go further down.
        """
        found: set[ir.Value] = set()
        signed: set[ir.Value] = set()
        for node in reversed(graph):
            if node.op_type in _SINGULAR:
                found.update(self._small_positive([node.inputs[_SINGULAR[node.op_type]]]))
            if any(value in signed for value in node.outputs):
                signed.update(value for value in node.inputs if value is not None and self._is_seen(value))
            elif any(value in found for value in node.outputs):
                small = self._small_positive(node.inputs)
                found.update(small)
                if not small and _is_square(node):
                    signed.update(value for value in node.inputs if value is not None and self._is_seen(value))
        return found | signed

    def _is_seen(self, value: ir.Value) -> bool:
        return value.name in self.ranges

    def _small_positive(self, values: Sequence[ir.Value | None]) -> list[ir.Value]:
        return [value for value in values if value is not None and self._is_small_positive(value)]

    def _is_small_positive(self, value: ir.Value) -> bool:
        seen = self.ranges.get(str(value.name))
        return seen is not None and 0.0 < seen.minimum < SMALLEST_NORMAL

    def _reason(self, node: ir.Node) -> str | None:
        if node.op_type in _KEPT_OPS:
            return _KEPT_OPS[node.op_type]
        if not _takes_half(node, self.opsets):
            return "the operator takes no float16"
        for value in (*node.inputs, *node.outputs):
            if not _is_float(value) or value is None:
                continue
            reason = self._value_reason(value)
            if reason is not None:
                return reason
        return None

    def _value_reason(self, value: ir.Value) -> str | None:
        array = constant_array(value)
        if array is not None:
            size = np.abs(np.asarray(array, np.float64))
            if size.max(initial=0.0) > LARGEST:
                return f"its constant '{value.name}' holds {size.max():.3g}, more than float16 does"
            if size.size == 1 and 0.0 < size.item() < SMALLEST:
                return f"its constant '{value.name}', {size.item():.3g}, rounds to 0 in float16"
            return None
        if value in self.delicate:
            return f"its tensor '{value.name}' holds numbers too small for float16 and ends in a Log or a divisor"
        seen = self.ranges.get(str(value.name))
        if seen is not None and seen.absmax > self.limit:
            return f"its tensor '{value.name}' reaches {seen.absmax:.4g}, and float16 ends at {LARGEST:.0f}"
        return None


def _is_square(node: ir.Node) -> bool:
    return node.op_type in ("Pow", "ReduceSumSquare", "ReduceL2") or (
        node.op_type == "Mul" and node.inputs[0] is node.inputs[1]
    )


def _takes_half(node: ir.Node, opsets: Mapping[str, int]) -> bool:
    """Return whether the operator's float outputs may be float16 by its schema; False when there is no schema."""
    schema = _schema(node, opsets)
    if schema is None:
        return False
    return all(
        _allows_half(schema.outputs, index) for index, value in enumerate(node.outputs) if _is_float(value)
    ) and all(
        _allows_half(schema.inputs, index)
        for index, value in enumerate(node.inputs)
        if _is_float(value) and not _is_float32_parameter(schema, index)
    )


def _schema(node: ir.Node, opsets: Mapping[str, int]) -> onnx.defs.OpSchema | None:
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        return onnx.defs.get_schema(node.op_type, opsets.get(domain, 1), domain)
    except onnx.defs.SchemaError:
        return None


def _formal(parameters: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> onnx.defs.OpSchema.FormalParameter:
    return parameters[min(index, len(parameters) - 1)]


def _allows_half(parameters: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> bool:
    return "tensor(float16)" in _formal(parameters, index).types


def _is_float32_parameter(schema: onnx.defs.OpSchema, index: int) -> bool:
    """Return whether this input is float32 by definition, as the `scales` of Resize: it is left as it is."""
    return _formal(schema.inputs, index).types == {"tensor(float)"}


def _halves(graph: ir.Graph, kept: Mapping[ir.Node, str]) -> set[ir.Value]:
    """Return the values that become float16: the float outputs of every node not kept."""
    return {
        value
        for node in ir.traversal.RecursiveGraphIterator(graph)
        if node not in kept
        for value in node.outputs
        if _is_float(value)
    }


@dataclass
class _Writer:
    halves: set[ir.Value]
    kept: Mapping[ir.Node, str]
    casts: dict[tuple[ir.Graph, ir.Value, ir.DataType], ir.Value] = field(default_factory=dict)
    constants: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def write(self, graph: ir.Graph) -> None:
        opsets = graph.opset_imports
        nodes = [(node, node.graph) for node in ir.traversal.RecursiveGraphIterator(graph)]
        for node, owner in nodes:
            assert isinstance(owner, ir.Graph)
            for subgraph in _subgraphs(node):
                self._float_outputs(subgraph)
            self._match_inputs(node, owner, opsets)
            if node not in self.kept:
                _retype_attributes(node, self.halves)
        self._float_outputs(graph)
        for value in self.halves:
            # A clone shares the type objects of its original, so the type is replaced, not edited.
            value.type = ir.TensorType(ir.DataType.FLOAT16)
        _drop_unused_initializers(graph)

    def _match_inputs(self, node: ir.Node, owner: ir.Graph, opsets: Mapping[str, int]) -> None:
        schema = _schema(node, opsets)
        for index, value in enumerate(node.inputs):
            if value is None or not _is_float(value):
                continue
            half = node not in self.kept and not (schema is not None and _is_float32_parameter(schema, index))
            if half == (value in self.halves):
                continue
            node.replace_input_with(index, self._as(value, half, owner, node))

    def _as(self, value: ir.Value, half: bool, owner: ir.Graph, before: ir.Node) -> ir.Value:
        if value.is_initializer() and not value.is_graph_input():
            return self._half_constant(value)
        dtype = ir.DataType.FLOAT16 if half else ir.DataType.FLOAT
        key = (owner, value, dtype)
        if key not in self.casts:
            cast = _cast(value, dtype, f"{value.name}_{dtype.name.lower()}{len(self.casts)}")
            owner.insert_before(before, cast)
            self.casts[key] = cast.outputs[0]
        return self.casts[key]

    def _half_constant(self, value: ir.Value) -> ir.Value:
        if value not in self.constants:
            array = constant_array(value)
            assert array is not None and value.graph is not None
            name = f"{value.name}_float16"
            half = ir.Value(name=name, const_value=ir.tensor(array.astype(np.float16), name=name))
            half.dtype, half.shape = ir.DataType.FLOAT16, value.shape
            assert isinstance(value.graph, ir.Graph)
            value.graph.register_initializer(half)
            self.constants[value] = half
        return self.constants[value]

    def _float_outputs(self, graph: ir.Graph) -> None:
        """Cast the outputs of a graph back to float32, under their own names."""
        for index, value in enumerate(graph.outputs):
            if value is None or value not in self.halves:
                continue
            name = value.name
            value.name = f"{name}_half"
            cast = _cast(value, ir.DataType.FLOAT, f"{name}_float")
            cast.outputs[0].name = name
            graph.append(cast)
            graph.outputs[index] = cast.outputs[0]


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    cast = ir.node("Cast", [value], {"to": int(dtype)}, name=f"{name}_Cast")
    cast.outputs[0].name, cast.outputs[0].dtype, cast.outputs[0].shape = name, dtype, value.shape
    return cast


def _retype_attributes(node: ir.Node, halves: set[ir.Value]) -> None:
    """Change the attributes that state float32 for an output that is float16 now."""
    if node.outputs[0] not in halves:
        return
    if node.op_type == "Cast":
        node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT16))
    for name in ("value", "value_float", "value_floats"):
        if name not in node.attributes or node.op_type not in ("Constant", "ConstantOfShape"):
            continue
        attribute = node.attributes.pop(name)
        plain = attribute.as_tensor().numpy() if name == "value" else np.asarray(attribute.value, np.float32)
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(plain.astype(np.float16)))
    if node.op_type == "ConstantOfShape" and "value" not in node.attributes:
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.zeros(1, np.float16)))


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT


def _subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _drop_unused_initializers(graph: ir.Graph) -> None:
    graphs = [
        graph,
        *(inner for node in ir.traversal.RecursiveGraphIterator(graph) for inner in _subgraphs(node)),
    ]
    for one in graphs:
        for name, value in list(one.initializers.items()):
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                del one.initializers[name]
