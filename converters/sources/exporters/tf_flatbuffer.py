"""Rewrite a TFLite model, as the objects of its schema, into one that tf2onnx converts as it is meant.

What tf2onnx does not know, or takes for something else, is said in other words of the same schema first: sparse and
half-precision constants, weights of dynamic-range models, missing zero points, equal names. State: `tf_streaming`.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from protocol import Failed
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

Model = Any
"""A `schema.ModelT`: subgraphs of tensors and operators, buffers, operator codes, signatures."""

MAX_NAME = 80
_SPARSE = 1


def _words(table: type) -> Mapping[int, str]:
    return {value: word for word, value in vars(table).items() if not word.startswith("_")}


OPERATORS = _words(schema.BuiltinOperator)
TYPES = _words(schema.TensorType)
DTYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.UINT8: np.uint8,
    schema.TensorType.INT16: np.int16,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.INT64: np.int64,
    schema.TensorType.BOOL: np.bool_,
}
QUANTIZED = (schema.TensorType.INT8, schema.TensorType.UINT8, schema.TensorType.INT16)


@dataclass(frozen=True)
class Operator:
    """One operator for a message: its name, its place in the graph, and the tensor that it makes, or else takes."""

    name: str
    index: int
    tensor: str

    def __str__(self) -> str:
        return f"{self.name} at operator {self.index}" + (f" ('{self.tensor}')" if self.tensor else "")


def read(path: Path) -> Model:
    """Return the model at `path`; Failed where it does not hold together.

    This comes before LiteRT, which reads where a damaged offset points (tensorflow 2.21: a cut file is a segmentation
    fault). Python's reader keeps within the bytes there are, and reads all that the schema knows.
    """
    try:
        model = flatbuffer_utils.read_model_with_mutable_tensors(str(path))
        fault = _fault(model)
    # What the reader raises when an offset points outside; MemoryError for a length that no file has.
    except (struct.error, ValueError, IndexError, TypeError, AttributeError, OverflowError, MemoryError) as exc:
        fault = f"{type(exc).__name__}: {exc}"
    if fault:
        raise Failed(
            f"{path}: the TFLite model is cut off or damaged ({fault})"[:400],
            "export the model again, or copy it again and compare its size",
        )
    return model


def _fault(model: Model) -> str:
    """Return what points outside the model, "" where nothing does."""
    if not model.subgraphs or not model.operatorCodes:
        return "it has no graph"
    for graph in model.subgraphs:
        tensors, operators = graph.tensors or [], graph.operators or []
        for tensor in tensors:
            if not 0 <= tensor.buffer < len(model.buffers):
                return f"tensor '{text(tensor.name)}' names a buffer that is not there"
            if not _fits(model, tensor):
                return f"tensor '{text(tensor.name)}' has not as many bytes as its shape needs"
        ends = [*listed(graph.inputs), *listed(graph.outputs)]
        places = [place for each in operators for place in (*listed(each.inputs), *listed(each.outputs))]
        if any(not -1 <= place < len(tensors) for place in (*ends, *places)) or -1 in ends:
            return f"graph '{text(graph.name)}' names a tensor that is not there"
        if any(not 0 <= each.opcodeIndex < len(model.operatorCodes) for each in operators):
            return f"graph '{text(graph.name)}' names an operator that is not there"
    return ""


def _fits(model: Model, tensor: Any) -> bool:
    """Return whether a constant's buffer is as long as its shape says; sparse ones and rare types are not judged."""
    if tensor.type not in DTYPES or tensor.sparsity is not None or not is_constant(model, tensor):
        return True
    items = np.prod([int(size) for size in listed(tensor.shape)], dtype=np.int64)
    return len(model.buffers[tensor.buffer].data) == items * np.dtype(DTYPES[tensor.type]).itemsize


def write(model: Model, path: Path) -> None:
    """Write the model as a `.tflite` file."""
    path.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def op_name(model: Model, operator: Any) -> str:
    """Return the word of the schema for an operator, or the name of a custom one."""
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema.BuiltinOperator.CUSTOM:
        return str((code.customCode or b"?").decode(errors="replace"))
    return OPERATORS.get(number, f"BUILTIN_{number}")


def operators(model: Model) -> Iterator[Operator]:
    """Yield every operator of every subgraph, the main one first."""
    for graph in model.subgraphs:
        for index, operator in enumerate(graph.operators):
            places = [place for place in (*listed(operator.outputs), *listed(operator.inputs)) if place >= 0]
            tensor = text(graph.tensors[places[0]].name) if places else ""
            yield Operator(op_name(model, operator), index, tensor)


def is_quantized(model: Model) -> bool:
    """Return whether values, and not only weights, are integers that stand for real numbers."""
    return any(
        tensor.type in QUANTIZED and _has_scale(tensor) and not is_constant(model, tensor)
        for graph in model.subgraphs
        for tensor in graph.tensors
    )


def integer_types(model: Model) -> set[str]:
    """Return the schema's words for the types of all quantized tensors."""
    return {
        TYPES.get(tensor.type, str(tensor.type))
        for graph in model.subgraphs
        for tensor in graph.tensors
        if _has_scale(tensor)
    }


def prepare(model: Model) -> tuple[str, ...]:
    """Rewrite the model in place; returns what the user should know of it."""
    _fold_constants(model)
    notes = real_weights(model)
    _narrow_biases(model)
    for graph in model.subgraphs:
        _flatten_before_fully_connected(model, graph)
    _name_tensors(model)
    return notes


# names


def _name_tensors(model: Model) -> None:
    """Give each tensor a short name of its own, and inputs and outputs those of the signature.

    The converter joins the names of all nodes that it fused with ';'; the first is that of the last of them.
    """
    for number, graph in enumerate(model.subgraphs):
        taken: set[str] = set()
        names = _signature_names(model) if number == 0 else {}
        ends = [*listed(graph.inputs), *listed(graph.outputs)]
        for place in [*ends, *(p for p in range(len(graph.tensors)) if p not in set(ends))]:
            wanted = names.get(place) or clean_name(text(graph.tensors[place].name)) or f"tensor_{place}"
            if graph.tensors[place].name is not None and place in names and text(graph.tensors[place].name) in taken:
                continue  # both an input and an output: it has its name
            if not (place in ends and text(graph.tensors[place].name) in taken and ends.count(place) > 1):
                graph.tensors[place].name = _unused(wanted, taken).encode()


def clean_name(name: str) -> str:
    """Return a tensor's name without what TensorFlow adds to it.

    'serving_default_image:0' becomes 'image', 'StatefulPartitionedCall:1' 'StatefulPartitionedCall_1', and of nodes
    joined with ';' the first remains.
    """
    first = name.split(";")[0].removeprefix("serving_default_").strip()
    stem, colon, number = first.rpartition(":")
    if colon and number.isdigit():
        first = stem if number == "0" else f"{stem}_{number}"
    return first[-MAX_NAME:]


def _unused(wanted: str, taken: set[str]) -> str:
    name, count = wanted, 0
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    taken.add(name)
    return name


def _signature_names(model: Model) -> dict[int, str]:
    """Return place of a tensor -> its name in the one signature of the main graph; empty without one."""
    signatures = [each for each in model.signatureDefs or () if (each.subgraphIndex or 0) == 0]
    if len(signatures) != 1:
        return {}
    maps = [*(signatures[0].inputs or ()), *(signatures[0].outputs or ())]
    names = {entry.tensorIndex: text(entry.name) for entry in maps}
    return names if len(set(names.values())) == len(names) else {}


# constants


def _fold_constants(model: Model) -> None:
    """Compute DENSIFY and DEQUANTIZE of half-precision constants: float32 constants take their place."""
    for graph in model.subgraphs:
        kept = []
        for operator in graph.operators:
            name, places = op_name(model, operator), listed(operator.inputs)
            source = graph.tensors[places[0]] if places else None
            if source is None or not is_constant(model, source) or name not in ("DENSIFY", "DEQUANTIZE"):
                kept.append(operator)
                continue
            if name == "DEQUANTIZE" and source.type not in (schema.TensorType.FLOAT16, schema.TensorType.FLOAT32):
                kept.append(operator)
                continue
            values = (
                densify(source, stored_values(model, source)) if source.sparsity is not None else _dense(model, source)
            )
            _make_constant(model, graph.tensors[operator.outputs[0]], values)
        graph.operators = kept
        used = {int(place) for operator in kept for place in listed(operator.inputs)} | set(listed(graph.outputs))
        for place, tensor in enumerate(graph.tensors):
            if place not in used:
                tensor.buffer = 0  # tf2onnx would decode it all the same


def densify(tensor: Any, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the dense array of a sparse tensor's stored `values`, as its SparsityParameters lay them out.

    Each level of the traversal is dense (every index) or compressed (indices between two segments); levels beyond the
    rank are the blocks of a dimension. Source: the comment on SparsityParameters in TFLite's schema.fbs.
    """
    sparsity, shape = tensor.sparsity, [int(size) for size in tensor.shape]
    levels, rank = sparsity.dimMetadata, len(shape)
    columns: list[np.ndarray[Any, Any]] = []
    nodes = 1
    for level in levels:
        if level.format == _SPARSE:
            segments, indices = np.asarray(level.arraySegments.values), np.asarray(level.arrayIndices.values)
            counts, found = np.diff(segments), indices
            if len(counts) != nodes or segments[-1] != len(indices):
                raise _damaged(tensor)
        else:
            counts, found = np.full(nodes, level.denseSize), np.tile(np.arange(level.denseSize), nodes)
        columns = [np.repeat(column, counts) for column in columns] + [found]
        nodes = len(found)
    if len(values) < nodes:
        raise _damaged(tensor)
    order, blocks = list(sparsity.traversalOrder), listed(sparsity.blockMap)
    place: list[np.ndarray[Any, Any]] = [np.zeros(nodes, np.int64)] * rank
    for axis, column in sorted(zip(order, columns, strict=True), key=lambda pair: int(pair[0])):
        if axis < rank:
            place[axis] = column
        else:
            size = levels[order.index(axis)].denseSize
            place[blocks[axis - rank]] = place[blocks[axis - rank]] * size + column
    dense = np.zeros(shape, values.dtype)
    if any(len(column) and column.max() >= size for column, size in zip(place, shape, strict=True)):
        raise _damaged(tensor)
    dense[tuple(place)] = values[:nodes]
    return dense


def _damaged(tensor: Any) -> Failed:
    return Failed(
        f"the sparse tensor '{text(tensor.name)}' does not fit its own index", "download or export the model again"
    )


def real_weights(model: Model) -> tuple[str, ...]:
    """Turn the integer weights of a dynamic-range model into the real numbers they stand for; notes what it did."""
    if is_quantized(model):
        return ()
    _fill_zero_points(model)
    found = _as_real(model, QUANTIZED)
    for graph in model.subgraphs:
        for operator in graph.operators:
            if hasattr(operator.builtinOptions, "asymmetricQuantizeInputs"):
                operator.builtinOptions.asymmetricQuantizeInputs = False
    if not found:
        return ()
    note = (
        f"{found} weights are 8-bit with float activations (dynamic range); they come in as the real numbers they "
        "stand for, and each profile quantizes as it needs"
    )
    return (note,)


def _as_real(model: Model, types: Sequence[int]) -> int:
    """Turn quantized constants of `types` into float32 ones, and return how many there were."""
    found = 0
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if tensor.type in types and _has_scale(tensor) and is_constant(model, tensor):
                stored = _dense(model, tensor).astype(np.float64)
                scale, zero = (_along(tensor, part, stored.ndim) for part in ("scale", "zeroPoint"))
                _make_constant(model, tensor, (stored - zero) * scale)
                found += 1
    return found


def _narrow_biases(model: Model) -> None:
    """Store the 64-bit biases that 16-bit activations have in 32 bits, or as real numbers where they need more."""
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if tensor.type != schema.TensorType.INT64 or not _has_scale(tensor) or not is_constant(model, tensor):
                continue
            values = _dense(model, tensor)
            if np.abs(values).max(initial=0) < np.iinfo(np.int32).max:
                tensor.buffer = _add_buffer(model, values.astype(np.int32))
                tensor.type = schema.TensorType.INT32
    _as_real(model, (schema.TensorType.INT64,))


def _along(tensor: Any, part: str, ndim: int) -> np.ndarray[Any, Any]:
    values = np.asarray(getattr(tensor.quantization, part), np.float64)
    if values.size == 1:
        return values.reshape(())
    shape = [1] * ndim
    shape[tensor.quantization.quantizedDimension] = values.size
    return values.reshape(shape)


def _fill_zero_points(model: Model) -> None:
    """Write the zeros that a model may leave out: without them tf2onnx takes the tensor for plain integers."""
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if _has_scale(tensor) and not len(listed(tensor.quantization.zeroPoint)):
                tensor.quantization.zeroPoint = np.zeros(len(tensor.quantization.scale), np.int64)


def _make_constant(model: Model, tensor: Any, values: np.ndarray[Any, Any]) -> None:
    tensor.buffer, tensor.type = _add_buffer(model, values.astype(np.float32)), schema.TensorType.FLOAT32
    tensor.quantization, tensor.sparsity = None, None


def _add_buffer(model: Model, values: np.ndarray[Any, Any]) -> int:
    """Add a buffer to the model and return its place."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def is_constant(model: Model, tensor: Any) -> bool:
    """Return whether the tensor has values of its own."""
    data = model.buffers[tensor.buffer].data if tensor.buffer else None
    return data is not None and len(data) > 0


def stored_values(model: Model, tensor: Any) -> np.ndarray[Any, Any]:
    """Return the stored values, flat."""
    if tensor.type not in DTYPES:
        raise Failed(
            f"the constant '{text(tensor.name)}' has the type {TYPES.get(tensor.type, tensor.type)}",
            "export the model with 8-bit, 16-bit or 32-bit weights",
            "GateFailed",
        )
    data = np.asarray(model.buffers[tensor.buffer].data, np.uint8).tobytes()
    return np.frombuffer(data, DTYPES[tensor.type])


def _dense(model: Model, tensor: Any) -> np.ndarray[Any, Any]:
    return stored_values(model, tensor).reshape([int(size) for size in listed(tensor.shape)])


def _has_scale(tensor: Any) -> bool:
    return tensor.quantization is not None and len(listed(tensor.quantization.scale)) > 0


# operators


def _flatten_before_fully_connected(model: Model, graph: Any) -> None:
    """Put a RESHAPE before FULLY_CONNECTED on more than two dimensions; tf2onnx 1.17 would lose the bias there."""
    rewritten = []
    for operator in graph.operators:
        if op_name(model, operator) == "FULLY_CONNECTED" and not operator.builtinOptions.keepNumDims:
            source = graph.tensors[operator.inputs[0]]
            if len(listed(source.shape)) != 2:
                rewritten.append(_reshape(model, graph, operator))
        rewritten.append(operator)
    graph.operators = rewritten


def _reshape(model: Model, graph: Any, operator: Any) -> Any:
    """Return a RESHAPE of the first input to [-1, width of the weights], and let `operator` read it."""
    source, width = graph.tensors[operator.inputs[0]], int(graph.tensors[operator.inputs[1]].shape[1])
    rows = int(np.prod([int(size) for size in source.shape])) // width
    shape, flat = schema.TensorT(), schema.TensorT()
    shape.name, shape.shape = text(source.name).encode() + b"_shape", np.asarray([2], np.int32)
    shape.type, shape.buffer = schema.TensorType.INT32, _add_buffer(model, np.asarray([-1, width], np.int32))
    flat.name, flat.shape, flat.type = text(source.name).encode() + b"_flat", np.asarray([rows, width]), source.type
    flat.shapeSignature = np.asarray([-1, width], np.int32)
    flat.quantization, flat.buffer = source.quantization, 0
    graph.tensors += [shape, flat]
    reshape = schema.OperatorT()
    reshape.opcodeIndex = _opcode(model, schema.BuiltinOperator.RESHAPE)
    reshape.inputs = np.asarray([operator.inputs[0], len(graph.tensors) - 2], np.int32)
    reshape.outputs = np.asarray([len(graph.tensors) - 1], np.int32)
    operator.inputs = np.asarray([len(graph.tensors) - 1, *operator.inputs[1:]], np.int32)
    return reshape


def _opcode(model: Model, number: int) -> int:
    for place, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == number:
            return place
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def listed(values: Any) -> list[int]:
    """Return a vector of the schema as a list; one that is not there is empty."""
    return [] if values is None else list(values)


def text(name: Any) -> str:
    """Return a name of the schema, which the reader leaves as bytes."""
    return str(name.decode(errors="replace")) if isinstance(name, bytes) else str(name or "")
