"""The opset is raised to the one that the device profile asks for."""

import onnx
import onnx.version_converter
import onnx_ir as ir
import onnx_ir.passes.common as common

from converters.passes.result import PassResult
from converters.passes.skeleton import skeleton
from edgert.errors import BadInput
from edgert.profile import DeviceProfile

OLDEST_OPSET = 7


def raise_opset(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Convert the graph from its opset (7 or newer) to `profile.opset`; a newer graph is left alone.

    Names, order and types of inputs and outputs, metadata, documentation and nodes of other domains stay as they are.
    Local functions are inlined first: each carries an opset of its own. Weights never pass through the converter.
    Raises BadInput when the opset is older than 7 or an operator has no way up.
    """
    opset = _own_opset(model)
    if opset < OLDEST_OPSET:
        raise BadInput(
            f"the model's opset is {opset}; the oldest that can be converted is {OLDEST_OPSET}",
            remedy=f"export the model again with opset {profile.opset}",
        )
    if opset > profile.opset:
        return PassResult(
            0, (f"graph: its opset {opset} is newer than the profile's {profile.opset} and is never lowered",)
        )
    if opset == profile.opset:
        return PassResult(0)
    if model.functions:
        common.InlinePass()(model)
    _replace_graph(model, _converted(model, profile.opset))
    _raise_ir_version(model)
    return PassResult(1)


def _own_opset(model: ir.Model) -> int:
    """Read the opset of the ONNX domain, which may also be spelled 'ai.onnx'; settle on the short spelling."""
    alias = model.graph.opset_imports.pop("ai.onnx", None)
    if alias is not None:
        model.graph.opset_imports.setdefault("", alias)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain == "ai.onnx":
            node.domain = ""
    return model.graph.opset_imports.get("", 0)


def _converted(model: ir.Model, opset: int) -> ir.Graph:
    proto, absent = skeleton(model)
    try:
        raised = onnx.version_converter.convert_version(proto, opset)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        raise BadInput(
            f"the model cannot be raised from opset {model.graph.opset_imports['']} to {opset}: {str(error).strip()}",
            remedy=f"export the model again with opset {opset}",
        ) from error
    graph = ir.from_proto(raised).graph
    for value in [value for value in graph.inputs if value.name in absent]:
        graph.inputs.remove(value)
        assert value.name is not None
        value.const_value = model.graph.initializers[value.name].const_value
        graph.register_initializer(value)
    return graph


def _replace_graph(model: ir.Model, graph: ir.Graph) -> None:
    """Put the raised graph into the model, with what the converter drops: descriptions, metadata, the interface."""
    old = model.graph
    for new_value, old_value in zip((*graph.inputs, *graph.outputs), (*old.inputs, *old.outputs), strict=True):
        assert new_value.name == old_value.name
        new_value.type, new_value.shape = old_value.type, old_value.shape
        new_value.doc_string = old_value.doc_string
        new_value.metadata_props.update(old_value.metadata_props)
    graph.name, graph.doc_string = old.name, old.doc_string
    graph.metadata_props.update(old.metadata_props)
    described = {node.outputs[0].name: node for node in ir.traversal.RecursiveGraphIterator(old) if node.outputs}
    for node in ir.traversal.RecursiveGraphIterator(graph):
        source = described.get(node.outputs[0].name) if node.outputs else None
        if source is not None:
            node.doc_string = source.doc_string
            node.metadata_props.update(source.metadata_props)
    for domain, version in old.opset_imports.items():
        graph.opset_imports.setdefault(domain, version)
    model.graph = graph


def _raise_ir_version(model: ir.Model) -> None:
    """Set the IR version that the opset came with, where the model's is older."""
    needed = onnx.helper.find_min_ir_version_for(
        [onnx.helper.make_opsetid("", model.graph.opset_imports[""])], ignore_unknown=True
    )
    model.ir_version = max(model.ir_version, needed)
