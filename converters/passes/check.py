"""The consistency check that runs after every pass.

A model that fails here was broken by a pass of ours (or came in broken): it raises, nothing is repaired.
"""

from collections import Counter

import onnx
import onnx_ir as ir

from converters.passes.skeleton import skeleton
from edgert.errors import BadInput


def check_model(model: ir.Model) -> None:
    """Check names, topological order, single assignment and every ONNX operator's signature.

    Needs no more than the small weights in one protobuf, so models above 2 GB are checked like others.
    Raises BadInput with the first fault found.
    """
    problem = _first_problem(model) or _checker_problem(model)
    if problem:
        raise BadInput(
            f"the graph is not valid: {problem}", remedy="export the model again and check it with onnx.checker"
        )


def _checker_problem(model: ir.Model) -> str | None:
    try:
        proto, _ = skeleton(model)
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        return str(error).strip()
    except (ir.serde.SerdeError, ValueError) as error:  # such as a name that is not UTF-8
        return str(_first_cause(error)).strip()
    return None


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_problem(model: ir.Model) -> str | None:
    """Find what a protobuf would hide: values used outside their scope, names given twice."""
    if not model.graph.outputs:
        return "it has no outputs"
    outputs = Counter(value.name for value in model.graph.outputs)
    twice = [name for name, count in outputs.items() if count > 1]
    if twice:
        return f"the output '{twice[0]}' is listed twice"
    return _graph_problem(model.graph, frozenset())


def _graph_problem(graph: ir.Graph, outer: frozenset[ir.Value]) -> str | None:
    names = Counter(value.name for value in {*graph.inputs, *graph.initializers.values()})
    names.update(value.name for node in graph for value in node.outputs if value.name)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        return f"the name '{twice[0]}' is given to two values"
    known = {*outer, *graph.inputs, *graph.initializers.values()}
    for node in graph:
        for value in node.inputs:
            if value is not None and value not in known:
                return f"{node.op_type} '{node.name}' uses '{value.name}', which nothing before it makes"
        for inner in _subgraphs(node):
            problem = _graph_problem(inner, frozenset(known))
            if problem:
                return problem
        known.update(node.outputs)
    missing = [value.name for value in graph.outputs if value not in known]
    return f"nothing makes the output '{missing[0]}'" if missing else None


def _subgraphs(node: ir.Node) -> list[ir.Graph]:
    graphs: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graphs.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs.extend(attribute.as_graphs())
    return graphs
