"""One digest per graph as calibration sees it: equal for graphs that compute the same values under the same names.

Which statistics are kept under it is left to `statistics_cache`.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping

import onnx_ir as ir


def graph_digest(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return the SHA-256, in hex, over the nodes, attributes, weights, functions and interface of a model.

    Node names, shapes of values and metadata stay outside: they change no value. The shape of an input counts where it
    is neither free nor the one that all samples have, as `shapes` says by input name.
    """
    digest = hashlib.sha256()
    for part in _parts(model, shapes):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _parts(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[bytes | memoryview]:
    graph = model.graph
    yield repr(sorted(graph.opset_imports.items())).encode()
    for value in graph.inputs:
        if not value.is_initializer():
            yield repr((value.name, str(value.dtype), _other_shape(value, shapes))).encode()
    yield repr([value.name for value in graph.outputs]).encode()
    for value in graph.initializers.values():
        yield from _tensor(value)
    yield from _nodes(graph)
    for function in sorted(model.functions.values(), key=lambda one: repr(one.identifier())):
        yield ir.to_proto(function).SerializeToString(deterministic=True)


def _other_shape(value: ir.Value, shapes: Mapping[str, tuple[int, ...]]) -> list[object]:
    """Return the fixed dimensions of an input that differ from the samples' own."""
    dims = [] if value.shape is None else [dim if isinstance(dim, int) else None for dim in value.shape]
    wanted = shapes.get(str(value.name), ())
    fits = len(wanted) == len(dims) and all(dim in (None, want) for dim, want in zip(dims, wanted, strict=True))
    return [] if fits else list(dims)


def _tensor(value: ir.Value) -> Iterator[bytes]:
    tensor = value.const_value
    if tensor is not None:
        yield repr((value.name, str(tensor.dtype), tuple(tensor.shape))).encode()
        if tensor.dtype == ir.DataType.STRING:
            yield ir.to_proto(tensor).SerializeToString(deterministic=True)
        else:
            yield tensor.tobytes()


def _nodes(nodes: Iterable[ir.Node]) -> Iterator[bytes]:
    for node in nodes:
        inputs = [None if value is None else value.name for value in node.inputs]
        outputs = [(value.name, str(value.dtype)) for value in node.outputs]
        yield repr((node.domain, node.op_type, node.overload, inputs, outputs)).encode()
        for name in sorted(node.attributes):
            yield ir.to_proto(node.attributes[name]).SerializeToString(deterministic=True)
