"""What does not depend on the inputs is computed now; what nothing needs is dropped."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript import optimizer

from converters.passes.infer_shapes import infer_shapes
from converters.passes.lift_constants import lift_constants
from converters.passes.matching import constant, is_op, label, nodes_of
from converters.passes.result import PassResult
from edgert.profile import DeviceProfile

MAX_ELEMENTS = 1 << 20
"""No weight above this size is computed or consumed (4 MB of float32): the file must not grow by folding."""

MAX_FILL = 1024
"""A ConstantOfShape of up to this many elements is folded: it is a shape or a padding, not a tensor of zeros."""

_ROUNDS = 8
_RANDOM = frozenset(
    ("Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)

_QUANTIZED = frozenset(("DequantizeLinear", "QuantizeLinear"))
"""Integer weights stay integers: folding them into floats would undo the quantization that the model came with."""


def fold_constants(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Fold constant expressions, a branch of an If whose condition is constant, repeated nodes and equal small weights.

    Nodes that draw random numbers and an If on an input stay. Names and order of the model's inputs and outputs stay.
    A change is a node or a weight that is there no more.
    """
    before = _members(model)
    random = [node for node in nodes_of(model) if node.op_type in _RANDOM]
    for _ in range(_ROUNDS):
        start = _members(model)
        with _inputs_not_as_outputs(model.graph):
            _fold_once(model, profile, repeated=not random)
        if _members(model) == start:
            break
        infer_shapes(model, profile)
    after = _members(model)
    declined = tuple(f"{label(node)}: it draws random numbers, so repeated nodes stay" for node in random)
    return PassResult(len(before - after), declined)


@contextmanager
def _inputs_not_as_outputs(graph: ir.Graph) -> Iterator[None]:
    """Take inputs that are outputs too off the outputs for a while: OutputFixPass would rename the input."""
    outputs = tuple(graph.outputs)
    graph.outputs[:] = [value for value in outputs if not value.is_graph_input()]
    yield
    made = iter(tuple(graph.outputs))
    graph.outputs[:] = [value if value.is_graph_input() else next(made) for value in outputs]


def _fold_once(model: ir.Model, profile: DeviceProfile, repeated: bool) -> None:
    optimizer.fold_constants_ir(
        model, input_size_limit=MAX_ELEMENTS, output_size_limit=MAX_ELEMENTS, should_fold=_should_fold
    )
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    lift_constants(model, profile)
    common.DeduplicateInitializersPass()(model)
    if repeated:
        common.CommonSubexpressionEliminationPass()(model)
    common.OutputFixPass()(model)
    common.NameFixPass()(model)


def _should_fold(node: ir.Node) -> bool | None:
    """Forbid what must stay, allow a small ConstantOfShape; None leaves the decision to the size limits."""
    if is_op(node, "ConstantOfShape"):
        shape = constant(node.inputs[0])
        return None if shape is None else math.prod(map(int, shape.reshape(-1))) <= MAX_FILL
    if node.op_type in _RANDOM | _QUANTIZED or any(value is not None and _is_default(value) for value in node.inputs):
        return False
    return None


def _is_default(value: ir.Value) -> bool:
    return value.const_value is not None and value.is_graph_input() and constant(value) is None


def _members(model: ir.Model) -> frozenset[int]:
    return frozenset(id(node) for node in nodes_of(model)) | frozenset(map(id, model.graph.initializers.values()))
