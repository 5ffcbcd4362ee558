"""The quantization plan: which tensor gets which integers, decided without running or changing anything.

`plan_quantization` reads a graph, its calibrated ranges and what a device wants, and writes every choice
down: one encoding per activation, one per constant input, the activation functions that saturation makes
superfluous, and the nodes left in float with the reason. Writing Q/DQ nodes is left to `qdq`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converters.quantize.affine import (
    Affine,
    activation_affine,
    at_width,
    bias_affine,
    constant_affine,
    weight_affine,
    widen_for_bias,
)
from converters.quantize.fixed_ranges import FIXED_RANGE, fixed_affine, hard_sigmoid_affines, needed_by_readers
from converters.quantize.observers import TensorRange
from edgert.errors import UsageError
from edgert.profile import Quantization

PASS_THROUGH = frozenset(
    {
        *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Expand", "Tile"),
        *("Slice", "Split", "Gather", "GatherElements", "GatherND", "DepthToSpace", "SpaceToDepth"),
        *("MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin", "Pad", "Resize"),
    }
)
"""Ops that copy or pick values: their output is stored exactly as their first input, so nothing is rounded twice."""

HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Ops worth integers by themselves; any other op is quantized on a CPU only where its inputs are integers already."""

FLOAT_ONLY = frozenset({"Cast", "LSTM", "GRU", "RNN"})
"""Ops never quantized: a Cast says its types itself, and no provider has a quantized kernel of the recurrent ones."""

NORMALIZATIONS = frozenset({"InstanceNormalization", "BatchNormalization", "GroupNormalization"})
"""Ops whose scale is stored like a weight. LayerNormalization is not among them: onnxruntime-qnn 2.7 refuses an int8
scale beside an int32 bias, and takes both in the type of the activations."""

_FLOAT_INPUTS = {"Clip": 1, "Resize": 1, "Dropout": 1}
"""How many leading inputs are data, for ops whose further float inputs are parameters and stay float."""

_CONCAT_SPREAD = 100.0


@dataclass(frozen=True)
class LeftInFloat:
    """A node that stays in float, and why."""

    node: str
    op_type: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """Every choice of one quantized variant.

    `activations` maps a value's name to its encoding; `constants` maps (node key, input index) to that of a
    constant input, because one constant may be stored differently for two users. `quantized` and `absorbed`
    hold node keys: absorbed Relu and Clip nodes are removed, the saturation of the encoding after them does
    their work. A node's key is the name of its first output. `notes` are sentences for a person. `converted`
    maps (node key, input index) to the encoding in which a node of another width reads an activation.
    """

    variant: str
    activations: Mapping[str, Affine]
    constants: Mapping[tuple[str, int], Affine]
    quantized: frozenset[str]
    absorbed: frozenset[str]
    left: tuple[LeftInFloat, ...]
    notes: tuple[str, ...]
    saturating: Mapping[str, Affine] = field(default_factory=dict)
    converted: Mapping[tuple[str, int], Affine] = field(default_factory=dict)

    @property
    def needs_opset_21(self) -> bool:
        """Return whether any encoding has a type that QuantizeLinear takes only from opset 21."""
        encodings = [*self.activations.values(), *self.constants.values(), *self.converted.values()]
        return any(encoding.dtype in ("uint16", "int16") for encoding in encodings)


def variant_class(quantization: Quantization, activation_bits: int) -> str:
    """Return the variant class: `qdq-a16w8` for 16-bit activations, else the profile's own, such as `qdq-u8s8`."""
    if activation_bits == 16:
        return "qdq-a16w8"
    if activation_bits == 8:
        return quantization.variant_class
    raise UsageError(f"activations of {activation_bits} bits do not exist", "choose 8 or 16")


def plan_quantization(
    model: ir.Model,
    ranges: Mapping[str, TensorRange],
    quantization: Quantization,
    activation_bits: int = 8,
    *,
    keep_float: Collection[str] = (),
    wide: Collection[str] = (),
) -> Plan:
    """Decide every encoding of the main graph; `keep_float` names nodes that must stay in float.

    `wide` are the keys of nodes that get 16-bit activations while the others have `activation_bits`. A tensor has the
    width of the node that gives it, a graph input the widest of its readers', and what copies it keeps it.
    The graph must be sorted, with types inferred and with the names that `ranges` was calibrated with.
    """
    planner = _Planner(model.graph, ranges, quantization, activation_bits, frozenset(keep_float), frozenset(wide))
    return planner.plan()


def node_key(node: ir.Node) -> str:
    """Return the name of the first output that is there: unique in a graph, as node names need not be."""
    return next(output.name for output in node.outputs if output.name)


def constant_array(value: ir.Value | None) -> NDArray[np.generic] | None:
    """Return the array of an initializer or of a Constant node's output, None for anything computed."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    """Return the bounds of a Relu or Clip with constant bounds, None for any other node."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return None
    bounds = [-np.inf, np.inf]
    for index, name in enumerate(("min", "max")):
        if name in node.attributes:
            bounds[index] = node.attributes[name].as_float()
        elif len(node.inputs) > index + 1 and node.inputs[index + 1] is not None:
            array = constant_array(node.inputs[index + 1])
            if array is None:
                return None
            bounds[index] = float(array.item())
    return bounds[0], bounds[1]


def output_axis(node: ir.Node) -> int | None:
    """Return the axis of the weights (input 1) that counts output channels, None for an op without weights."""
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": -1}.get(node.op_type)


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT


def _only_consumer(value: ir.Value) -> ir.Node | None:
    """Return the one node that reads `value`, None when there are more or it is a graph output."""
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    return next(iter(uses)).node


@dataclass
class _Planner:
    graph: ir.Graph
    ranges: Mapping[str, TensorRange]
    quantization: Quantization
    bits: int
    keep_float: frozenset[str]
    wide: frozenset[str]
    activations: dict[str, Affine] = field(default_factory=dict)
    constants: dict[tuple[str, int], Affine] = field(default_factory=dict)
    quantized: set[str] = field(default_factory=set)
    absorbed: set[str] = field(default_factory=set)
    left: list[LeftInFloat] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    saturating: dict[str, Affine] = field(default_factory=dict)
    converted: dict[tuple[str, int], Affine] = field(default_factory=dict)
    values: dict[str, ir.Value] = field(init=False)

    def __post_init__(self) -> None:
        values = [*self.graph.inputs, *(value for node in self.graph for value in node.outputs)]
        self.values = {str(value.name): value for value in values}

    @property
    def everything(self) -> bool:
        return self.quantization.quantize_ops == ("*",)

    def plan(self) -> Plan:
        variant = variant_class(self.quantization, self.bits)
        for node in self.graph:
            self._choose_node(node)
        if not self.everything:
            self._release_float_outputs()
        for value in self.graph.inputs:
            if self._is_encoded(value):
                self.activations[str(value.name)] = self._from_range(str(value.name), self._dtype(value))
        for node in self.graph:
            self._encode_outputs(node)
        written = self.quantized - self.absorbed
        for node in self.graph:
            if node_key(node) in written:
                self._convert_inputs(node)
                self._encode_constants(node)
        return Plan(
            variant,
            self.activations,
            self.constants,
            frozenset(self.quantized),
            frozenset(self.absorbed),
            tuple(self.left),
            tuple(self.notes),
            self.saturating,
            self.converted,
        )

    # which nodes

    def _choose_node(self, node: ir.Node) -> None:
        if not any(_is_float(value) for value in (*node.inputs, *node.outputs)) or node.op_type == "Constant":
            return
        if self._is_absorbed(node):
            self.absorbed.add(node_key(node))
            self.quantized.add(node_key(node))
            return
        reason = self._refusal(node)
        if reason is None:
            self.quantized.add(node_key(node))
        else:
            self.left.append(LeftInFloat(node.name or node_key(node), node.op_type, reason))

    def _refusal(self, node: ir.Node) -> str | None:
        """Return why `node` cannot or should not be quantized, None when it can."""
        if node.name in self.keep_float or node_key(node) in self.keep_float:
            return "kept in float on request"
        if node.domain not in ("", "ai.onnx"):
            return f"its domain '{node.domain}' is not standard ONNX"
        if any(
            attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for attribute in node.attributes.values()
        ):
            return "it holds a subgraph"
        if node.op_type in FLOAT_ONLY:
            return "there is no quantized form of this op"
        for value in (*node.inputs, *node.outputs):
            if value is None or not _is_float(value):
                continue
            array = constant_array(value)
            if array is None and value.name not in self.ranges:
                return f"its tensor '{value.name}' was not calibrated"
            if array is not None and not np.isfinite(np.asarray(array, np.float64)).all():
                return f"its constant '{value.name}' holds NaN or infinity"
        return None if self.everything else self._cpu_refusal(node)

    def _cpu_refusal(self, node: ir.Node) -> str | None:
        if not self.quantization.quantizes(node.op_type):
            return "the provider has no integer kernel for this op"
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and constant_array(node.inputs[1]) is None:
            return "its weights are computed, not constant"
        bias = node.inputs[2] if node.op_type in HEAVY and len(node.inputs) > 2 else None
        if bias is not None and constant_array(bias) is None:
            return "its bias is computed, not constant"
        if node.op_type == "HardSigmoid" and node.attributes.get_float("alpha", 0.2) <= 0.0:
            return "its slope is not positive"
        if node.op_type == "Gemm":
            return self._gemm_refusal(node)
        if node.op_type in HEAVY and constant_array(node.inputs[1]) is not None:
            return None
        if any(_is_float(v) and constant_array(v) is None and not self._from_quantized(v) for v in node.inputs):
            return "its inputs are float, and it is too cheap to convert them"
        return None

    def _gemm_refusal(self, node: ir.Node) -> str | None:
        if node.attributes.get_float("alpha", 1.0) != 1.0 or node.attributes.get_int("transA", 0) != 0:
            return "the integer kernel takes neither alpha nor transA"
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            if node.attributes.get_float("beta", 1.0) != 1.0:
                return "the integer kernel takes no beta"
            if len(node.inputs[2].shape or ()) != 1:
                return "the integer kernel takes only a bias of one dimension"
        return None

    def _from_quantized(self, value: ir.Value | None) -> bool:
        producer = value.producer() if value is not None else None
        return producer is not None and node_key(producer) in self.quantized

    def _is_absorbed(self, node: ir.Node) -> bool:
        """Return whether the encoding of this Relu's or Clip's output cuts as the node does, to half a step."""
        bounds = clip_bounds(node)
        if bounds is None or not self._from_quantized(node.inputs[0]):
            return False
        source, name = node.inputs[0], str(node.outputs[0].name)
        assert source is not None
        producer = source.producer()
        if producer is None or _only_consumer(source) is not node or name not in self.ranges:
            return False
        if producer.op_type in PASS_THROUGH or producer.op_type in FIXED_RANGE or producer.op_type == "Concat":
            return False
        affine = self._from_range(name, self._dtype(source))
        (low, high), half_a_step = affine.bounds, float(affine.scale) / 2
        return bool(low >= bounds[0] - half_a_step and high <= bounds[1] + half_a_step)

    def _release_float_outputs(self) -> None:
        """Let a MatMul whose readers are all float give floats: onnxruntime has MatMulIntegerToFloat for that."""
        for node in self.graph:
            if node.op_type != "MatMul" or node_key(node) not in self.quantized:
                continue
            reader = _only_consumer(node.outputs[0])
            if reader is None or node_key(reader) not in self.absorbed:
                continue
            if not any(node_key(user) in self.quantized for user in reader.outputs[0].consumers()):
                self.absorbed.discard(node_key(reader))
                self.quantized.discard(node_key(reader))
                self.left.append(LeftInFloat(str(reader.name), reader.op_type, "only float nodes read it"))

    # how many bits

    def _dtype(self, value: ir.Value) -> str:
        """Return the type that stores `value`."""
        producer = value.producer()
        if producer is not None and node_key(producer) in self.quantized:
            return self._node_dtype(producer)
        return self._activation_dtype(any(node_key(user) in self.wide for user in value.consumers()))

    def _node_dtype(self, node: ir.Node) -> str:
        """Return the type of a node's activations; what copies values, or is absorbed, has its input's."""
        source = node.inputs[0] if node.inputs else None
        copies = node.op_type in PASS_THROUGH or node_key(node) in self.absorbed
        if copies and source is not None and str(source.name) in self.ranges:
            return self._dtype(source)
        return self._activation_dtype(node_key(node) in self.wide)

    def _activation_dtype(self, wide: bool) -> str:
        return "uint16" if wide or self.bits == 16 else self.quantization.activation

    def _convert_inputs(self, node: ir.Node) -> None:
        """Give each activation of another width an encoding for this node; a Concat reads it as it stores it."""
        dtype, key = self._node_dtype(node), node_key(node)
        joined = self.activations.get(str(node.outputs[0].name)) if node.op_type == "Concat" else None
        for index, value in enumerate(node.inputs):
            affine = self.activations.get(str(value.name)) if value is not None else None
            if affine is not None and affine.dtype != dtype:
                self.converted[key, index] = joined or at_width(affine, dtype)

    def _input_affine(self, node: ir.Node, index: int) -> Affine | None:
        """Return the encoding in which `node` reads an activation, None for a constant or a float."""
        value = node.inputs[index]
        if value is None:
            return None
        return self.converted.get((node_key(node), index)) or self.activations.get(str(value.name))

    # encodings of activations

    def _is_encoded(self, value: ir.Value) -> bool:
        if not _is_float(value) or not value.name or value.name not in self.ranges:
            return False
        consumers = [user for user in value.consumers() if node_key(user) in self.quantized]
        if any(node_key(user) in self.absorbed for user in consumers):
            return False
        producer = value.producer()
        if producer is None or node_key(producer) not in self.quantized:
            return bool(consumers)
        return self.everything or producer.op_type != "MatMul" or bool(consumers)

    def _from_range(self, name: str, dtype: str) -> Affine:
        return activation_affine(self._useful(name), dtype, symmetric=self.quantization.activation_symmetric)

    def _useful(self, name: str) -> TensorRange:
        """Return the range of a tensor without what all its readers cut off.

        x * HardSigmoid(x) is 0 below some x and x above another: the steps between them are all that counts.
        """
        full, value = self.ranges[name], self.values.get(name)
        if value is None or value.is_graph_output():
            return full
        low, high = needed_by_readers(value)
        minimum, maximum = max(full.minimum, low), min(full.maximum, high)
        return full if minimum >= maximum else replace(full, minimum=minimum, maximum=maximum)

    def _encode_outputs(self, node: ir.Node) -> None:
        outputs = [value for value in node.outputs if self._is_encoded(value)]
        source = self._shared_source(node)
        for value in outputs:
            if source is not None:
                self.activations[str(value.name)] = source
            elif not self.everything and node.op_type == "HardSigmoid":
                inner, outer = hard_sigmoid_affines(node, self._dtype(value))
                self.saturating[str(value.name)], self.activations[str(value.name)] = inner, outer
            elif node.op_type in FIXED_RANGE:
                self.activations[str(value.name)] = fixed_affine(node.op_type, self._dtype(value))
            else:
                self.activations[str(value.name)] = self._from_range(str(value.name), self._dtype(value))
        if node.op_type == "Concat" and outputs and node_key(node) in self.quantized:
            self._join(node, self.activations[str(outputs[0].name)])

    def _shared_source(self, node: ir.Node) -> Affine | None:
        """Return the encoding that a pass-through node hands on, None when its output needs one of its own."""
        if node.op_type not in PASS_THROUGH or node_key(node) not in self.quantized:
            return None
        source = self.activations.get(str(node.inputs[0].name)) if node.inputs[0] is not None else None
        if source is None or (node.op_type == "Resize" and _may_overshoot(node)):
            return None
        if node.op_type == "Pad" and not _pads_within(node, source):
            return None
        return source

    def _join(self, node: ir.Node, joined: Affine) -> None:
        """Give the inputs of a Concat its own encoding where nothing else reads them, so that it only copies."""
        widths = [self.ranges[str(v.name)].absmax for v in node.inputs if v is not None and v.name in self.ranges]
        if joined.dtype != "uint16" and widths and max(widths) > _CONCAT_SPREAD * min(widths):
            self.notes.append(
                f"Concat '{node.name}' joins tensors of unequal size ({min(widths):.3g} and {max(widths):.3g}): "
                "8 bits lose the small one"
            )
        for value in node.inputs:
            chain = self._private_chain(value)
            if chain and self._dtype(chain[0]) == joined.dtype:
                self.activations |= {str(link.name): joined for link in chain}

    def _private_chain(self, value: ir.Value | None) -> list[ir.Value]:
        """Return `value` and what it was copied from, if no other node reads any of it and its range is free."""
        chain: list[ir.Value] = []
        while value is not None and value.name in self.activations and _only_consumer(value) is not None:
            chain.append(value)
            producer = value.producer()
            if producer is None or node_key(producer) not in self.quantized:
                return chain
            if producer.op_type in FIXED_RANGE or len(producer.outputs) > 1:
                return []
            if node_key(producer) in self.absorbed or producer.op_type not in PASS_THROUGH:
                return chain if node_key(producer) not in self.absorbed else []
            value = producer.inputs[0]
        return []

    # encodings of constants

    def _encode_constants(self, node: ir.Node) -> None:
        arrays = {
            index: array
            for index, value in enumerate(node.inputs[: _FLOAT_INPUTS.get(node.op_type, len(node.inputs))])
            if _is_float(value) and (array := constant_array(value)) is not None
        }
        key = node_key(node)
        if node.op_type in HEAVY or node.op_type in NORMALIZATIONS:
            self._encode_weights(node, arrays)
        for index, array in arrays.items():
            if (key, index) in self.constants:
                continue
            if node.op_type == "Pad":
                source = self.activations.get(str(node.outputs[0].name))
                if source is not None:
                    self.constants[key, index] = source
            else:
                self.constants[key, index] = self._operand_affine(node, array)

    def _operand_affine(self, node: ir.Node, array: NDArray[np.generic]) -> Affine:
        """Return the encoding of a constant operand; zeros take that of the tensor beside them.

        The HTP emulator of onnxruntime-qnn 2.7 gives zeros for Max(x, 0) where the scales differ by much.
        """
        beside = (self._input_affine(node, index) for index in range(len(node.inputs)))
        first = next((affine for affine in beside if affine is not None), None)
        if first is not None and not np.any(array):
            return first
        return constant_affine(array, self._node_dtype(node))

    def _encode_weights(self, node: ir.Node, arrays: Mapping[int, NDArray[np.generic]]) -> None:
        key = node_key(node)
        for index in (0, 1) if node.op_type == "MatMul" else (1,):
            if index in arrays:
                axis = self._weight_axis(node, arrays[index]) if index else None
                self.constants[key, index] = weight_affine(
                    np.asarray(arrays[index], np.float32),
                    self.quantization.weight,
                    axis=axis,
                    symmetric=self.quantization.weight_symmetric,
                    reduce_range=self.quantization.reduce_range,
                )
        source = self._input_affine(node, 0)
        if node.op_type == "MatMul" or 2 not in arrays or 1 not in arrays or source is None:
            return
        bias = np.asarray(arrays[2], np.float32)
        self.constants[key, 1] = widen_for_bias(self.constants[key, 1], bias, source)
        self.constants[key, 2] = bias_affine(source, self.constants[key, 1])

    def _weight_axis(self, node: ir.Node, weights: NDArray[np.generic]) -> int | None:
        if node.op_type not in self.quantization.per_channel:
            return None
        if node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) > 1:
            return None
        if node.op_type == "MatMul":
            return 1 if weights.ndim == 2 else None
        return output_axis(node)


def _may_overshoot(node: ir.Node) -> bool:
    return node.attributes.get_string("mode", "nearest") == "cubic"


def _pads_within(node: ir.Node, source: Affine) -> bool:
    if node.attributes.get_string("mode", "constant") != "constant":
        return True
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    fill = constant_array(node.inputs[2])
    low, high = source.bounds
    return fill is not None and low <= float(fill.item()) <= high
