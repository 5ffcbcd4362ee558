"""ONNX files: the one source format that needs no conversion, only suspicion.

Large weights in external files are memory-mapped, never read here. What later steps decide, such as operators that a
provider does not know, is left to them.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from converters.passes.check import check_model
from converters.passes.raise_opset import OLDEST_OPSET
from converters.passes.skeleton import KEEP_BYTES
from converters.sources.child import digest_of
from converters.sources.imported import Imported, Options
from edgert.errors import BadInput, GateFailed

NEWEST_OPSET = 26
"""The newest opset of onnxruntime 1.31, which refuses later ones and does not tell its limit before."""

NEWEST_IR_VERSION = 13
"""The newest IR version that onnxruntime 1.31 reads."""

_EXPORT = "export the model again, or download it again and compare its size"


def matches(path: Path) -> bool:
    """Return whether the file begins as ONNX does, or is called so."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(2)
    return path.suffix.lower() == ".onnx" or (start[:1] == b"\x08" and 0 < start[-1] <= 2 * NEWEST_IR_VERSION)


def load(path: Path, options: Options) -> Imported:
    """Check that the file is a whole ONNX model of operators that are known; it is used where it lies.

    Raises what `read_model` raises, and GateFailed that names the operators which ONNX Runtime does not have.
    """
    model = read_model(path)
    _check_operators(path, model)
    quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.all_nodes())
    return Imported("onnx", path, _digest(path, model), quantized=quantized)


def _digest(path: Path, model: ir.Model) -> str:
    """Return the SHA-256 of the model's file, and of its external files where it has any."""
    tensors = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    files = sorted({str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)})
    if not files:
        return digest_of(path)
    each = [digest_of(path), *(digest_of(path.parent / name) for name in files)]
    return hashlib.sha256("\n".join(each).encode()).hexdigest()


def _check_operators(path: Path, model: ir.Model) -> None:
    """Name each node whose operator is in no known operator set and is no function of the model either."""
    own = {(function.domain, function.name) for function in model.functions.values()}
    unknown = [node for node in model.graph.all_nodes() if (node.domain, node.op_type) not in own and not _known(node)]
    if unknown:
        named = "\n".join(
            f"  {_full_name(node)} at node '{node.name or node.outputs[0].name}'" for node in unknown[:20]
        )
        raise GateFailed(
            f"{path}: {len(unknown)} nodes have operators that ONNX Runtime does not know:\n{named}",
            "replace these operators before export: a custom operator's library is never loaded",
        )


def _known(node: ir.Node) -> bool:
    if node.domain in ("", "ai.onnx", "ai.onnx.ml"):
        return onnx.defs.has(node.op_type, "" if node.domain == "ai.onnx" else node.domain)
    return node.domain in ("com.microsoft", "ai.onnx.preview", "ai.onnx.preview.training", "ai.onnx.training")


def _full_name(node: ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def read_model(path: Path) -> ir.Model:
    """Read an ONNX model and check that it is whole.

    Raises BadInput for a file that is not an ONNX model or is cut off, a graph without nodes or outputs, an opset or IR
    version out of range, an input or output that is not a tensor, and external data that is missing, too short or
    outside the model's folder.
    """
    proto = _parse(path)
    _check_opset(path, proto)
    if not proto.graph.node or not proto.graph.output:
        missing = "nodes" if not proto.graph.node else "outputs"
        raise BadInput(f"{path}: the graph has no {missing}", remedy=_EXPORT)
    _check_interface(path, proto.graph)
    for tensor in _tensors(proto.graph):
        _check_tensor(path, tensor)
    model = _deserialize(path, proto)
    check_model(model)
    return model


def _parse(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise BadInput(f"{path}: no such file", remedy="give the path of an .onnx file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}", remedy="check the file's permissions") from error
    if not data:
        raise BadInput(f"{path}: the file is empty", remedy=_EXPORT)
    looks_right = data[0] == 0x08  # field 1, ir_version: every exporter writes it first
    try:
        proto = onnx.ModelProto()
        proto.ParseFromString(data)
    except DecodeError as error:
        fault = "the ONNX model is cut off or damaged" if looks_right else "this is not an ONNX model"
        raise BadInput(f"{path}: {fault}", remedy=_EXPORT) from error
    if not proto.HasField("graph"):
        fault = "the ONNX model is cut off: it holds no graph" if looks_right else "this is not an ONNX model"
        raise BadInput(f"{path}: {fault}", remedy=_EXPORT)
    return proto


def _check_opset(path: Path, proto: onnx.ModelProto) -> None:
    opsets = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    newest = min(onnx.defs.onnx_opset_version(), NEWEST_OPSET)
    if not opsets:
        raise BadInput(f"{path}: the model does not say which opset it uses", remedy=_EXPORT)
    if not OLDEST_OPSET <= max(opsets) <= newest:
        raise BadInput(
            f"{path}: opset {max(opsets)} is not supported; {OLDEST_OPSET} to {newest} are",
            remedy="export the model again with opset 17",
        )
    if proto.ir_version > NEWEST_IR_VERSION:
        raise BadInput(
            f"{path}: IR version {proto.ir_version} is not supported; the newest is {NEWEST_IR_VERSION}",
            remedy="export the model again with opset 17",
        )


def _check_interface(path: Path, graph: onnx.GraphProto) -> None:
    """Check that inputs and outputs are tensors: a sample and a golden vector hold nothing else."""
    for side, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            kind = value.type.WhichOneof("value")
            if kind not in (None, "tensor_type"):
                raise BadInput(
                    f"{path}: {side} '{value.name}' has the type {kind.removesuffix('_type')}, and not tensor",
                    remedy="export the model with plain tensors as its inputs and outputs",
                )


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of the graph: weights, constants, and those of subgraphs."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _tensors(inner)


def _check_tensor(path: Path, tensor: onnx.TensorProto) -> None:
    """Check that the tensor has as many bytes as its shape needs, in the model or in its external file."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return
    if tensor.data_type == onnx.TensorProto.UNDEFINED or any(dim < 0 for dim in tensor.dims):
        raise BadInput(f"{path}: weight '{tensor.name}' has no valid type or shape", remedy=_EXPORT)
    needed = _bytes_of(tensor)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(path, tensor, needed)
    elif tensor.HasField("raw_data") and len(tensor.raw_data) != needed:
        raise BadInput(
            f"{path}: weight '{tensor.name}' has {len(tensor.raw_data)} bytes; its shape needs {needed}",
            remedy=_EXPORT,
        )


def _bytes_of(tensor: onnx.TensorProto) -> int:
    count = 1
    for dim in tensor.dims:
        count *= dim
    return (count * ir.DataType(tensor.data_type).bitwidth + 7) // 8


def _check_external(path: Path, tensor: onnx.TensorProto, needed: int) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = _external_file(path, tensor.name, entries.get("location", ""))
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or needed)
    except ValueError as error:
        raise BadInput(
            f"{path}: weight '{tensor.name}' has an offset or length that is no number", remedy=_EXPORT
        ) from error
    if offset < 0 or length != needed:
        raise BadInput(
            f"{path}: weight '{tensor.name}' says {length} bytes at {offset}; its shape needs {needed}", remedy=_EXPORT
        )
    size = file.stat().st_size
    if offset + length > size:
        raise BadInput(
            f"{path}: external data file '{file.name}' has {size} bytes; '{tensor.name}' ends at {offset + length}",
            remedy=f"copy '{file.name}' again: it is cut off",
        )


def _external_file(path: Path, weight: str, location: str) -> Path:
    folder = path.parent.resolve()
    file = folder / location
    if not location or Path(location).is_absolute() or not file.resolve().is_relative_to(folder):
        raise BadInput(
            f"{path}: weight '{weight}' lies in '{location}', outside the model's folder",
            remedy="put the file beside the model, as a copy and not as a link, and save the model with that name",
        )
    if not file.is_file():
        raise BadInput(
            f"{path}: external data file '{location}' is missing", remedy=f"put '{location}' into {path.parent or '.'}"
        )
    if file.stat().st_nlink > 1:
        raise BadInput(
            f"{path}: external data file '{location}' has several hard links, so another program may change it",
            remedy=f"make a copy of '{location}' in its place",
        )
    return file


def _deserialize(path: Path, proto: onnx.ModelProto) -> ir.Model:
    try:
        model = ir.from_proto(proto)
    except (ir.serde.SerdeError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: the graph is not valid: {error}", remedy=_EXPORT) from error
    ir.external_data.set_base_dir(model.graph, path.parent.resolve())
    _load_small_weights(model)
    return model


def _load_small_weights(model: ir.Model) -> None:
    """Take external weights into the model where `skeleton` keeps them: the checker does not know the folder."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            small = tensor is not None and (tensor.nbytes <= KEEP_BYTES or graph is not model.graph)
            if isinstance(tensor, ir.ExternalTensor) and small:
                value.const_value = ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)
