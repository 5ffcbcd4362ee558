"""The few things that graph passes do to a graph: add a weight or a node, replace a node, drop what nothing uses."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from converters.passes.matching import Array


def names_of(model: ir.Model) -> Counter[str | None]:
    """Return the names of all values of all graphs of a model, and how many values have each."""
    taken = Counter[str | None]()
    for graph in model.graphs():
        taken.update(value.name for value in graph.inputs)
        taken.update(name for name in graph.initializers)
        taken.update(value.name for node in graph for value in node.outputs)
    return taken


def fresh_name(model: ir.Model, wanted: str, taken: Counter[str | None] | None = None) -> str:
    """Return `wanted`, or `wanted_1`, `wanted_2`, ... where a value of any graph of the model has that name already.

    `taken` is `names_of` the model, for who asks often and keeps count.
    """
    taken = names_of(model) if taken is None else taken
    unique, number = wanted, 0
    while taken[unique] > 0:
        number += 1
        unique = f"{wanted}_{number}"
    return unique


def add_initializer(
    model: ir.Model, name: str, weight: Array | ir.TensorProtocol, taken: Counter[str | None] | None = None
) -> ir.Value:
    """Add a weight to the main graph, under `name` where that is free; `taken` is that of `fresh_name`."""
    tensor = weight if isinstance(weight, ir.TensorProtocol) else ir.tensor(np.array(weight, order="C"))
    unique = fresh_name(model, name, taken)
    if tensor.name != unique:
        tensor.name = unique
    value = ir.Value(
        name=unique, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    model.graph.register_initializer(value)
    return value


def add_node(
    model: ir.Model,
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, float | int | str | Sequence[int]] | None = None,
    like: ir.Value | None = None,
) -> ir.Value:
    """Insert a node in front of another one and return its only output, typed and shaped as `like`."""
    name = fresh_name(model, f"{before.outputs[0].name}_{op_type}")
    node = ir.node(op_type, inputs, attributes=attributes, name=name)
    node.outputs[0].name = name
    assert before.graph is not None
    before.graph.insert_before(before, node)
    if like is not None:
        node.outputs[0].type = like.type
        node.outputs[0].shape = None if like.shape is None else like.shape.copy()
    return node.outputs[0]


def can_stand_for(value: ir.Value, old: ir.Value) -> bool:
    """Whether `value` may replace `old` without losing a name of a graph's interface."""
    if not old.is_graph_output():
        return True
    made = value.producer()
    return made is not None and made.graph is old.graph and not value.is_graph_output()


def replace_output(node: ir.Node, value: ir.Value) -> None:
    """Let `value` stand where the only output of `node` stood; drop the node and what only fed it.

    A graph output keeps its name: `value` takes it over.
    """
    old = node.outputs[0]
    name, was_output = old.name, old.is_graph_output()
    value.shape = value.shape or (None if old.shape is None else old.shape.copy())
    value.type = value.type or old.type
    old.replace_all_uses_with(value, replace_graph_outputs=True)
    drop_dead(node)
    if was_output:
        value.name = name


def drop_dead(node: ir.Node) -> None:
    """Remove a node that nothing uses, then the nodes and weights that only fed it."""
    waiting = [node]
    while waiting:
        dead = waiting.pop()
        if dead.graph is None or any(out.uses() or out.is_graph_output() for out in dead.outputs):
            continue
        fed_by = [value for value in dead.inputs if value is not None]
        dead.graph.remove(dead, safe=True)
        drop_unused_initializers(fed_by)
        waiting.extend(feeder for value in fed_by if (feeder := value.producer()) is not None)


def drop_unused_initializers(values: Iterable[ir.Value]) -> None:
    """Remove those of the values that are initializers without a use."""
    for value in values:
        graph = value.graph
        if graph is None or not value.is_initializer() or value.uses():
            continue
        if not (value.is_graph_output() or value.is_graph_input()) and value.name is not None:
            graph.initializers.pop(value.name, None)
