"""Shapes of all values follow from the inputs, never from what the file declares."""

import onnx
import onnx.shape_inference
import onnx_ir as ir

from converters.passes.result import PassResult
from converters.passes.skeleton import skeleton
from edgert.profile import DeviceProfile


def infer_shapes(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Forget the declared shapes of intermediate values and outputs, then infer them from the inputs.

    Exporters declare shapes that are wrong (silero-vad: output [0, 1]), and a wrong shape makes later folding wrong. A
    dimension of 0 or less of an input becomes unknown. What cannot be inferred stays unknown; outputs keep their rank.
    """
    del profile
    before = _shapes(model)
    _forget(model)
    proto, _ = skeleton(model)
    declined: tuple[str, ...] = ()
    try:
        inferred = ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    except onnx.shape_inference.InferenceError as error:
        declined = (f"graph: shapes stay unknown, {str(error).strip()}",)
    else:
        for graph, source in zip(model.graphs(), inferred.graphs(), strict=True):
            _copy_shapes(source, graph)
    after = _shapes(model)
    return PassResult(sum(before.get(value) != shape for value, shape in after.items()), declined)


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [value for node in graph for value in node.outputs if value.name]


def _shapes(model: ir.Model) -> dict[ir.Value, str]:
    values = [value for graph in model.graphs() for value in (*graph.inputs, *_values(graph))]
    return {value: f"{value.type} {value.shape}" for value in values}


def _forget(model: ir.Model) -> None:
    for value in model.graph.inputs:
        if value.shape is not None:
            value.shape = ir.Shape([dim if not isinstance(dim, int) or dim > 0 else None for dim in value.shape])
    for graph in model.graphs():
        for value in _values(graph):
            value.shape = _unknown(value) if value.is_graph_output() and graph is model.graph else None


def _unknown(value: ir.Value) -> ir.Shape | None:
    return None if value.shape is None else ir.Shape([None] * len(value.shape))


def _copy_shapes(source: ir.Graph, target: ir.Graph) -> None:
    inferred = {value.name: value for value in _values(source)}
    for value in _values(target):
        found = inferred.get(value.name)
        if found is None:
            continue
        value.shape = found.shape or value.shape
        value.type = value.type or found.type
