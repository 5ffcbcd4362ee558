"""The state of a streaming TFLite model, kept in variables, as inputs and outputs: ONNX has no variables."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tf_flatbuffer
from tensorflow.lite.python import schema_py_generated as schema


def state_as_inputs(model: tf_flatbuffer.Model) -> tuple[str, ...]:
    """Make each variable of a streaming model an input, and its next value an output, where that is the same.

    It is where a variable is read before it is assigned once, and where CALL_ONCE sets it to one number everywhere.
    The names are those of the variables, the next values have '_next' after them. A model with any other use of
    variables stays as it is.
    """
    graph = model.subgraphs[0]
    variables = _variables(model, graph)
    first = _first_values(model)
    if not variables or any(one is None for one in variables.values()) or set(first) != set(variables):
        return ()
    _drop(model, graph, "CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE")
    del model.subgraphs[1:]
    model.signatureDefs = [_with_state(each, variables) for each in model.signatureDefs or ()]
    notes = []
    for name, variable in variables.items():
        assert variable is not None
        graph.inputs = np.asarray([*tf_flatbuffer.listed(graph.inputs), variable.read], np.int32)
        graph.outputs = np.asarray([*tf_flatbuffer.listed(graph.outputs), variable.assigned], np.int32)
        if not model.signatureDefs:
            graph.tensors[variable.read].name = name.encode()
            graph.tensors[variable.assigned].name = f"{name}_next".encode()
        word = tf_flatbuffer.TYPES[graph.tensors[variable.read].type].lower()
        notes.append(f"the state '{name}' starts as {word} {first[name]:g} everywhere; feed '{name}_next' back into it")
    return tuple(notes)


@dataclass(frozen=True)
class _Variable:
    """The tensor that a variable is read into, and the one that is assigned to it."""

    read: int
    assigned: int


def _variables(model: tf_flatbuffer.Model, graph: Any) -> dict[str, _Variable | None]:
    """Return variable -> its tensors, None where it is not read once and then assigned once."""
    names: dict[int, str] = {}
    steps: dict[str, list[tuple[str, int]]] = {}
    for operator in graph.operators:
        word, places = tf_flatbuffer.op_name(model, operator), tf_flatbuffer.listed(operator.inputs)
        if word == "VAR_HANDLE":
            name = _variable_name(operator)
            names[operator.outputs[0]] = name
            steps.setdefault(name, [])
        elif word == "READ_VARIABLE":
            steps.setdefault(names.get(places[0], ""), []).append(("read", operator.outputs[0]))
        elif word == "ASSIGN_VARIABLE":
            steps.setdefault(names.get(places[0], ""), []).append(("assigned", places[1]))
    return {
        name: _Variable(**dict(done)) if [word for word, _ in done] == ["read", "assigned"] else None
        for name, done in steps.items()
    }


def _variable_name(operator: Any) -> str:
    options = operator.builtinOptions
    return "_".join(
        part for part in (tf_flatbuffer.text(options.container), tf_flatbuffer.text(options.sharedName)) if part
    ).replace("/", "_")


def _first_values(model: tf_flatbuffer.Model) -> dict[str, float]:
    """Return variable -> the one number that a CALL_ONCE subgraph fills it with."""
    found: dict[str, float] = {}
    for graph in model.subgraphs[1:]:
        names: dict[int, str] = {}
        for operator in graph.operators:
            word, places = tf_flatbuffer.op_name(model, operator), tf_flatbuffer.listed(operator.inputs)
            if word == "VAR_HANDLE":
                names[operator.outputs[0]] = _variable_name(operator)
            elif word == "ASSIGN_VARIABLE" and tf_flatbuffer.is_constant(model, graph.tensors[places[1]]):
                values = np.unique(tf_flatbuffer.stored_values(model, graph.tensors[places[1]]))
                if len(values) == 1:
                    found[names[places[0]]] = float(values[0])
            else:
                return {}
    return found


def _drop(model: tf_flatbuffer.Model, graph: Any, *words: str) -> None:
    graph.operators = [operator for operator in graph.operators if tf_flatbuffer.op_name(model, operator) not in words]


def _with_state(signature: Any, variables: Mapping[str, _Variable | None]) -> Any:
    """Add the variables to a signature, which names the inputs and outputs."""
    for name, variable in variables.items():
        assert variable is not None
        for side, word, place in (("inputs", name, variable.read), ("outputs", f"{name}_next", variable.assigned)):
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = word.encode(), place
            setattr(signature, side, [*(getattr(signature, side) or ()), entry])
    return signature
