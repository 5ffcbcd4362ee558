"""What differs between two ONNX files: operators, tensors, and how tensors are encoded as integers."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

Encoding = tuple[str, bytes, bytes, int]
"""The integer type, scales, zero points and axis of one tensor."""


def compare_graphs(a: Path, b: Path) -> dict[str, object]:
    """Return the numbers of nodes, the op types whose count differs, and how many encodings and tensors differ."""
    left, right = ir.load(a), ir.load(b)
    counts = [op_types(model) for model in (left, right)]
    kinds = sorted(kind for kind in counts[0] | counts[1] if counts[0][kind] != counts[1][kind])
    return {
        "nodes": {"a": counts[0].total(), "b": counts[1].total()},
        "op_types": [{"op_type": kind, "a": counts[0][kind], "b": counts[1][kind]} for kind in kinds],
        "encodings": _compared(encodings(left), encodings(right)),
        "tensors": _compared(tensors(left), tensors(right)),
    }


def op_types(model: ir.Model) -> Counter[str]:
    """Count the nodes by op type, those of subgraphs among them; an op type of another domain has it in front."""
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    return Counter(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in nodes)


def encodings(model: ir.Model) -> dict[str, Encoding]:
    """Return tensor name -> how Q/DQ nodes encode it; of a weight, the name of the initializer."""
    found: dict[str, Encoding] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        value = node.inputs[0] if node.inputs else None
        is_weight = node.op_type == "DequantizeLinear" and value is not None and value.const_value is not None
        if value is not None and (node.op_type == "QuantizeLinear" or is_weight):
            found[str(value.name)] = _encoding(node)
    return found


def _encoding(node: ir.Node) -> Encoding:
    scale, zero_point = (_array(node.inputs[index] if len(node.inputs) > index else None) for index in (1, 2))
    kind = node.inputs[0] if node.op_type == "DequantizeLinear" else node.outputs[0]
    axis = node.attributes.get("axis")
    name = zero_point.dtype.name if zero_point is not None else str(kind.dtype if kind is not None else None)
    return name, _bytes(scale), _bytes(zero_point), axis.as_int() if axis is not None else 1


def tensors(model: ir.Model) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return initializer name -> its type, shape and bytes; those of external data are mapped, not read."""
    found = {}
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            tensor = value.const_value
            found[name] = (tensor.dtype.name, tuple(tensor.shape.numpy()), tensor.tobytes())
    return found


def _array(value: ir.Value | None) -> np.ndarray | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _bytes(array: np.ndarray | None) -> bytes:
    return b"" if array is None else array.tobytes()


def _compared(a: Mapping[str, object], b: Mapping[str, object]) -> dict[str, int]:
    return {
        "same": sum(a[name] == b[name] for name in a.keys() & b.keys()),
        "differ": sum(a[name] != b[name] for name in a.keys() & b.keys()),
        "only_a": len(a.keys() - b.keys()),
        "only_b": len(b.keys() - a.keys()),
    }
