"""Weights become initializers of the main graph, wherever an exporter put them."""

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from converters.passes.matching import is_op, label, nodes_of
from converters.passes.result import PassResult
from converters.passes.rewriting import add_initializer, names_of
from edgert.profile import DeviceProfile

FREE_INITIALIZERS = 4
"""The first IR version whose initializers need not be inputs too."""


def lift_constants(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Turn Constant nodes into initializers, move those of subgraphs to the main graph, and keep none as graph input.

    Models of IR version 3 list every initializer as an input too; later models may, as a default that a caller can
    override. Neither is an input that onnxruntime asks for, so the interface stays; a default becomes a fixed weight.
    The IR version becomes at least 4, which allows that. A Constant that is a graph output, or that holds a sparse
    tensor, stays a node.
    """
    del profile
    inputs = sum(len(graph.inputs) for graph in model.graphs())
    common.RemoveInitializersFromInputsPass()(model)
    changes = inputs - sum(len(graph.inputs) for graph in model.graphs())
    model.ir_version = max(model.ir_version, FREE_INITIALIZERS)
    declined: list[str] = []
    taken = names_of(model)
    for node in nodes_of(model):
        if not is_op(node, "Constant"):
            continue
        reason = _lift_node(model, node, taken)
        changes += reason is None
        declined += [] if reason is None else [f"{label(node)}: {reason}"]
    for graph in tuple(model.graph.subgraphs()):
        changes += sum(_lift_initializer(model, value, taken) for value in tuple(graph.initializers.values()))
    return PassResult(changes, tuple(declined))


def _lift_node(model: ir.Model, node: ir.Node, taken: Counter[str | None]) -> str | None:
    output = node.outputs[0]
    if output.is_graph_output():
        return "it is a graph output"
    tensor = _tensor_of(node)
    if tensor is None:
        return "its value is not a plain tensor"
    name = output.name or "constant"
    assert node.graph is not None
    taken[output.name] -= 1
    output.name = f"{name}_lifted"  # gives the name free, so that the initializer keeps it
    output.replace_all_uses_with(_add(model, name, tensor, taken))
    node.graph.remove(node, safe=True)
    return None


def _lift_initializer(model: ir.Model, value: ir.Value, taken: Counter[str | None]) -> bool:
    if value.is_graph_output() or value.const_value is None or value.graph is None or value.name is None:
        return False
    del value.graph.initializers[value.name]
    taken[value.name] -= 1
    value.replace_all_uses_with(_add(model, value.name, value.const_value, taken))
    return True


def _add(model: ir.Model, name: str, tensor: ir.TensorProtocol, taken: Counter[str | None]) -> ir.Value:
    """Add a weight and count its name."""
    value = add_initializer(model, name, tensor, taken)
    taken[value.name] += 1
    return value


def _tensor_of(node: ir.Node) -> ir.TensorProtocol | None:
    if len(node.attributes) != 1:
        return None
    (attribute,) = node.attributes.values()
    match attribute.name:
        case "value":
            return attribute.as_tensor()
        case "value_int" | "value_ints":
            return ir.tensor(np.array(attribute.value, dtype=np.int64))
        case "value_float" | "value_floats":
            return ir.tensor(np.array(attribute.value, dtype=np.float32))
        case "value_string":
            return ir.StringTensor(np.array(attribute.as_string().encode(), dtype=object), shape=ir.Shape(()))
        case "value_strings":
            texts = [text.encode() for text in attribute.as_strings()]
            return ir.StringTensor(np.array(texts, dtype=object), shape=ir.Shape([len(texts)]))
    return None
